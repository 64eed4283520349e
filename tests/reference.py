"""The loss in float64, written twice from its formulas and never from the package.

`evaluate_by_loops` follows the definition number by number. `evaluate` computes the same on dense matrices, for
autograd and for large batches; the tests compare it with the loops. Both take a `Layout`, which lists each anchor's
row, positives and negatives. So views, indexed positives, separate positives and gathered keys are all one case.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """What to compute. `value` is the quantile, the threshold with which similarities are compared, or the margin."""

    temperature: float = 0.1
    threshold: str = "adaptive"
    value: float = 0.99
    formulation: str = "importance"
    beta: float = 1.0
    tau_plus: float = 0.1

    def but(self, **changes: object) -> "Settings":
        """A copy with some settings changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


MARGINS = ("margin", "relative_margin")
"""The thresholds that are a margin over the closest positive."""


@dataclass(frozen=True)
class Anchor:
    """One anchor's comparisons, as positions among the candidates."""

    row: tuple[int, ...]
    """What its quantile, minimum and maximum run over."""
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    own: int | None = None
    """The anchor itself, whose similarity is exactly 1."""


@dataclass(frozen=True)
class Layout:
    """All anchors' comparisons."""

    anchors: list[Anchor]
    candidates: int

    @cached_property
    def masks(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Row, positive, negative and own as [M, candidates]."""

        def mask(chosen: Sequence[Sequence[int]]) -> Tensor:
            found = np.zeros((len(chosen), self.candidates), dtype=bool)
            rows = np.repeat(np.arange(len(chosen)), [len(each) for each in chosen])
            found[rows, np.fromiter(chain.from_iterable(chosen), dtype=np.int64)] = True
            return torch.from_numpy(found)

        return (
            mask([anchor.row for anchor in self.anchors]),
            mask([anchor.positives for anchor in self.anchors]),
            mask([anchor.negatives for anchor in self.anchors]),
            mask([() if anchor.own is None else (anchor.own,) for anchor in self.anchors]),
        )


@cache
def views_layout(samples: int, views: int, keys: int | None = None, offset: int = 0) -> Layout:
    """Anchors are `views` views of `samples` samples, and stand among `keys` keys from `offset` on."""
    count = samples * views
    everyone = tuple(range(count if keys is None else keys))
    anchors = []
    for i in range(count):
        positives = tuple(offset + (i + k * samples) % count for k in range(1, views))
        same = {offset + i, *positives}
        anchors.append(Anchor(everyone, positives, tuple(j for j in everyone if j not in same), own=offset + i))
    return Layout(anchors, len(everyone))


def indexed_layout(
    positive_index: Sequence[Sequence[int]], ignored_index: Sequence[Sequence[int]] | None, keys: int
) -> Layout:
    """Anchors name their positive keys and, padded with -1, the keys that they ignore."""
    anchors = []
    for i, positives in enumerate(positive_index):
        others = {*positives, *(() if ignored_index is None else ignored_index[i])}
        negatives = tuple(j for j in range(keys) if j not in others)
        anchors.append(Anchor(tuple(range(keys)), tuple(positives), negatives))
    return Layout(anchors, keys)


def apart_layout(anchors: int, keys: int, ignored_index: Sequence[Sequence[int]] | None = None) -> Layout:
    """Candidates are the keys, negatives unless they are ignored, and below them each anchor's own positive."""
    everyone, found = tuple(range(keys)), []
    for i in range(anchors):
        ignored = set(() if ignored_index is None else ignored_index[i])
        negatives = tuple(j for j in everyone if j not in ignored)
        found.append(Anchor((*everyone, keys + i), (keys + i,), negatives))
    return Layout(found, keys + anchors)


def with_own_negatives(layout: Layout, each: int) -> Layout:
    """Below the candidates stand `each` further negatives of the first anchor, then those of the second, and so on."""
    anchors = []
    for i, anchor in enumerate(layout.anchors):
        own = tuple(range(layout.candidates + i * each, layout.candidates + (i + 1) * each))
        anchors.append(Anchor((*anchor.row, *own), anchor.positives, (*anchor.negatives, *own), anchor.own))
    return Layout(anchors, layout.candidates + each * len(anchors))


class Statistics(NamedTuple):
    """The statistics of one evaluation, in the package's order."""

    threshold: float
    hierarchical_negatives: float
    positive_similarity: float
    negative_similarity: float
    floor_fraction: float
    undefined_anchors: float


class Evaluation(NamedTuple):
    """The results of the reference."""

    losses: Tensor
    """[M], float64, 0 where the anchor has no defined loss."""
    defined: Tensor
    """[M], bool."""
    statistics: Statistics
    threshold_margin: float
    """How near a negative comes to being on the other side of the threshold."""
    floor_margin: float
    """How near, relative to its terms, a reweighted sum comes to its floor."""

    def reduced(self, reduction: str) -> Tensor:
        """The losses as "mean" over the anchors that have one, "sum", or "none"."""
        if reduction == "none":
            return self.losses
        total = self.losses.sum()
        return total if reduction == "sum" else total / self.defined.sum().clamp(min=1)


def nearest_quantile(values: Iterable[float], quantile: float) -> float:
    """The quantile with 'nearest' interpolation; `round` takes half to even."""
    ascending = sorted(values)
    return ascending[round(quantile * (len(ascending) - 1))]


def evaluate_by_loops(
    anchors: np.ndarray,
    candidates: np.ndarray,
    layout: Layout,
    settings: Settings,
    anchor_labels: Sequence[int] | None = None,
    candidate_labels: Sequence[int] | None = None,
) -> tuple[list[float | None], Statistics]:
    """Each anchor's loss, None where it has none, and the statistics."""
    t = settings.temperature
    unit_anchors = [row / math.sqrt(math.fsum(row * row)) for row in anchors.astype(np.float64)]
    unit_candidates = [row / math.sqrt(math.fsum(row * row)) for row in candidates.astype(np.float64)]
    similarity = [
        {j: 1.0 if j == anchor.own else float(unit @ unit_candidates[j]) for j in anchor.row}
        for unit, anchor in zip(unit_anchors, layout.anchors, strict=True)
    ]
    epsilon = settings.value
    if settings.threshold == "adaptive":
        epsilon = math.fsum(nearest_quantile(row.values(), settings.value) for row in similarity) / len(similarity)

    losses: list[float | None] = []
    sizes, positive, negative, floors = [], [], [], 0
    for i, anchor in enumerate(layout.anchors):
        c = similarity[i]
        low, high = min(c.values()), max(c.values())
        hierarchical, rest = [], []
        for j in anchor.negatives:
            if settings.threshold == "labels":
                assert anchor_labels is not None
                assert candidate_labels is not None
                above = anchor_labels[i] == candidate_labels[j]
            elif settings.threshold in MARGINS:
                closest = max(c[p] for p in anchor.positives)
                above = c[j] > closest + epsilon * (1.0 if settings.threshold == "margin" else abs(closest))
            elif epsilon >= 1.0:
                above = False
            elif settings.threshold == "minmax":
                above = c[j] > low + epsilon * (high - low)
            else:
                above = c[j] > epsilon
            (hierarchical if above else rest).append(j)
        sizes.append(len(hierarchical))
        positive += [c[p] for p in anchor.positives]
        negative += [c[j] for j in anchor.negatives]

        terms = []
        for p in anchor.positives:
            if settings.formulation in ("importance", "elimination"):
                q, floored = _reweighted(c, p, hierarchical, settings)
                floors += floored
                numerator = math.exp(c[p] / t)
                others = math.fsum(math.exp(c[j] / t) for j in rest) + q
                # -log(a / (a + b)), without losing a loss that is nearly 0.
                terms.append(math.log1p(others / numerator))
            elif rest:
                constant = len(anchor.negatives) * math.exp(-1 / t) if settings.formulation == "official" else 0.0
                terms.append(-c[p] / t + math.log(math.fsum(math.exp(c[j] / t) for j in rest)) + constant)
        losses.append(math.fsum(terms) / len(terms) if terms else None)

    return losses, Statistics(
        threshold=math.nan if settings.threshold == "labels" else epsilon,
        hierarchical_negatives=sum(sizes) / len(sizes),
        positive_similarity=math.fsum(positive) / len(positive),
        negative_similarity=math.fsum(negative) / len(negative) if negative else math.nan,
        floor_fraction=floors / len(positive),
        undefined_anchors=sum(loss is None for loss in losses),
    )


def _reweighted(c: dict[int, float], p: int, hierarchical: list[int], settings: Settings) -> tuple[float, bool]:
    """Q, the hierarchical negatives' share of the denominator, and whether it is at its floor."""
    if not hierarchical or settings.formulation == "elimination":
        return 0.0, False
    t, m = settings.temperature, len(hierarchical)
    weights = [math.exp(settings.beta * c[h] / t) for h in hierarchical]
    mean_weight = math.fsum(weights) / m
    r = math.fsum(w / mean_weight * math.exp(c[h] / t) for w, h in zip(weights, hierarchical, strict=True))
    raw = (r - settings.tau_plus * m * math.exp(c[p] / t)) / (1 - settings.tau_plus)
    floor = m * math.exp(-1 / t)
    return max(raw, floor), raw <= floor


def evaluate(
    anchors: Tensor,
    candidates: Tensor,
    layout: Layout,
    settings: Settings,
    anchor_labels: Tensor | None = None,
    candidate_labels: Tensor | None = None,
) -> Evaluation:
    """The same on dense matrices: `anchors` [M, D] and `candidates` [n, D], differentiable."""
    t = settings.temperature
    similarity = _unit(anchors) @ _unit(candidates).T
    row, positive, negative, own = layout.masks
    known = torch.where(own, 1.0, similarity).detach()
    hierarchical, epsilon, threshold_margin = _split(
        known, row, positive, negative, settings, anchor_labels, candidate_labels
    )
    rest = negative & ~hierarchical
    logits = similarity / t
    exp = torch.where(negative | positive, logits, -math.inf).exp()
    size = hierarchical.sum(1, keepdim=True).double()
    positives = positive.sum(1)
    positive_logits = logits[positive].split(positives.tolist())
    global_sum = (exp * rest).sum(1)

    floor_margin, at_floor = math.inf, torch.zeros(())
    if settings.formulation == "importance":
        defined = torch.ones(len(positives), dtype=torch.bool)
        weights = torch.where(hierarchical, settings.beta * logits, -math.inf).exp()
        weights = weights / (weights.sum(1, keepdim=True) / size.clamp(min=1)).clamp(min=1e-300)
        r = (weights * exp * hierarchical).sum(1, keepdim=True)
        debias = settings.tau_plus * size * exp
        raw = (r - debias) / (1 - settings.tau_plus)
        floor = (size * math.exp(-1 / t)).expand_as(raw)
        at_floor = (raw <= floor) & positive & (size > 0)
        q = torch.where(size > 0, torch.where(at_floor, floor, raw), 0.0)
        if bool((positive & (size > 0)).any()):
            gap = ((raw - floor).abs() / (r + debias + floor).clamp(min=1e-300)).detach()
            floor_margin = gap[positive & (size > 0)].min().item()
        per_pair = torch.log1p((global_sum[:, None] + q)[positive] / exp[positive])
    elif settings.formulation == "elimination":
        defined = torch.ones(len(positives), dtype=torch.bool)
        per_pair = torch.log1p(global_sum[:, None].expand_as(exp)[positive] / exp[positive])
    else:
        defined = rest.any(1)
        constant = (
            negative.sum(1).double() * math.exp(-1 / t)
            if settings.formulation == "official"
            else torch.zeros(len(positives))
        )
        log_sum = torch.where(defined, global_sum, 1.0).log() + constant
        per_pair = torch.cat([log_sum[i] - s for i, s in enumerate(positive_logits)])
    losses = torch.stack([pairs.mean() for pairs in per_pair.split(positives.tolist())])
    statistics = Statistics(
        threshold=math.nan if settings.threshold == "labels" else epsilon,
        hierarchical_negatives=size.mean().item(),
        positive_similarity=similarity[positive].mean().item(),
        negative_similarity=similarity[negative].mean().item(),
        floor_fraction=at_floor.sum().item() / positive.sum().item(),
        undefined_anchors=(~defined).sum().item(),
    )
    return Evaluation(torch.where(defined, losses, 0.0), defined, statistics, threshold_margin, floor_margin)


def _unit(rows: Tensor) -> Tensor:
    # Scaled first: squares of 1e-200 or 1e200 leave float64.
    rows = rows.double()
    rows = rows / rows.detach().abs().amax(1, keepdim=True)
    return rows / (rows * rows).sum(1, keepdim=True).sqrt()


def _split(
    known: Tensor,
    row: Tensor,
    positive: Tensor,
    negative: Tensor,
    settings: Settings,
    anchor_labels: Tensor | None,
    candidate_labels: Tensor | None,
) -> tuple[Tensor, float, float]:
    """Selects the hierarchical pairs. Returns them, the threshold, and the margin of the closest decision."""
    if settings.threshold == "labels":
        assert anchor_labels is not None
        assert candidate_labels is not None
        return negative & (anchor_labels[:, None] == candidate_labels), math.nan, math.inf
    epsilon = settings.value
    if settings.threshold == "adaptive":
        rows = known.masked_select(row).view(len(known), -1).sort(1).values
        epsilon = rows[:, round(settings.value * (rows.shape[1] - 1))].mean().item()
    if epsilon >= 1.0 and settings.threshold not in MARGINS:
        return torch.zeros_like(negative), epsilon, math.inf
    bound = torch.tensor(epsilon, dtype=torch.float64)
    if settings.threshold == "minmax":
        low = known.masked_fill(~row, math.inf).amin(1, keepdim=True)
        high = known.masked_fill(~row, -math.inf).amax(1, keepdim=True)
        bound = low + epsilon * (high - low)
    if settings.threshold in MARGINS:
        closest = known.masked_fill(~positive, -math.inf).amax(1, keepdim=True)
        bound = closest + epsilon * (1.0 if settings.threshold == "margin" else closest.abs())
    margin = (known - bound).abs().masked_fill(~negative, math.inf).min().item()
    return negative & (known > bound), epsilon, margin
