"""Step: `python -m gpu.reproduce [DATA]`: `hex-ssl reproduce cifar100 --scale gpu`, for as long as there is time.

DATA is the folder with CIFAR-100. What the runs left is written as results; the rest of them can be resumed elsewhere.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import typing
from pathlib import Path

from gpu.records import REHEARSAL, emit, left
from hex_ssl.reproduce.settings import ReproduceConfig

MARGIN = 15.0
"""Seconds for a run to write its last checkpoint."""


def scales() -> tuple[str, ...]:
    """Those of this version."""
    return typing.get_args(typing.get_type_hints(ReproduceConfig)["scale"])


def runs(folder: Path) -> None:
    """What the runs left: each small JSON file, and the last line of each file of metrics."""
    for path in sorted(folder.rglob("*.json")):
        if path.stat().st_size < 1 << 16:
            emit("run", file=str(path.relative_to(folder)), content=json.loads(path.read_text()))
    for path in sorted(folder.rglob("metrics.jsonl")):
        lines = path.read_text().splitlines()
        if lines:
            emit("run", file=str(path.relative_to(folder)), content=json.loads(lines[-1]))


def train(scale: str, folder: Path, *options: str) -> None:
    """The experiment, interrupted as by Ctrl-C when time is over."""
    command = [sys.executable, "-c", "from hex_ssl.cli import main; raise SystemExit(main())", "reproduce", "cifar100"]
    command += ["--scale", scale, "--out", str(folder), *options]
    process = subprocess.Popen(command, env=os.environ | {"HEX_SSL_BACKEND": "auto"})
    try:
        process.wait(max(1.0, left() - MARGIN))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(MARGIN)
    emit("note", text=f"hex-ssl reproduce cifar100 --scale {scale}: exit {process.returncode}")
    runs(folder)


def main(data: str | None) -> None:
    """Trains where there is such a scale; without images it is hex-ssl that says so."""
    options = [] if data is None else ["--data", data]
    with tempfile.TemporaryDirectory() as folder:
        if REHEARSAL:
            train("smoke", Path(folder), "--list")
        elif "gpu" in scales():
            train("gpu", Path(folder), *options)
        else:
            emit("note", text="this version has no `hex-ssl reproduce cifar100 --scale gpu`: nothing was trained")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
