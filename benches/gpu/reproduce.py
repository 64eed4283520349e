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
    """Each small JSON file of the results."""
    for path in sorted(folder.rglob("*.json")):
        if path.stat().st_size < 1 << 16:
            emit("run", file=str(path.relative_to(folder)), content=json.loads(path.read_text()))


def train(scale: str, data: str | None, folder: Path) -> None:
    """The experiment, interrupted as by Ctrl-C when time is over."""
    command = [sys.executable, "-c", "from hex_ssl.cli import main; raise SystemExit(main())", "reproduce", "cifar100"]
    command += ["--scale", scale, "--out", str(folder), *([] if data is None else ["--data", data])]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | {"HEX_SSL_BACKEND": "auto"})
    try:
        process.wait(max(1.0, left() - MARGIN))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(MARGIN)
    emit("note", text=f"reproduce cifar100 --scale {scale}: exit {process.returncode}")
    runs(folder)


def main(data: str | None) -> None:
    """Trains where there are a scale, and images."""
    if "gpu" not in scales():
        emit("note", text="this version has no `hex-ssl reproduce cifar100 --scale gpu`: nothing was trained")
    elif data is None or REHEARSAL:
        emit("note", text="no CIFAR-100 was given (--data): nothing was trained")
    else:
        with tempfile.TemporaryDirectory() as folder:
            train("gpu", data, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
