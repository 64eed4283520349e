"""All4One's feature contrast, as a function and as a module."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.distributed import check_gathering, gather_batches
from hex_ssl.precision import full_precision, without_autocast
from hex_ssl.validation import check_like, check_rows

SCALE = 10.0


def feature_contrast_loss(
    z1: Tensor, z2: Tensor, momentum_z1: Tensor, momentum_z2: Tensor, *, gather_distributed: bool = False
) -> Tensor:
    """All4One's feature contrast: each dimension should correlate only with the same dimension in the other view.

    The columns of all four inputs are L2-normalised over the batch. With m1, m2 -> `momentum_z1`, `momentum_z2`::

        loss = 10 (on / 2 + off / 2)
        on   = sqrt( mean over A, B of mean_d (C_dd - 1)^2 ),    off = sqrt( mean over A, B of mean_{d != e} C_de^2 )
        A    = m1' z2,  B = m2' z1

    Args:
        z1: Projections of the first views, [n, D], float64, float32, bfloat16 or float16, D at least 2. The loss of
            16-bit types is computed in float32.
        z2: Projections of the second views, like `z1`.
        momentum_z1: The momentum encoder's projections of the first views, with L2-normalised rows, like `z1`. No
            gradient flows through them.
        momentum_z2: The momentum encoder's projections of the second views, like `momentum_z1`.
        gather_distributed: Use the images of all processes. The loss and (with DDP) its gradient then equal those of
            one process on the joined batch. solo-learn uses the images of each process separately.

    Returns:
        The loss, 0-d. It is float64 for float64 inputs, else float32.

    Raises:
        TypeError: An input is not a tensor.
        ValueError: Shapes, dtypes or devices differ, or D is 1.

    Source:
        "All4One: Symbiotic Neighbour Contrastive Learning via Self-Attention and Redundancy Reduction" (Estepa et al.
        2023, arXiv 2303.09417). The factors are those of the authors' code in solo-learn.

    Example:
        >>> z = torch.eye(3)
        >>> feature_contrast_loss(z, z, z, z), feature_contrast_loss(z, z, -z, -z)
        (tensor(0.), tensor(10.))
    """
    check_rows("z1", z1)
    for name, rows in (("z2", z2), ("momentum_z1", momentum_z1), ("momentum_z2", momentum_z2)):
        check_like(name, rows, "z1", z1, same_rows=True)
    if z1.shape[1] < 2:
        raise ValueError(f"expected `z1` to have at least 2 columns, but got {z1.shape[1]}")
    with without_autocast(z1):
        rows_of_all = full_precision(z1, z2, momentum_z1.detach(), momentum_z2.detach())
        if gather_distributed:
            rows_of_all = gather_batches(*rows_of_all)
        first, second, momentum_first, momentum_second = (F.normalize(rows, dim=0) for rows in rows_of_all)
        correlations = torch.stack([momentum_first.T @ second, momentum_second.T @ first])
        diagonals = correlations.diagonal(dim1=1, dim2=2)
        on = _root((diagonals - 1).square().mean())
        pairs = 2 * z1.shape[1] * (z1.shape[1] - 1)
        off = _root((correlations - torch.diag_embed(diagonals)).square().sum() / pairs)
        return SCALE * (on / 2 + off / 2)


class FeatureContrastLoss(nn.Module):
    """:func:`feature_contrast_loss` as a module.

    Args:
        gather_distributed: Use the images of all processes.

    Source:
        "All4One: Symbiotic Neighbour Contrastive Learning via Self-Attention and Redundancy Reduction" (Estepa et al.
        2023, arXiv 2303.09417).

    Example:
        >>> FeatureContrastLoss()(*torch.eye(3).expand(4, 3, 3))
        tensor(0.)
    """

    def __init__(self, gather_distributed: bool = False) -> None:
        super().__init__()
        check_gathering(gather_distributed)
        self.gather_distributed = gather_distributed

    def forward(self, z1: Tensor, z2: Tensor, momentum_z1: Tensor, momentum_z2: Tensor) -> Tensor:
        """The loss of the projections and momentum projections of both views, each [n, D]."""
        return feature_contrast_loss(z1, z2, momentum_z1, momentum_z2, gather_distributed=self.gather_distributed)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"gather_distributed={self.gather_distributed}"


def _root(mean_square: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0."""
    positive = mean_square > 0
    return torch.where(positive, torch.where(positive, mean_square, 1.0).sqrt(), 0.0)
