"""Step: `python -m gpu.reproduce [DATA]`: `hex-ssl reproduce cifar100 --scale gpu`, for as long as there is time.

DATA is the folder with CIFAR-100. What the runs left is written as results. Runs that an earlier call finished are not
run again: those in `runs/gpu/reproduce`, or else those in the results of earlier calls in the checkout.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from gpu.records import BENCHES, REHEARSAL, ROOT, emit, left, of, read

KEPT = ROOT / "runs" / "gpu" / "reproduce"
"""Another call on the same machine goes on here."""
FINISHED = "results.jsonl"
"""In this folder, a line for each finished run."""
MARGIN = 15.0
"""Seconds for an interrupted run to end."""
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


def runs(folder: Path) -> None:
    """What the runs left: finished ones whole, and the last line of metrics of all."""
    for path in sorted(folder.rglob("*.jsonl")):
        lines = path.read_text().splitlines()
        for line in lines if path.name == FINISHED else lines[-1:]:
            emit("run", file=str(path.relative_to(folder)), content=json.loads(line))


def train(scale: str, folder: Path, minutes: float, *data: str) -> None:
    """The experiment until the time limit; interrupted as by Ctrl-C where it has not ended then."""
    command = [sys.executable, "-c", PROGRAM, scale, str(folder), str(minutes), *data]
    with tempfile.TemporaryFile("w+") as output:
        environment = os.environ | {"HEX_SSL_BACKEND": "auto"}
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            process.wait(max(1.0, left() - MARGIN))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait(MARGIN)
        output.seek(0)
        said = output.read()
    print(said)
    last = said.strip().splitlines()[-1:]
    emit("note", text=f"hex-ssl reproduce cifar100 --scale {scale}: exit {process.returncode}: {' '.join(last)[:300]}")
    runs(folder)


if __name__ == "__main__":
    if REHEARSAL:
        with tempfile.TemporaryDirectory() as folder:
            train("smoke", Path(folder), 0.0)
    else:
        take_over(BENCHES / "results", KEPT)
        train("gpu", KEPT, max(0.0, left() - REST - MARGIN) / 60, *sys.argv[1:])
