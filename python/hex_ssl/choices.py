"""The names that arguments accept, as types for the annotations of your own code.

def evaluate(reduction: hex_ssl.Reduction = "mean") -> Tensor: ...
"""

from typing import Literal

Reduction = Literal["mean", "sum", "none"]
"""The argument `reduction` of every contrastive loss."""

Formulation = Literal["importance", "official", "decoupled", "elimination"]
"""The argument `formulation` of :func:`hex_ssl.functional.hex_loss`."""

ThresholdName = Literal["adaptive", "step", "cosine", "supervised"]
"""The strategies of :mod:`hex_ssl.thresholds` that need no arguments, by name."""

Scale = Literal["cosine", "minmax"]
"""The argument `scale` of a strategy: the scale of the similarities that it compares with its value."""
