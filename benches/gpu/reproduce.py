"""Step: `python -m gpu.reproduce [DATA]`: `hex-ssl reproduce cifar100 --scale gpu`, for as long as there is time.

DATA is the folder with CIFAR-100. A finished run is written as a result at once, the last metrics of all at the end.
Runs that an earlier call finished are not run again: those in `runs/gpu/reproduce`, or else those in the results of
earlier calls in the checkout.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gpu.records import BENCHES, REHEARSAL, ROOT, Record, emit, left, of, read

KEPT = ROOT / "runs" / "gpu" / "reproduce"
"""Another call on the same machine goes on here."""
FINISHED = "results.jsonl"
"""In this folder, a line for each finished run."""
MARGIN, LAST = 15.0, 3.0
"""Seconds for an interrupted run to end, which one that compiles may not do, and seconds for what is written then."""
REST = 45.0
"""Seconds for the start, and for an evaluation that is in progress at the time limit."""
PROGRAM = """
import sys
from hex_ssl.train.reproduce.command import prepare, reproduce
from hex_ssl.train.reproduce.settings import ReproduceConfig
scale, out, minutes, *data = sys.argv[1:]
asked = ReproduceConfig("cifar100", scale, *data, out=out, minutes=float(minutes))
sys.exit(reproduce(prepare(asked), asked))
"""
"""The command `hex-ssl reproduce`, but for its parser: the machine may not have jsonargparse."""


def take_over(earlier: Path, folder: Path) -> None:
    """Writes the finished runs of earlier calls to the folder, unless it has some.

    Args:
        earlier: Folder with the results of calls, DEVICE/CALL/results.jsonl.
        folder: Folder of the experiment.
    """
    calls = sorted(earlier.glob("gpu-*/*/results.jsonl"))
    found = [run["content"] for call in calls for run in of(read(call), "run", file=FINISHED)]
    if found and not (folder / FINISHED).exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FINISHED).write_text("".join(json.dumps(run) + "\n" for run in found))


class Runs:
    """What the runs in a folder left."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.written = folder, 0

    def write_finished(self) -> None:
        """Those that have been finished since the last time, whole."""
        path = self.folder / FINISHED
        found = read(path)[self.written :]
        self.written += len(found)
        self._write(path, found)

    def write_metrics(self) -> None:
        """The last line of metrics of all."""
        for path in sorted(self.folder.rglob("*.jsonl")):
            if path.name != FINISHED:
                self._write(path, read(path)[-1:])

    def _write(self, path: Path, found: list[Record]) -> None:
        for content in found:
            emit("run", file=str(path.relative_to(self.folder)), content=content)


def wait(process: "subprocess.Popen[bytes]", each_second: Callable[[], None]) -> None:
    """Until it ends: interrupted as by Ctrl-C when time runs out, and killed if it has not ended then."""
    interrupted = False
    while process.poll() is None:
        if left() < LAST:
            process.kill()
        elif left() < MARGIN and not interrupted:
            process.send_signal(signal.SIGINT)
            interrupted = True
        each_second()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)


def train(scale: str, folder: Path, minutes: float, *data: str) -> None:
    """The experiment until the time limit."""
    runs = Runs(folder)
    command = [sys.executable, "-c", PROGRAM, scale, str(folder), str(minutes), *data]
    with tempfile.TemporaryFile("w+") as output:
        environment = os.environ | {"HEX_SSL_BACKEND": "auto"}
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        wait(process, runs.write_finished)
        output.seek(0)
        said = output.read()
    print(said)
    last = said.strip().splitlines()[-1:]
    emit("note", text=f"hex-ssl reproduce cifar100 --scale {scale}: exit {process.returncode}: {' '.join(last)[:300]}")
    runs.write_finished()
    runs.write_metrics()


if __name__ == "__main__":
    if REHEARSAL:
        with tempfile.TemporaryDirectory() as folder:
            train("smoke", Path(folder), 0.0)
    else:
        take_over(BENCHES / "results", KEPT)
        train("gpu", KEPT, max(0.0, left() - REST - MARGIN) / 60, *sys.argv[1:])
