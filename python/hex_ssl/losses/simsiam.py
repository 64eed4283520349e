"""SimSiam's loss, as a function and as a module."""

from torch import Tensor, nn

from hex_ssl.losses.byol import mean_cosine


def simsiam_loss(p: Tensor, z: Tensor) -> Tensor:
    """SimSiam's loss for the predictions of one view: -mean_i cos(p_i, z_i).

    No gradient flows through `z`. The SimSiam method takes the mean of both directions. With several processes and
    equal batch sizes, the mean of the losses over the processes equals the loss of the joined batch.

    Args:
        p: Predictions of one view, [n, D], float64, float32, bfloat16 or float16.
        z: Projections of the other view, like `p`.

    Returns:
        The loss, 0-d, in [-1, 1]. It is float64 for float64 inputs, else float32.

    Raises:
        TypeError: An input is not a tensor.
        ValueError: Shapes, dtypes or devices differ.

    Source:
        "Exploring Simple Siamese Representation Learning" (Chen and He 2021, arXiv 2011.10566), equation 1.

    Example:
        >>> import torch
        >>> simsiam_loss(torch.eye(3), torch.eye(3))
        tensor(-1.)
    """
    return -mean_cosine(p, z)


class SimSiamLoss(nn.Module):
    """:func:`simsiam_loss` as a module.

    Source:
        "Exploring Simple Siamese Representation Learning" (Chen and He 2021, arXiv 2011.10566), equation 1.

    Example:
        >>> import torch
        >>> SimSiamLoss()(torch.eye(3), torch.eye(3))
        tensor(-1.)
    """

    def forward(self, p: Tensor, z: Tensor) -> Tensor:
        """The loss of predictions p [n, D] of one view and projections z [n, D] of the other view."""
        return simsiam_loss(p, z)
