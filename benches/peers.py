"""What the fused loss is measured against: the same loss in plain PyTorch, in several ways.

Every peer is a function of two views [n, D] that returns the loss; `hex_chunked` also computes its gradient itself.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE, QUANTILE, BETA, TAU_PLUS = 0.2, 0.99, 1.0, 0.1

Loss = Callable[[Tensor, Tensor], Tensor]


def rank(rows: int) -> int:
    """k such that the k-th largest of `rows` numbers is their quantile."""
    return rows - round(QUANTILE * (rows - 1))


def threshold_by_quantile(similarities: Tensor) -> Tensor:
    """Mean over rows of `torch.quantile`, in pieces of at most 16 M elements as it wants them."""
    rows = max(1, 16_000_000 // similarities.shape[1])
    parts = [torch.quantile(part, QUANTILE, dim=1, interpolation="nearest") for part in similarities.split(rows)]
    return torch.cat(parts).mean()


def threshold_by_topk(similarities: Tensor) -> Tensor:
    """The same number by `torch.topk`, several times faster."""
    return similarities.topk(rank(similarities.shape[0]), dim=1, sorted=False).values.amin(1).mean()


def pairs(z: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of both views, and the other view of its sample."""
    rows = z.shape[0]
    index = torch.arange(rows, device=z.device)
    return index, (index + rows // 2) % rows


def unit_rows(z1: Tensor, z2: Tensor) -> Tensor:
    return F.normalize(torch.cat([z1, z2]), dim=1)


def reweighted(positive: Tensor, weighted: Tensor, weights: Tensor, count: Tensor) -> Tensor:
    """Q of the formula, from exponentials."""
    total = count * weighted / weights.clamp_min(1e-30)
    debiased = (total - TAU_PLUS * count * positive) / (1 - TAU_PLUS)
    return torch.maximum(debiased, count * math.exp(-1 / TEMPERATURE))


def hex_masked_sums(z1: Tensor, z2: Tensor, threshold: Callable[[Tensor], Tensor]) -> Tensor:
    """By masks that multiply exponentials."""
    z = unit_rows(z1, z2)
    index, partner = pairs(z)
    similarities = (z @ z.T).float()
    with torch.no_grad():
        epsilon = threshold(similarities)
        negative = torch.ones_like(similarities, dtype=torch.bool)
        negative[index, index] = False
        negative[index, partner] = False
        local = negative & (similarities > epsilon)
        others = negative & ~local
    logits = similarities / TEMPERATURE
    exponentials = torch.exp(logits)
    positive = exponentials[index, partner]
    weights = torch.exp(BETA * logits) * local
    local_term = reweighted(positive, (weights * exponentials).sum(1), weights.sum(1), local.sum(1))
    return (torch.log(positive + (exponentials * others).sum(1) + local_term) - logits[index, partner]).mean()


def hex_where(z1: Tensor, z2: Tensor, threshold: Callable[[Tensor], Tensor]) -> Tensor:
    """By `where` and `masked_fill`: fewer temporaries, and a single exponential where beta is 1."""
    z = unit_rows(z1, z2)
    index, partner = pairs(z)
    similarities = (z @ z.T).float()
    with torch.no_grad():
        local = similarities > threshold(similarities)
        local[index, index] = False
        local[index, partner] = False
        excluded = torch.zeros_like(local)
        excluded[index, index] = True
        excluded[index, partner] = True
    exponentials = torch.exp((similarities / TEMPERATURE).masked_fill(excluded, float("-inf")))
    positive_logits = (similarities / TEMPERATURE)[index, partner]
    weights = torch.where(local, exponentials, 0.0)
    local_term = reweighted(positive_logits.exp(), (weights * exponentials).sum(1), weights.sum(1), local.sum(1))
    others = exponentials.sum(1) - weights.sum(1)
    return (torch.log(positive_logits.exp() + others + local_term) - positive_logits).mean()


def hex_chunked(z1: Tensor, z2: Tensor, rows: int = 256) -> Tensor:
    """Row chunks with preallocated buffers, no autograd; leaves the gradients in z1.grad and z2.grad."""
    with torch.no_grad():
        joined = torch.cat([z1, z2]).float()
        length = joined.norm(dim=1, keepdim=True)
        z = joined / length
        count = z.shape[0]
        rows = min(rows, count)
        index, partner = pairs(z)
        similarities, exponentials = z.new_empty(rows, count), z.new_empty(rows, count)
        total = z.new_zeros(())
        for chunk in index.split(rows):
            torch.mm(z[chunk], z.T, out=similarities)
            total += similarities.topk(rank(count), dim=1, sorted=False).values.amin(1).sum()
        epsilon = total / count
        gradient, loss = torch.zeros_like(z), z.new_zeros(())
        for chunk in index.split(rows):
            row = torch.arange(len(chunk), device=z.device)
            own, other = chunk, partner[chunk]
            torch.mm(z[chunk], z.T, out=similarities)
            positive = similarities[row, other].clone()
            similarities[row, own] = similarities[row, other] = -1e4
            local = similarities > epsilon
            torch.mul(similarities, 1 / TEMPERATURE, out=exponentials).exp_()
            weights = torch.where(local, exponentials, 0.0)
            size = local.sum(1)
            weight_sum, weighted_sum = weights.sum(1), (weights * exponentials).sum(1)
            exp_positive = (positive / TEMPERATURE).exp()
            local_term = reweighted(exp_positive, weighted_sum, weight_sum, size)
            floored = local_term <= size * math.exp(-1 / TEMPERATURE)
            denominator = exp_positive + exponentials.sum(1) - weight_sum + local_term
            loss += (denominator.log() - positive / TEMPERATURE).sum()
            scale = torch.where(floored, 0.0, size / (denominator * weight_sum.clamp_min(1e-30) * (1 - TAU_PLUS)))
            mean = BETA * weighted_sum / weight_sum.clamp_min(1e-30)
            local_gradient = scale[:, None] * weights * ((1 + BETA) * exponentials - mean[:, None])
            tile = torch.where(local, local_gradient, exponentials / denominator[:, None])
            tile[row, own] = 0.0
            debias = torch.where(floored, 0.0, TAU_PLUS * size / (1 - TAU_PLUS))
            tile[row, other] = exp_positive * (1 - debias) / denominator - 1
            gradient[chunk] += tile @ z
            gradient += tile.T @ z[chunk]
        gradient /= TEMPERATURE * count
        gradient = (gradient - (gradient * z).sum(1, keepdim=True) * z) / length
        z1.grad, z2.grad = (part.to(z1.dtype) for part in gradient.split(z1.shape[0]))
    return loss / count
