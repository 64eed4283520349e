"""The error for a loss that is not finite: in which step, and where it comes from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hex_ssl.train.data.batch import Batch

NAMED = 5
"""The most images that an error names."""


def is_finite(*tensors: Tensor) -> bool:
    """Whether all numbers are finite."""
    return all(bool(each.detach().isfinite().all()) for each in tensors)


def not_finite(loss: str, place: str, batch: Batch, embeddings: Sequence[Tensor]) -> FloatingPointError:
    """The error for a loss that is not finite.

    Args:
        loss: The value of the loss, such as "nan".
        place: The step, in words.
        batch: The step's batch, whose images are named by their rows of the training split.
        embeddings: The inputs of the loss, each [N, ...].

    Example:
        >>> views = (torch.tensor([1.0, torch.nan]), torch.ones(2))
        >>> print(not_finite("nan", "step 8", Batch(views, torch.zeros(2), torch.tensor([5, 3])), views))
        expected a finite loss, but got nan in step 8: the views of training image 3 are not finite
    """
    if rows := _rows_not_finite(batch.views, batch):
        origin = f"the views of {_images(rows)} are not finite"
    elif rows := _rows_not_finite(embeddings, batch):
        origin = f"the views are finite, but what the network makes of {_images(rows)} is not"
    else:
        origin = "views and embeddings are finite"
    return FloatingPointError(f"expected a finite loss, but got {loss} in {place}: {origin}")


def _rows_not_finite(tensors: Sequence[Tensor], batch: Batch) -> list[int]:
    indices = batch.indices.cpu()
    found = torch.zeros(len(indices), dtype=torch.bool)
    for each in tensors:
        if len(each) == len(found):
            found |= ~each.detach().isfinite().reshape(len(each), -1).all(dim=1).cpu()
    return sorted(indices[found].tolist())


def _images(rows: list[int]) -> str:
    named = ", ".join(map(str, rows[:NAMED]))
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"training image{'s' if len(rows) > 1 else ''} {named}{more}"
