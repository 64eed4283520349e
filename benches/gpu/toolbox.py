"""NVIDIA's tools, where they are installed: found, run, and read."""

import csv
import glob
import io
import os
import shutil
import subprocess
import sys

from gpu.records import left

FOLDERS = ("/usr/local/cuda/bin", "/usr/local/cuda*/bin", "/opt/nvidia/nsight-compute/*")
TIME_OVER = 124


def find(tool: str) -> str | None:
    """Where it is: on the path, or where the toolkit puts it."""
    folders = [folder for pattern in FOLDERS for folder in sorted(glob.glob(pattern), reverse=True)]
    return shutil.which(tool) or shutil.which(tool, path=os.pathsep.join(folders))


def run(command: list[str], seconds: float, **variables: str) -> tuple[int, str]:
    """Exit status and output; `TIME_OVER` where it took longer."""
    environment = {**os.environ, **variables}
    try:
        done = subprocess.run(
            command, env=environment, text=True, errors="replace", timeout=min(seconds, left() - 2),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return TIME_OVER, said.decode(errors="replace") if isinstance(said, bytes) else said
    return done.returncode, done.stdout


def bare(*arguments: object) -> list[str]:
    """The bare script."""
    return [sys.executable, "-m", "gpu.bare", *map(str, arguments)]


def rows_of(output: str, header: str) -> list[dict[str, str]]:
    """The table in a tool's output whose first line has `header`, other lines left out."""
    lines = output.splitlines()
    start = next((at for at, line in enumerate(lines) if line.startswith(header)), None)
    if start is None:
        return []
    return list(csv.DictReader(io.StringIO("\n".join(line for line in lines[start:] if line.startswith('"')))))
