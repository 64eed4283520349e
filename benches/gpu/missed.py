"""How many rows the sampled search for quantiles missed in a call: the one place that knows how the extension tells."""

from torch import Tensor

from hex_ssl import _core


def missed_rows(first: Tensor, second: Tensor) -> tuple[int | None, str]:
    """Of the last call on two views; None where the extension does not tell, with the reason."""
    ask = getattr(_core, "cuda_missed_rows", None)
    if ask is None:
        return None, "this extension does not tell"
    return int(ask()), ""
