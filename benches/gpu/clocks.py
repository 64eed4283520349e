"""Clocks and power of the card throughout a call, by nvidia-smi in the background."""

import csv
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from gpu import records

FIELDS = ("timestamp", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "utilization.gpu")
MILLISECONDS = 250


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Logs to `clocks.csv` while this lasts; without nvidia-smi it says so and goes on."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        records.append(folder / "results.jsonl", {"step": "clocks", "kind": "note", "text": "no nvidia-smi here"})
        yield
        return
    command = [tool, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits", f"--loop-ms={MILLISECONDS}"]
    with (folder / "clocks.csv").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)


def read(folder: Path) -> list[tuple[float, list[float]]]:
    """Seconds since 1970, and the numbers behind the timestamp. Lines that are none are left out."""
    path = folder / "clocks.csv"
    rows = []
    for row in csv.reader(path.read_text().splitlines() if path.exists() else []):
        with suppress(ValueError):
            when, *numbers = (each.strip() for each in row)
            rows.append((datetime.strptime(when, "%Y/%m/%d %H:%M:%S.%f").timestamp(), [float(x) for x in numbers]))
    return rows


def during(rows: list[tuple[float, list[float]]], begun: float, seconds: float) -> str:
    """Median clock, and greatest power, of the moments in a step at which the card was busy."""
    busy = [numbers for when, numbers in rows if begun <= when <= begun + seconds and len(numbers) == 5 and numbers[4]]
    if not busy:
        return "-"
    return f"{statistics.median(row[0] for row in busy):.0f} MHz, {max(row[2] for row in busy):.0f} W"
