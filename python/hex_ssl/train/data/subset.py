"""A random fraction of the training images, stratified by class."""

import torch
from torch import Tensor


def stratified_rows(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Rows of a fraction of the images, with the same fraction of each class and at least one image of each.

    Images without a label count as a class. The total is `fraction` * N, rounded, or more if classes need their one
    image.

    Args:
        labels: int64 [N], -1 for images without a label.
        fraction: The fraction, in (0, 1].
        seed: Seed of the choice. With the same seed, a smaller fraction is a subset of a larger one, except for single
            images of a class that rounding adds.

    Returns:
        int64, ascending.

    Raises:
        ValueError: `fraction` is out of range.

    Example:
        >>> rows = stratified_rows(torch.tensor([0] * 8 + [1] * 4), fraction=0.25, seed=0)
        >>> len(rows), int((rows < 8).sum())
        (3, 2)
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"expected `fraction` to be in (0, 1], but got {fraction}")
    if fraction == 1.0:
        return torch.arange(len(labels))
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    found, strata = labels.unique(return_inverse=True)
    shares = torch.bincount(strata, minlength=len(found)).double() * fraction
    sizes = _rounded(shares, round(len(labels) * fraction)).clamp(min=1)
    # The images of each class in shuffled order, of which the first ones are taken.
    by_class = shuffled[strata[shuffled].argsort(stable=True)]
    starts = torch.bincount(strata, minlength=len(found)).cumsum(0).roll(1)
    starts[0] = 0
    taken = [by_class[start : start + size] for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
    return torch.cat(taken).sort().values


def _rounded(shares: Tensor, total: int) -> Tensor:
    """Rounds shares to integers with the sum `total`, by the largest remainder method."""
    sizes = shares.floor()
    missing = total - int(sizes.sum())
    if missing > 0:
        sizes[(shares - sizes).argsort(descending=True, stable=True)[:missing]] += 1
    return sizes.long()
