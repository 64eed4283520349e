"""The VICReg loss, as a function and as a module."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.distributed import check_gathering, gather_batches
from hex_ssl.precision import full_precision, without_autocast
from hex_ssl.validation import check_at_least, check_views

VARIANCE_EPSILON = 1e-4


class VICRegTerms(NamedTuple):
    """The terms of the loss before their weights, each 0-d.

    Attributes:
        invariance: Mean squared difference of the views.
        variance: Hinge loss of the standard deviations, the mean (or sum) of both views.
        covariance: Sum of the squared covariances of different dimensions, divided by D and added over both views.
    """

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg_terms(
    z1: Tensor, z2: Tensor, *, half_variance: bool = True, gather_distributed: bool = False
) -> VICRegTerms:
    """Computes the terms of :func:`vicreg_loss`. See there for the formula and the arguments.

    Raises:
        TypeError, ValueError: As :func:`vicreg_loss`.
    """
    check_views([z1, z2])
    with without_autocast(z1):
        views = full_precision(z1, z2)
        first, second = gather_batches(*views) if gather_distributed else views
        if first.shape[0] < 2:
            raise ValueError(f"expected `z1` to have at least 2 rows, for a variance, but got {first.shape[0]}")
        variance = _variance(first) + _variance(second)
        return VICRegTerms(
            F.mse_loss(first, second),
            variance / 2 if half_variance else variance,
            _covariance(first) + _covariance(second),
        )


def vicreg_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    sim_weight: float = 25.0,
    var_weight: float = 25.0,
    cov_weight: float = 1.0,
    half_variance: bool = True,
    gather_distributed: bool = False,
) -> Tensor:
    """The VICReg loss: views should agree, each dimension should vary, and different dimensions should not correlate.

    Variance and covariance are over the batch and unbiased (n - 1)::

        loss = sim_weight s + var_weight v + cov_weight (c(z1) + c(z2))
        s    = mean_{i,d} (z1_id - z2_id)^2
        v    = (h(z1) + h(z2)) / 2,  without `half_variance`  h(z1) + h(z2)
        h(z) = mean_d max(0, 1 - sqrt(var(z_d) + 1e-4))
        c(z) = sum_{d != e} cov(z)_de^2 / D

    Args:
        z1: Projections of the first views, [n, D], float64, float32, bfloat16 or float16, n at least 2. The loss of
            16-bit types is computed in float32.
        z2: Projections of the second views of the same images, like `z1`.
        sim_weight: Weight of the invariance term, at least 0.
        var_weight: Weight of the variance term, at least 0.
        cov_weight: Weight of the covariance term, at least 0.
        half_variance: Use the mean of the variance terms of both views, as in the authors' code, which has the weights
            of the paper. Otherwise use their sum, as in equation 6 of the paper and in solo-learn. This is the same as
            doubling `var_weight`.
        gather_distributed: Use the images of all processes. The loss and (with DDP) its gradient then equal those of
            one process on the joined batch. Without a process group this changes nothing.

    Returns:
        The loss, 0-d. It is float64 for float64 inputs, else float32.

    Raises:
        TypeError: A view is not a tensor.
        ValueError: Shapes, dtypes or devices differ, there is one row, or a number is out of its range.

    Source:
        "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning" (Bardes et al. 2022,
        arXiv 2105.04906), and its authors' code, github.com/facebookresearch/vicreg.

    Example:
        >>> z = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
        >>> vicreg_loss(z, z), vicreg_loss(z, -z)  # 25 * 16
        (tensor(0.), tensor(400.))
    """
    weights = _checked(sim_weight, var_weight, cov_weight)
    terms = vicreg_terms(z1, z2, half_variance=half_variance, gather_distributed=gather_distributed)
    return _weighted(terms, weights)


class VICRegLoss(nn.Module):
    """:func:`vicreg_loss` as a module.

    Args:
        sim_weight: Weight of the invariance term, at least 0.
        var_weight: Weight of the variance term, at least 0.
        cov_weight: Weight of the covariance term, at least 0.
        half_variance: Use the mean of the variance terms of both views, otherwise their sum.
        gather_distributed: Use the images of all processes.

    Attributes:
        terms: The :class:`VICRegTerms` of the last forward, without gradients. None before the first forward.

    Raises:
        ValueError: A number is out of its range.

    Source:
        "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning" (Bardes et al. 2022,
        arXiv 2105.04906).

    Example:
        >>> VICRegLoss()(torch.randn(32, 8), torch.randn(32, 8)).shape
        torch.Size([])
    """

    def __init__(
        self,
        sim_weight: float = 25.0,
        var_weight: float = 25.0,
        cov_weight: float = 1.0,
        half_variance: bool = True,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        self.sim_weight, self.var_weight, self.cov_weight = _checked(sim_weight, var_weight, cov_weight)
        self.half_variance = half_variance
        check_gathering(gather_distributed)
        self.gather_distributed = gather_distributed
        self.terms: VICRegTerms | None = None

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The loss of projections of two views, each [n, D]."""
        terms = vicreg_terms(z1, z2, half_variance=self.half_variance, gather_distributed=self.gather_distributed)
        self.terms = VICRegTerms(*(term.detach() for term in terms))
        return _weighted(terms, (self.sim_weight, self.var_weight, self.cov_weight))

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        names = ("sim_weight", "var_weight", "cov_weight", "half_variance", "gather_distributed")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def _checked(sim_weight: float, var_weight: float, cov_weight: float) -> tuple[float, float, float]:
    return (
        check_at_least("sim_weight", sim_weight, 0.0),
        check_at_least("var_weight", var_weight, 0.0),
        check_at_least("cov_weight", cov_weight, 0.0),
    )


def _weighted(terms: VICRegTerms, weights: tuple[float, float, float]) -> Tensor:
    sim_weight, var_weight, cov_weight = weights
    return sim_weight * terms.invariance + var_weight * terms.variance + cov_weight * terms.covariance


def _variance(z: Tensor) -> Tensor:
    return F.relu(1 - torch.sqrt(z.var(dim=0) + VARIANCE_EPSILON)).mean()


def _covariance(z: Tensor) -> Tensor:
    centred = z - z.mean(dim=0)
    covariance = centred.T @ centred / (z.shape[0] - 1)
    # Subtracting the diagonal's sum from the total would lose precision: the diagonal can be most of the total.
    return covariance.square().fill_diagonal_(0.0).sum() / z.shape[1]
