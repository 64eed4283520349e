"""Step: `python -m gpu.speed VARIANT`: a prebuilt variant beside the shipped kernels, in turns.

`python -m gpu.speed winner`: what bounds the best variant, by ncu's counters.
"""

import os
import statistics
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import torch

from gpu import counters, records
from gpu.agreement import agrees, errors
from gpu.extension import INSTEAD, load, used
from gpu.records import REHEARSAL, emit, left
from gpu.variants import EXTENSION, VARIANTS, VARIANTS_FOLDER, Variant, problem
from gpu.workload import calls_of, clear, hex_loss, kernel_times, sample, step, views
from hex_ssl import _core
from tests.gpu import on_device

TURNS = 12 if not REHEARSAL else 3
PREPARED = "GPU_CHECK_PREPARED"
"""Variable with the folder that was prepared."""


def extension(variant: Variant) -> Path:
    """The file of one that has changes."""
    return Path(os.environ[PREPARED]) / VARIANTS_FOLDER / variant.name / EXTENSION


def core(variant: Variant) -> ModuleType:
    """Its extension: its own, or the installed one, which its environment tells what to do."""
    return load(extension(variant)) if variant.changes else _core


def measure(variant: Variant, rows: int) -> dict[str, object]:
    """Whether it agrees with the shipped kernels, times in turns, and by kernel."""
    # Both are watched, which costs the host some microseconds.
    beside = variant.environment if variant.changes else {}
    with_shipped, with_variant = partial(used, _core, beside), partial(used, core(variant), variant.environment)
    inputs = views(rows)
    z = torch.cat([each.detach() for each in inputs])
    with with_shipped():
        shipped = on_device.step(z)
    with with_variant():
        found = on_device.step(z)
    off = errors(found, shipped)
    run = partial(step, hex_loss(), *inputs)
    with with_variant():
        calls = calls_of(run)
    calls_of(run)
    times: dict[str, list[float]] = {"shipped": [], "variant": []}
    for _ in range(TURNS):
        for name, chosen in (("shipped", with_shipped), ("variant", with_variant)):
            with chosen():
                times[name].append(sample(run, calls))
    with with_variant():
        kernels = kernel_times(run)
    with with_shipped():
        shipped_kernels = kernel_times(run)
    shipped_ms, variant_ms = (1e3 * statistics.median(times[name]) for name in ("shipped", "variant"))
    first, second = (statistics.median(times["shipped"][half::2]) for half in (0, 1))
    return {
        "agrees": agrees(off, "bfloat16") if variant.same else None,
        "errors": off if variant.same else None,
        "shipped_ms": shipped_ms,
        "ms": variant_ms,
        "ratio": variant_ms / shipped_ms,
        "noise": abs(first / second - 1),
        "kernels": kernels,
        "shipped_kernels": shipped_kernels,
    }


def winner(results: list[records.Record]) -> Variant | None:
    """The fastest at 8,192 rows of those that compute the same, if any is faster than the shipped one."""
    rows = 64 if REHEARSAL else 8192
    found = [r for r in records.of(results, "variant", rows=rows, agrees=True) if r["ratio"] < 1 or REHEARSAL]
    best = min(found, key=lambda record: record["ratio"], default=None)
    return next((each for each in VARIANTS if best and each.name == best["name"]), None)


def main(name: str) -> None:
    """One variant at its sizes, or the winner's counters."""
    if name == "winner":
        best = winner(records.read(Path(os.environ[records.RESULTS])))
        if best is None:
            emit("note", text="no variant is faster than the shipped kernels")
            return
        os.environ |= {**({INSTEAD: str(extension(best))} if best.changes else {}), **best.environment}
        counters.main("64" if REHEARSAL else "8192", variant=best.name)
        return
    variant = next(each for each in VARIANTS if each.name == name)
    reason = problem(variant, Path(os.environ[PREPARED]))
    if reason:
        emit("note", text=f"variant {name}: {reason}")
        return
    for rows in (64,) if REHEARSAL else variant.rows:
        if left() < 4:
            emit("note", text=f"variant {name} at {rows} rows: no time left")
            continue
        emit("variant", name=name, rows=rows, expected=variant.expected, **measure(variant, rows))
        clear()


if __name__ == "__main__":
    main(sys.argv[1])
