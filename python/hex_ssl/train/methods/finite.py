"""The error for a loss that is not finite. It names the step and the images."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from hex_ssl.train.data.batch import Batch

NAMED = 5
"""Maximum number of images that an error names."""

SECONDS = 10.0
"""Seconds between two checks of the losses on a device that runs asynchronously."""


def works_ahead(device: torch.device) -> bool:
    """Whether the device runs asynchronously, so that reading a value makes the process wait for it."""
    return device.type != "cpu"


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
    origin = _origin(_largest(batch.views, batch), _largest(embeddings, batch), batch.indices)
    return FloatingPointError(f"expected a finite loss, but got {loss} in {place}: {origin}")


class LateLook:
    """Records on the device which loss was the first that is not finite, and reads the record now and then.

    Reading each loss would keep the process from queueing the next step while the device computes this one.
    """

    def __init__(self) -> None:
        self._places: list[str] = []
        self._looked_at = time.monotonic()
        self._first: tuple[Tensor, ...] | None = None

    def note(self, loss: Tensor, place: str, batch: Batch, embeddings: Sequence[Tensor]) -> None:
        """Records a step. Every `SECONDS` it also calls :meth:`look`.

        Args:
            loss: The step's loss, 0-d.
            place: The step, in words.
            batch: The step's batch.
            embeddings: The inputs of the loss, each [N, ...].

        Raises:
            FloatingPointError: See :meth:`look`.
        """
        late = time.monotonic() - self._looked_at >= SECONDS
        if late or (self._first is not None and len(self._first[-1]) != len(batch.indices)):
            self.look()
        number = torch.full((), len(self._places), device=loss.device)
        now = (loss.detach(), number, _largest(batch.views, batch), _largest(embeddings, batch), batch.indices)
        if self._first is None:
            self._first = now
        else:
            still_finite = self._first[0].isfinite()
            self._first = tuple(torch.where(still_finite, *pair) for pair in zip(now, self._first, strict=True))
        self._places.append(place)

    def look(self) -> None:
        """Checks the losses of the steps recorded since the last call, and clears the record.

        Raises:
            FloatingPointError: A loss was not finite. The message names the first such step.
        """
        first, places = self._first, self._places
        self._first, self._places, self._looked_at = None, [], time.monotonic()
        if first is None or is_finite(first[0]):
            return
        loss, number, *origin = first
        place, count = places[int(number)], len(places) - int(number)
        raise FloatingPointError(
            f"expected a finite loss, but got {loss.item()} in {place}: {_origin(*origin)}; found after "
            f"{count} step{'s' if count > 1 else ''}; the last checkpoint is from before this step"
        )


def _largest(tensors: Sequence[Tensor], batch: Batch) -> Tensor:
    """The largest absolute value of each image in each tensor, [n, N]. It is not finite if one of the values is not."""
    count = len(batch.indices)
    rows = [each.detach().reshape(count, -1) for each in tensors if len(each) == count]
    norms = [torch.linalg.vector_norm(each, torch.inf, dim=1) for each in rows if each.is_floating_point()]
    return torch.stack(norms) if norms else torch.zeros(0, count, device=batch.indices.device)


def _origin(views: Tensor, embeddings: Tensor, indices: Tensor) -> str:
    """Where the first value that is not finite comes from, by the largest values of the views and embeddings."""
    in_views, in_embeddings = (sorted(indices[~each.isfinite().all(dim=0)].tolist()) for each in (views, embeddings))
    if in_views:
        return f"the views of {_images(in_views)} are not finite"
    if in_embeddings:
        return f"the views are finite, but the embeddings of {_images(in_embeddings)} are not"
    return "the views and embeddings are finite"


def _images(rows: list[int]) -> str:
    named = ", ".join(map(str, rows[:NAMED]))
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"training image{'s' if len(rows) > 1 else ''} {named}{more}"
