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
LINE = re.compile(r"\| (?P<part>[^|]+) \| (?P<ms>[\d.,]+) \| (?P<images>[\d.,]+) \|")
"""A row of the script's table: milliseconds of a batch, and images per second."""


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
    """What a line of the table says."""
    found = LINE.match(line)
    if found is None:
        return None
    ms, images = (float(found[name].replace(",", "")) for name in ("ms", "images"))
    return {"part": found["part"].strip(), "ms": ms, "images_per_second": images}


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
