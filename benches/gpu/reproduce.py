"""Step: `python -m gpu.reproduce [DATA]`: `hex-ssl reproduce cifar100 --scale gpu`, for as long as there is time.

DATA is the folder with CIFAR-100. What the runs left is written as results.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from gpu.records import REHEARSAL, ROOT, emit, left

MARGIN = 15.0
"""Seconds for a run to write its last checkpoint."""


def hex_ssl_command() -> list[str]:
    """`hex-ssl`, which need not be installed."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["hex-ssl"].split(":")
    return [sys.executable, "-c", f"from {module} import {function} as main; raise SystemExit(main())"]


def runs(folder: Path) -> None:
    """What the runs left: finished ones whole, and the last line of metrics of all."""
    for path in sorted(folder.rglob("*.jsonl")):
        lines = path.read_text().splitlines()
        for line in lines if path.name == "results.jsonl" else lines[-1:]:
            emit("run", file=str(path.relative_to(folder)), content=json.loads(line))


def train(scale: str, folder: Path, *options: str) -> None:
    """The experiment, interrupted as by Ctrl-C when time is over."""
    command = [*hex_ssl_command(), "reproduce", "cifar100", "--scale", scale, "--out", str(folder), *options]
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
    with tempfile.TemporaryDirectory() as folder:
        if REHEARSAL:
            train("smoke", Path(folder), "--list")
        else:
            train("gpu", Path(folder), *(["--data", sys.argv[1]] if len(sys.argv) > 1 else []))
