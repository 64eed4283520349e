"""DCL and its weighted form DCLW, as modules."""

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from hex_ssl.choices import Reduction
from hex_ssl.distributed import gather_counts, gather_rows, is_distributed
from hex_ssl.losses.baseline import BaselineLoss
from hex_ssl.precision import full_precision, without_autocast
from hex_ssl.validation import check_number

WeightFunction = Callable[[Tensor, Tensor], Tensor]


class DCLLoss(BaselineLoss):
    """DCL, NT-Xent without the positive in the denominator: :func:`hex_ssl.functional.dcl_loss` as a module.

    With `weight_fn`, the similarity of each anchor with its positive p is multiplied by a weight w_i::

        L_i = -w_i s_ip + log( sum_{n != i, p} exp(s_in) ),  s_ij = c_ij / temperature

    Args:
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        weight_fn: A function of the L2-normalised rows of two views, [n, D] each, that returns the weights of the first
            view's anchors, [n]. It is called once for each order of the views. With `gather_distributed` it gets the
            rows of all processes. Gradients flow through the weights. None: all weights are 1.
        gather_distributed: Compare with the keys of all processes.
        reduction: "mean", "sum" or "none".

    Attributes:
        statistics: The :class:`Statistics` of the last forward. None before the first forward.

    Raises:
        TypeError: `weight_fn` is not a function.
        ValueError: An argument is out of its range, or torch has no torch.distributed and `gather_distributed` is set.

    Source:
        "Decoupled Contrastive Learning" (Yeh et al. 2022, arXiv 2110.06848), equation 6.

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> DCLLoss(temperature=1.0)(z, z)  # log(6) - 1
        tensor(0.7918)
        >>> DCLLoss(temperature=1.0, weight_fn=lambda z1, z2: torch.full((4,), 0.5))(z, z)  # log(6) - 0.5
        tensor(1.2918)
    """

    formulation = "decoupled"

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        weight_fn: WeightFunction | None = None,
        gather_distributed: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(temperature, gather_distributed, reduction)
        if not (weight_fn is None or callable(weight_fn)):
            raise TypeError(f"expected `weight_fn` to be a function or None, but got {weight_fn!r}")
        self.weight_fn = weight_fn

    def forward(self, z1: Tensor, z2: Tensor, *more_views: Tensor) -> Tensor:
        """The loss of projections of the views, each [n, D]. Two views with `weight_fn`."""
        if self.weight_fn is None:
            return super().forward(z1, z2, *more_views)
        if more_views:
            raise ValueError(f"expected 2 views with `weight_fn`, but got {2 + len(more_views)}")
        loss = super().forward(z1, z2)
        with without_autocast(z1):
            return loss + self._added_by_weights(z1, z2)

    def _added_by_weights(self, z1: Tensor, z2: Tensor) -> Tensor:
        """What the weights add to the loss: (1 - w_i) s_ip of each anchor, reduced."""
        first, second = (F.normalize(each, dim=1) for each in full_precision(z1, z2))
        similarities = (first * second).sum(1) / self.temperature
        samples, processes = z1.shape[0], 1
        own = slice(0, samples)
        if self.gather_distributed and is_distributed():
            counts, processes = gather_counts(samples, z1.device), dist.get_world_size()
            own = slice(sum(counts[: dist.get_rank()]), sum(counts[: dist.get_rank() + 1]))
            first, second, samples = gather_rows(first, counts), gather_rows(second, counts), sum(counts)
        if samples == 1:  # no negatives, so no loss
            return similarities.new_zeros(2 if self.reduction == "none" else ())
        weights = [self._weights(*views)[own] for views in ((first, second), (second, first))]
        terms = torch.cat([(1 - each) * similarities for each in weights])
        if self.reduction == "none":
            return terms
        # Each process has a share of the loss. The mean of the shares over the processes is the joined batch's loss.
        return terms.sum() * (processes / (2 * samples) if self.reduction == "mean" else processes)

    def _weights(self, first: Tensor, second: Tensor) -> Tensor:
        assert self.weight_fn is not None
        weights = self.weight_fn(first, second)
        if not isinstance(weights, Tensor) or weights.shape != first.shape[:1]:
            got = list(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
            raise ValueError(f"expected `weight_fn` to return a tensor of shape [{first.shape[0]}], but got {got}")
        return weights


class DCLWLoss(DCLLoss):
    """DCLW: :class:`DCLLoss` weighted by :func:`negative_mises_fisher_weights`.

    Args:
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        sigma: The temperature of the weights, above 0.
        gather_distributed: Compare with the keys of all processes, and find the weights over the joined batch.
        reduction: "mean", "sum" or "none".

    Attributes:
        statistics: The :class:`Statistics` of the last forward. None before the first forward.

    Raises:
        ValueError: An argument is out of its range, or torch has no torch.distributed and `gather_distributed` is set.

    Source:
        "Decoupled Contrastive Learning" (Yeh et al. 2022, arXiv 2110.06848), section 3.2.

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> DCLWLoss(temperature=1.0)(z, z)  # all pairs are equally close, so all weights are 1
        tensor(0.7918)
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        sigma: float = 0.5,
        gather_distributed: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        _check_sigma(sigma)
        weight_fn = partial(negative_mises_fisher_weights, sigma=sigma)
        super().__init__(temperature, weight_fn, gather_distributed, reduction)
        self.sigma = sigma

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{super().extra_repr()}, sigma={self.sigma!r}"


def negative_mises_fisher_weights(z1: Tensor, z2: Tensor, sigma: float = 0.5) -> Tensor:
    """DCLW's weights: close pairs count less, with the von Mises-Fisher density of their similarity.

    ::

        w_i = 2 - exp(z1_i . z2_i / sigma) / mean_j exp(z1_j . z2_j / sigma)

    Args:
        z1: L2-normalised rows of one view, [n, D].
        z2: Those of the other view, like `z1`.
        sigma: The temperature of the weights, above 0.

    Returns:
        The weights, [n], without a gradient. Their mean is 1.

    Raises:
        TypeError: `sigma` is not a number.
        ValueError: `sigma` is not above 0.

    Source:
        "Decoupled Contrastive Learning" (Yeh et al. 2022, arXiv 2110.06848), section 3.2.

    Example:
        >>> import torch
        >>> negative_mises_fisher_weights(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), sigma=1.0)
        tensor([0.5379, 1.4621])
    """
    _check_sigma(sigma)
    similarities = (z1.detach() * z2.detach()).sum(1) / sigma
    return 2 - len(similarities) * similarities.softmax(0)


def _check_sigma(sigma: float) -> None:
    check_number("sigma", sigma)
    if not sigma > 0:
        raise ValueError(f"expected `sigma` to be above 0, but got {sigma}")
