"""What a call's kernels had to do twice: the one place that knows how the extension tells."""

from collections.abc import Callable

import torch

from gpu.extension import used
from hex_ssl import _core


def missed_rows(run: Callable[[], object]) -> tuple[int | None, str]:
    """Rows that the sampled search for quantiles missed; None where the extension does not tell, with the reason."""
    return _told(run, "cuda_failed_rows_at")


def reran(run: Callable[[], object]) -> int | None:
    """Whether one pass for quantiles and sums did not suffice, 0 or 1; None where the extension does not tell."""
    return _told(run, "cuda_rerun_at")[0]


def _told(run: Callable[[], object], name: str) -> tuple[int | None, str]:
    place = getattr(_core, name, None)
    if place is None:
        return None, "this extension does not tell"
    with used(_core) as watched:
        run()
    if watched.scratch is None:
        return None, "not on a GPU"
    return int(watched.scratch[place() :][:4].view(torch.int32).item()), ""
