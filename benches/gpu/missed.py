"""What a call's kernels had to do twice: the one place that knows how the extension tells."""

from collections.abc import Callable
from typing import Any

import torch

from gpu.extension import used
from hex_ssl import _core


def missed_rows(run: Callable[[], object]) -> tuple[int | None, str]:
    """Rows that the sampled search for quantiles missed; None where the extension does not tell, with the reason."""
    return _told(run, "cuda_failed_rows_at")


def reran(run: Callable[[], object]) -> int | None:
    """Whether one pass for quantiles and sums did not suffice, 0 or 1; None where the extension does not tell."""
    return _told(run, "cuda_rerun_at")[0]


def ever(run: Callable[[], object]) -> tuple[bool, bool]:
    """Whether any evaluation of a call missed rows, and whether one pass did not suffice to any."""
    found = dict.fromkeys(("cuda_failed_rows_at", "cuda_rerun_at"), False)

    def look(scratch: Any) -> None:
        for name in found:
            found[name] = found[name] or (scratch is not None and _number(scratch, getattr(_core, name)()) > 0)

    with used(_core, after=look):
        run()
    missed, again = found.values()
    return missed, again


def _told(run: Callable[[], object], name: str) -> tuple[int | None, str]:
    place = getattr(_core, name, None)
    if place is None:
        return None, "this extension does not tell"
    with used(_core) as watched:
        run()
    if watched.scratch is None:
        return None, "not on a GPU"
    return _number(watched.scratch, place()), ""


def _number(scratch: Any, place: int) -> int:
    return int(scratch[place:][:4].view(torch.int32).item())
