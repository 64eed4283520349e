"""BYOL's loss, as a function and as a module."""

from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.precision import full_precision, without_autocast
from hex_ssl.validation import check_like, check_rows


def byol_loss(p: Tensor, z: Tensor) -> Tensor:
    """BYOL's loss for the predictions of one view: 2 - 2 mean_i cos(p_i, z_i).

    This is the mean squared distance of the L2-normalised rows. No gradient flows through `z`. The BYOL method adds the
    losses of both directions. With several processes and equal batch sizes, the mean of the losses over the processes
    equals the loss of the joined batch.

    Args:
        p: Predictions of one view, [n, D], float64, float32, bfloat16 or float16.
        z: The momentum encoder's projections of the other view, like `p`.

    Returns:
        The loss, 0-d, in [0, 4]. It is float64 for float64 inputs, else float32.

    Raises:
        TypeError: An input is not a tensor.
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
        """The loss of predictions p [n, D] of one view and momentum projections z [n, D] of the other view."""
        return byol_loss(p, z)


def mean_cosine(p: Tensor, z: Tensor) -> Tensor:
    """The mean cosine similarity of the rows of `p` and `z`. `z` gets no gradient.

    Raises:
        TypeError, ValueError: As :func:`byol_loss`.
    """
    check_rows("p", p)
    check_like("z", z, "p", p, same_rows=True)
    with without_autocast(p):
        predictions, targets = full_precision(p, z.detach())
        return F.cosine_similarity(predictions, targets).mean()
