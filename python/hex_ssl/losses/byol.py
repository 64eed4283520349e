"""BYOL's loss, as a function and as a module."""

from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.precision import full_precision, without_autocast
from hex_ssl.validation import check_like, check_rows


def byol_loss(p: Tensor, z: Tensor) -> Tensor:
    """BYOL's loss of one view's predictions: 2 - 2 mean_i cos(p_i, z_i).

    That is the mean squared distance of the L2-normalised rows. No gradient goes through `z`. The method adds both
    directions. Over several processes the mean of the processes' losses is that of the joined batch where their
    batches are of one size.

    Args:
        p: Predictions of one view, [n, D], float64, float32, bfloat16 or float16.
        z: The momentum encoder's projections of the other view, like `p`.

    Returns:
        The loss, 0-d, in [0, 4]; float64 for float64 inputs, else float32.

    Raises:
        TypeError: One is not a tensor.
        ValueError: Shapes, dtypes or devices differ.

    Source:
        "Bootstrap your own latent" (Grill et al. 2020, arXiv 2006.07733), equation 2.

    Example:
        >>> import torch
        >>> byol_loss(torch.eye(3), torch.eye(3)), byol_loss(torch.eye(2), torch.eye(2).flip(0))
        (tensor(0.), tensor(2.))
    """
    return 2 - 2 * mean_cosine(p, z)


class BYOLLoss(nn.Module):
    """:func:`byol_loss` as a module.

    Source:
        "Bootstrap your own latent" (Grill et al. 2020, arXiv 2006.07733), equation 2.

    Example:
        >>> import torch
        >>> BYOLLoss()(torch.eye(3), torch.eye(3))
        tensor(0.)
    """

    def forward(self, p: Tensor, z: Tensor) -> Tensor:
        """The loss of one view's predictions p [n, D] and the other's momentum projections z [n, D]."""
        return byol_loss(p, z)


def mean_cosine(p: Tensor, z: Tensor) -> Tensor:
    """The mean cosine of the rows of `p` and of `z`, which gets no gradient.

    Raises:
        TypeError, ValueError: As :func:`byol_loss`.
    """
    check_rows("p", p)
    check_like("z", z, "p", p, same_rows=True)
    with without_autocast(p):
        predictions, targets = full_precision(p, z.detach())
        return F.cosine_similarity(predictions, targets).mean()
