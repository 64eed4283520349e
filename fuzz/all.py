"""Feeds every target in turn: `python -m fuzz.all MINUTES`, in all. Prints a table; fails where there was a finding."""

import re
import subprocess
import sys
import time
from pathlib import Path

from fuzz.targets import TARGETS

KEPT = Path("target/fuzz")
FINDINGS = KEPT / "findings"
MOST_FINDINGS = 5
"""Of a target; it then waits for somebody to look at them."""


def main() -> None:
    """Runs them all."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    before, clean = set(FINDINGS.iterdir()), True
    print("| target | inputs tried | findings |\n|---|---|---|", flush=True)
    for name in TARGETS:
        tried, ends = _feed(name, 60 * float(sys.argv[1]) / len(TARGETS))
        found = sorted(each.name for each in set(FINDINGS.glob(f"{name}-*")) - before) + ends
        print(f"| {name} | {tried:,} | {', '.join(found) or 'none'} |", flush=True)
        clean = clean and not found
    if not clean:
        raise SystemExit(f"findings are in {FINDINGS}; to see one: `python -m fuzz.run TARGET 0 FINDING`")


def _feed(name: str, seconds: float) -> tuple[int, list[str]]:
    """Runs a target for some time, anew after each finding.

    Returns:
        How many inputs it tried; for each run that left no finding but ended all the same, what it ended with.
    """
    end, tried, ends = time.monotonic() + seconds, 0, []
    with (KEPT / f"{name}.log").open("w", encoding="utf-8") as log:
        for _ in range(MOST_FINDINGS):
            left = round(end - time.monotonic())
            if left <= 0:
                break
            command = [sys.executable, "-m", "fuzz.run", name, str(left)]
            run = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
            log.write(run.stderr)
            if "INFO: Seed: " not in run.stderr:
                raise SystemExit(f"{name} did not run: see {log.name}")
            # In the statistics at the end, or, of a run that did not come to them, before its last line.
            counted = re.findall(r"^(?:stat::number_of_executed_units: |#)(\d+)", run.stderr, re.MULTILINE)
            tried += int(counted[-1]) if counted else 0
            if run.returncode and "Test unit written to" not in run.stderr:
                ends.append(f"ended with {run.returncode}: see {log.name}")
    return tried, ends


if __name__ == "__main__":
    main()
