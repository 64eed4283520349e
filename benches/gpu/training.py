"""Step: `python -m gpu.training`: a ResNet-18 training step and its parts, by `benches/train.py`.

The images are generated; nothing is read from a disk.
"""

import re
import subprocess
import sys
import tempfile

from gpu.records import BENCHES, REHEARSAL, emit

SCRIPT = BENCHES / "train.py"
OPTIONS = {"--device": "cuda", "--batch": "512", "--repeats": "2", "--steps": "30"}
LINES = (
    re.compile(r"(?P<batch>\d+), \d+: (?P<part>.+) (?P<ms>[\d.]+) ms$"),
    re.compile(r"\| (?P<part>[^|]+) \| (?P<ms>[\d.,]+) \| (?P<images>[\d.,]+) \|"),
)
"""What the script prints: a contender's time in one repeat, at once; and at its end the rows of a table."""


def command(folder: str) -> list[str]:
    """The script with those of the options that it has."""
    text = SCRIPT.read_text()
    found = [sys.executable, str(SCRIPT)]
    if REHEARSAL:
        return [*found, "--quick", "--device", "cpu"]
    for name, value in {**OPTIONS, "--out": folder}.items():
        found += [name, value] if f'"{name}"' in text else []
    return found


def result(line: str) -> dict[str, object] | None:
    """What a line says: milliseconds of a batch, and images per second."""
    found = next(filter(None, (each.match(line) for each in LINES)), None)
    if found is None:
        return None
    said = {name: text.replace(",", "") for name, text in found.groupdict().items()}
    ms = float(said["ms"])
    images = float(said["images"]) if "images" in said else 1e3 * float(said["batch"]) / ms
    return {"part": said["part"].strip(), "ms": ms, "images_per_second": images}


def main() -> int:
    """The script's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command(folder), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            found = result(line)
            if found is not None:
                emit("training", **found)
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
