"""The Barlow Twins loss, as a function and as a module."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.distributed import gather_batches
from hex_ssl.precision import full_precision, without_autocast
from hex_ssl.validation import check_at_least, check_views


class BarlowTwinsTerms(NamedTuple):
    """The terms of the loss, each 0-d.

    Attributes:
        on_diagonal: sum over d of (1 - C_dd)^2.
        off_diagonal: sum over d != e of C_de^2.
    """

    on_diagonal: Tensor
    off_diagonal: Tensor


def barlow_twins_terms(
    z1: Tensor, z2: Tensor, *, sync_statistics: bool = True, gather_distributed: bool = False
) -> BarlowTwinsTerms:
    """The terms of :func:`barlow_twins_loss`, whose docstring has the formula and the arguments."""
    check_views([z1, z2])
    with without_autocast(z1):
        views = full_precision(z1, z2)
        if gather_distributed and not sync_statistics:
            first, second = gather_batches(*(_standardised(view) for view in views))
        else:
            first, second = (_standardised(view) for view in (gather_batches(*views) if gather_distributed else views))
        correlation = first.T @ second / first.shape[0]
        on_diagonal = (1 - correlation.diagonal()).square().sum()
        # Not the sum of all less that of the diagonal, which is most of it.
        return BarlowTwinsTerms(on_diagonal, correlation.square().fill_diagonal_(0.0).sum())


def barlow_twins_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    lamb: float = 0.005,
    scale: float = 1.0,
    sync_statistics: bool = True,
    gather_distributed: bool = False,
) -> Tensor:
    """The Barlow Twins loss: the views' cross-correlation is to be the identity.

    With each dimension of a view standardised over the batch (its variance plus 1e-5)::

        loss = scale (sum_d (1 - C_dd)^2 + lamb sum_{d != e} C_de^2),    C = z1' z2 / n

    Args:
        z1: Projections of the first views, [n, D], float64, float32, bfloat16 or float16. Half types are computed in
            float32.
        z2: Projections of the second views of the same images, like `z1`.
        lamb: Weight of the off-diagonal terms, at least 0. The authors' code: 0.0051.
        scale: Factor of the whole, at least 0. solo-learn's recipes: 0.1.
        sync_statistics: With `gather_distributed`: standardise over all processes' images, as the paper's authors do.
            Otherwise each process standardises its own images, as solo-learn does, and C alone is of all.
        gather_distributed: Take the images of all processes: with `sync_statistics` the loss, and with DDP its
            gradient, are those of one process on the joined batch. Without a process group this changes nothing.

    Returns:
        The loss, 0-d; float64 for float64 inputs, else float32.

    Raises:
        TypeError: A view is not a tensor.
        ValueError: Shapes, dtypes or devices differ, or a number is out of its range.

    Source:
        "Barlow Twins: Self-Supervised Learning via Redundancy Reduction" (Zbontar et al. 2021, arXiv 2103.03230).

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> barlow_twins_loss(z, z) < 1e-6, round(barlow_twins_loss(z, z.flip(1)).item(), 2)  # 2 + 0.005 * 2
        (tensor(True), 2.01)
    """
    check_at_least("lamb", lamb, 0.0)
    check_at_least("scale", scale, 0.0)
    terms = barlow_twins_terms(z1, z2, sync_statistics=sync_statistics, gather_distributed=gather_distributed)
    return scale * (terms.on_diagonal + lamb * terms.off_diagonal)


class BarlowTwinsLoss(nn.Module):
    """:func:`barlow_twins_loss` as a module.

    Args:
        lamb: Weight of the off-diagonal terms, at least 0.
        scale: Factor of the whole, at least 0.
        sync_statistics: With `gather_distributed`: standardise over all processes' images.
        gather_distributed: Take the images of all processes.

    Attributes:
        terms: The :class:`BarlowTwinsTerms` of the last forward, without gradient; None before the first.

    Raises:
        ValueError: A number is out of its range.

    Source:
        "Barlow Twins: Self-Supervised Learning via Redundancy Reduction" (Zbontar et al. 2021, arXiv 2103.03230).

    Example:
        >>> import torch
        >>> BarlowTwinsLoss()(torch.randn(32, 8), torch.randn(32, 8)).shape
        torch.Size([])
    """

    def __init__(
        self,
        lamb: float = 0.005,
        scale: float = 1.0,
        sync_statistics: bool = True,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        self.lamb = check_at_least("lamb", lamb, 0.0)
        self.scale = check_at_least("scale", scale, 0.0)
        self.sync_statistics = sync_statistics
        self.gather_distributed = gather_distributed
        self.terms: BarlowTwinsTerms | None = None

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The loss of projections of two views, each [n, D]."""
        terms = barlow_twins_terms(
            z1, z2, sync_statistics=self.sync_statistics, gather_distributed=self.gather_distributed
        )
        self.terms = BarlowTwinsTerms(*(term.detach() for term in terms))
        return self.scale * (terms.on_diagonal + self.lamb * terms.off_diagonal)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return (
            f"lamb={self.lamb}, scale={self.scale}, sync_statistics={self.sync_statistics}, "
            f"gather_distributed={self.gather_distributed}"
        )


def _standardised(z: Tensor) -> Tensor:
    """Each dimension with mean 0 and variance 1 over the batch."""
    return F.batch_norm(z, running_mean=None, running_var=None, training=True)
