"""Runs steps, each a process with a time limit, within a budget for all."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import IO

from gpu import records
from gpu.records import BENCHES, ROOT

PATHS = (str(BENCHES), str(ROOT / "python"), str(ROOT))
"""Where the steps' modules, the package and its tests are."""
TAIL = 3000
"""Characters that are kept of what a failed step printed."""
LOGGED = 400_000
"""Bytes of what a step printed that are kept in the log: of more, the first half and the last."""
GRACE = 5.0
"""Seconds for a killed process to go; one that hangs in the driver is left behind."""


@dataclass(frozen=True)
class Step:
    """A program of a call.

    Attributes:
        name: Of its results.
        command: A module, and its arguments.
        limit: Seconds after which it is ended.
        least: It is not begun with fewer seconds left.
        environment: Variables of its own.
        together: Runs at once with its neighbours that have the same word here: what measures no time.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    least: float = 8.0
    environment: Mapping[str, str] = field(default_factory=dict)
    together: str = ""


class Runner:
    """One call.

    Args:
        folder: Where the results go: `results.jsonl`, and `log.txt` with what the steps printed.
        seconds: The budget for all steps.
        environment: Variables of every step.
        after: Called after each step, to write the table anew.
    """

    def __init__(
        self, folder: Path, seconds: float, environment: Mapping[str, str], after: Callable[[], object] = lambda: None
    ) -> None:
        self.end, self.environment, self.after = time.monotonic() + seconds, environment, after
        self.results, self.log = folder / "results.jsonl", folder / "log.txt"
        self._lock, self._running = Lock(), set[subprocess.Popen[bytes]]()

    def run(self, steps: Sequence[Step]) -> bool:
        """Runs the steps in order; whether all were done. Those that no time is left for are written down, too."""
        done: list[bool] = []
        try:
            for together, group in groupby(steps, lambda step: step.together):
                if together:
                    with ThreadPoolExecutor() as pool:
                        done += self._all(pool, list(group))
                else:
                    done += [self._run(step) for step in group]
        except KeyboardInterrupt:
            self._stop()
            raise
        return all(done)

    def _all(self, pool: ThreadPoolExecutor, steps: Sequence[Step]) -> list[bool]:
        futures = [pool.submit(self._run, step) for step in steps]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            self._stop()
            raise

    def _stop(self) -> None:
        for process in list(self._running):
            _end(process)

    def _run(self, step: Step) -> bool:
        begun, left = time.time(), self.end - time.monotonic()
        allowed = min(step.limit, left - GRACE)
        if allowed < min(step.least, step.limit):
            status, reason = "skipped", f"{max(0.0, left):.0f} seconds left"
        else:
            written = self._written(step)
            status, reason = self._process(step, allowed)
            if status == "done" and self._written(step) == written:
                status, reason = "nothing written", ""
        seconds = round(time.time() - begun, 1)
        record = {"status": status, "reason": reason, "begun": begun, "seconds": seconds, "limit": round(allowed, 1)}
        with self._lock:
            records.append(self.results, {"step": step.name, "kind": "step", **record})
            print(f"{step.name}: {status} ({seconds} s)", flush=True)
            try:
                self.after()
            except Exception:  # the results are there, and the other steps are yet to come
                traceback.print_exc()
        return status == "done"

    def _written(self, step: Step) -> int:
        return sum(record["step"] == step.name for record in records.read(self.results))

    def _process(self, step: Step, allowed: float) -> tuple[str, str]:
        """How it ended in a word, and what it said last where that was not well."""
        environment = {**os.environ, **self.environment, **step.environment}
        environment |= {
            records.RESULTS: str(self.results.resolve()),
            records.STEP: step.name,
            records.DEADLINE: str(time.time() + allowed),
            "PYTHONPATH": os.pathsep.join(filter(None, [*PATHS, os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", *step.command]
        with tempfile.TemporaryFile() as output:
            # A session of its own: its own children end with it.
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
            )
            self._running.add(process)
            try:
                code: int | None = process.wait(allowed)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
                self._running.discard(process)
                said = _printed(output)
                with self._lock, self.log.open("a") as log:
                    log.write(f"===== {step.name}\n{said}\n")
        said = said[-TAIL:]
        if code is None:
            return "time limit", said
        if code < 0:
            return signal.Signals(-code).name, said
        return ("done", "") if code == 0 else ("failed", said)


def _printed(output: IO[bytes]) -> str:
    """What a step printed, but for the middle of very much."""
    size = output.seek(0, os.SEEK_END)
    output.seek(0)
    parts = [output.read(LOGGED // 2)]
    if size > LOGGED:
        parts.append(b"\n[%d bytes are left out]\n" % (size - LOGGED))
        output.seek(size - LOGGED // 2)
    parts.append(output.read())
    return b"".join(parts).decode(errors="replace").strip()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process, and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
