"""How many rows the sampled search for quantiles missed in a call: the one place that knows how the extension tells."""

from collections.abc import Callable

import torch

from gpu.extension import used
from hex_ssl import _core


def missed_rows(run: Callable[[], object]) -> tuple[int | None, str]:
    """Of a call; None where the extension does not tell, with the reason."""
    place = getattr(_core, "cuda_failed_rows_at", None)
    if place is None:
        return None, "this extension does not tell"
    with used(_core) as watched:
        run()
    if watched.scratch is None:
        return None, "not on a GPU"
    return int(watched.scratch[place() :][:4].view(torch.int32).item()), ""
