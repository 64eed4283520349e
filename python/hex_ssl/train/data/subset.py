"""A share of the training images: seeded, and the same share of each class."""

import torch
from torch import Tensor


def stratified_rows(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Rows of a share of the images, with the same share of each class, and at least one image of each.

    Images without a label count as a class. The sizes add up to the share of all images, rounded, unless the images
    that each class has at least are more.

    Args:
        labels: int64 [N], -1 without.
        fraction: The share, in (0, 1].
        seed: Decides which images; a smaller share with the same seed lies within a larger one.

    Returns:
        int64, ascending.

    Raises:
        ValueError: `fraction` is out of its range.

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
    # Each class's images in the shuffled order, of which its first ones are taken.
    by_class = shuffled[strata[shuffled].argsort(stable=True)]
    starts = torch.bincount(strata, minlength=len(found)).cumsum(0).roll(1)
    starts[0] = 0
    taken = [by_class[start : start + size] for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
    return torch.cat(taken).sort().values


def _rounded(shares: Tensor, total: int) -> Tensor:
    """Whole numbers that add up to `total`: the largest remainders are rounded up."""
    sizes = shares.floor()
    missing = total - int(sizes.sum())
    if missing > 0:
        sizes[(shares - sizes).argsort(descending=True, stable=True)[:missing]] += 1
    return sizes.long()
