"""The results: a JSON line each, appended to one file by whoever has one. Needs no torch."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

RESULTS, STEP, DEADLINE, REHEARSE = "GPU_CHECK_RESULTS", "GPU_CHECK_STEP", "GPU_CHECK_DEADLINE", "GPU_CHECK_REHEARSE"
"""The runner's words to a step, in environment variables."""

BENCHES = Path(__file__).parents[1]
ROOT = BENCHES.parent
REHEARSAL = os.environ.get(REHEARSE) == "1"
"""Whether the CPU stands in for the GPU."""

Record = dict[str, Any]


def emit(kind: str, **found: Any) -> None:
    """Writes a result: to the file of results, or to the terminal where a step is run by hand."""
    record = {"step": os.environ.get(STEP, ""), "kind": kind, **found}
    path = os.environ.get(RESULTS)
    if path is None:
        print(json.dumps(record), flush=True)
    else:
        append(Path(path), record)


def append(path: Path, record: Record) -> None:
    """Adds a line in one write: what a process wrote before it died is whole. Paths are those in the checkout."""
    line = (json.dumps(record).replace(str(ROOT), ".") + "\n").encode()
    with path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        is_whole = file.read(1) in (b"", b"\n")  # else a process died while it wrote
        file.write(line if is_whole else b"\n" + line)


def read(path: Path) -> list[Record]:
    """All results so far, but for a line that is not whole: its process was killed meanwhile, or is writing it now."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def of(results: list[Record], kind: str, **wanted: Any) -> Iterator[Record]:
    """Those of a kind with these values."""
    for record in results:
        if record["kind"] == kind and wanted.items() <= record.items():
            yield record


def left() -> float:
    """Seconds until the runner ends this step."""
    return float(os.environ.get(DEADLINE, "inf")) - time.time()
