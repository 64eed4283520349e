"""Feeds every target in turn: `python -m fuzz.all MINUTES`, in all. Prints a table; fails where there was a finding."""

import re
import subprocess
import sys
import time
from pathlib import Path

from fuzz.targets import TARGETS

KEPT = Path("target/fuzz")
FINDINGS = KEPT / "findings"
MOST_FINDINGS = 5
"""Of a target; it then waits for somebody to look at them."""


def main() -> None:
    """Runs them all."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    before = set(FINDINGS.iterdir())
    print("| target | inputs tried | findings |\n|---|---|---|", flush=True)
    for name in TARGETS:
        tried = _feed(name, 60 * float(sys.argv[1]) / len(TARGETS))
        found = sorted(each.name for each in set(FINDINGS.glob(f"{name}-*")) - before)
        print(f"| {name} | {tried:,} | {', '.join(found) or 'none'} |", flush=True)
    if set(FINDINGS.iterdir()) - before:
        raise SystemExit(f"findings are in {FINDINGS}; to see one: `python -m fuzz.run TARGET 0 FINDING`")


def _feed(name: str, seconds: float) -> int:
    """Runs a target for some time, anew after each finding; returns how many inputs it tried."""
    end, tried = time.monotonic() + seconds, 0
    with (KEPT / f"{name}.log").open("w", encoding="utf-8") as log:
        for _ in range(MOST_FINDINGS):
            left = round(end - time.monotonic())
            if left <= 0:
                break
            command = [sys.executable, "-m", "fuzz.run", name, str(left)]
            run = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
            log.write(run.stderr)
            counted = re.findall(r"number_of_executed_units: (\d+)", run.stderr)
            if not counted:
                raise SystemExit(f"{name} did not run: see {log.name}")
            tried += int(counted[-1])
    return tried


if __name__ == "__main__":
    main()
