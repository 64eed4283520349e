"""The Barlow Twins loss, as a function and as a module."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.distributed import check_gathering, gather_batches
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
    """Computes the terms of :func:`barlow_twins_loss`. See there for the formula and the arguments."""
    check_views([z1, z2])
    with without_autocast(z1):
        views = full_precision(z1, z2)
        if gather_distributed and not sync_statistics:
            first, second = gather_batches(*(_standardised(view) for view in views))
        else:
            first, second = (_standardised(view) for view in (gather_batches(*views) if gather_distributed else views))
        correlation = first.T @ second / first.shape[0]
        on_diagonal = (1 - correlation.diagonal()).square().sum()
        # Subtracting the diagonal's sum from the total would lose precision: the diagonal is most of the total.
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
    """The Barlow Twins loss: it moves the cross-correlation of the views towards the identity.

    Each dimension of a view is standardised over the batch, with 1e-5 added to its variance. Then::

        loss = scale (sum_d (1 - C_dd)^2 + lamb sum_{d != e} C_de^2),    C = z1' z2 / n

    Args:
        z1: Projections of the first views, [n, D], float64, float32, bfloat16 or float16. The loss of 16-bit types is
            computed in float32.
        z2: Projections of the second views of the same images, like `z1`.
        lamb: Weight of the off-diagonal terms, at least 0. The authors' code uses 0.0051.
        scale: Factor of the whole loss, at least 0. The recipes of solo-learn use 0.1.
        sync_statistics: With `gather_distributed`, standardise over the images of all processes, as the authors of the
            paper do. Otherwise each process standardises its own images, as solo-learn does, and only C is computed
            from the images of all processes.
        gather_distributed: Use the images of all processes. With `sync_statistics`, the loss and (with DDP) its
            gradient equal those of one process on the joined batch. Without a process group this changes nothing.

    Returns:
        The loss, 0-d. It is float64 for float64 inputs, else float32.

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
        scale: Factor of the whole loss, at least 0.
        sync_statistics: With `gather_distributed`, standardise over the images of all processes.
        gather_distributed: Use the images of all processes.

    Attributes:
        terms: The :class:`BarlowTwinsTerms` of the last forward, without gradients. None before the first forward.

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
        check_gathering(gather_distributed)
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
    """Standardises each dimension over the batch."""
    return F.batch_norm(z, running_mean=None, running_var=None, training=True)
