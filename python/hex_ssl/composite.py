"""The losses in torch's own operations, in chunks of anchors: exact, in O(N D) memory, on any device.

This is the fallback where there is no fused kernel. The tests also compare the kernels with it at large N. Each
function follows the formula in :func:`hex_ssl.functional.hex_loss`. On a GPU no operation waits for the device, and no
shape depends on the data.

Shapes: a chunk has C anchors, all chunks together have M. There are N keys, P positives of an anchor, R rows that are
compared with one anchor alone, H own negatives among these, and D dimensions. L is N + H, the number of similarities of
an anchor.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hex_ssl.operands import Operands, count_named

# The number of elements of a chunk's [C, N] or [C, H, D] tensors. On the CPU it is small, so that malloc reuses its
# pages: fresh pages cost more than the arithmetic. On other devices it is large, because each launch costs time.
_CPU_CHUNK, _CHUNK = 1 << 21, 1 << 24

Evaluation = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Loss, statistics [6], and the gradients for anchors, keys, positives and temperature. None for unwanted gradients."""


@torch.no_grad()
def evaluate(operands: Operands) -> Evaluation:
    """Computes the loss, its statistics and its gradients.

    Args:
        operands: The tensors and settings of the call.

    Returns:
        The loss, the statistics [6], and the gradients for anchors [M, D], keys [N, D], positives [M * R, D] and the
        temperature, 0-d. None for gradients that are not wanted.

    Raises:
        ValueError: On the CPU, a row is all zeros or not finite. On other devices such a row makes the results NaN.
    """
    rows = _Rows.of(operands)
    threshold = _threshold(rows)
    gradients = _Gradients.zeros(rows)
    chunks = [_chunk(rows, chunk, threshold, gradients) for chunk in rows.chunks()]
    anchors = _Anchors(*(torch.cat(column) for column in zip(*chunks, strict=True)))
    defined = anchors.defined.sum()
    divisor = torch.ones_like(defined)
    if operands.weights is not None:
        loss = (anchors.loss * operands.weights).sum()
    elif operands.reduction == "none":
        loss = anchors.loss
    else:
        divisor = defined.clamp(min=1.0) if operands.reduction == "mean" else divisor
        loss = anchors.loss.sum() / divisor
    for_anchors, for_keys, for_positives, for_temperature = gradients.finish(rows, divisor)
    statistics = _statistics(rows, threshold, anchors)
    return loss, statistics, for_anchors, for_keys, for_positives, for_temperature


@torch.no_grad()
def row_quantiles(operands: Operands) -> Tensor:
    """Computes the quantile of each anchor's row of similarities, with 'nearest' interpolation.

    Args:
        operands: The tensors and settings of the call. `threshold_rule` is "adaptive", `threshold_value` the quantile.

    Returns:
        The quantiles, [M].

    Raises:
        ValueError: As :func:`evaluate`.
    """
    return _row_quantiles(_Rows.of(operands), operands.threshold_value)


# -------------------------------------------------------------------------------------------------------------- rows


class _Directions(NamedTuple):
    """The normalised rows of an input, and what is needed to turn gradients for them into gradients for the input."""

    unit: Tensor
    largest: Tensor  # [rows, 1]: the largest magnitude in the row
    norm: Tensor  # [rows, 1]: the norm divided by `largest`; the product of both may overflow or underflow

    @classmethod
    def of(cls, rows: Tensor, dtype: torch.dtype) -> "_Directions":
        rows = rows.to(dtype)
        largest = rows.abs().amax(1, keepdim=True)
        scaled = rows / largest
        norm = scaled.square().sum(1, keepdim=True).sqrt()
        return cls(scaled / norm, largest, norm)

    def gradient_for_rows(self, gradient: Tensor) -> Tensor:
        """(g - (g . u) u) / |z|. The result saturates where it would overflow for a very short row."""
        across = gradient - (gradient * self.unit).sum(1, keepdim=True) * self.unit
        limit = torch.finfo(across.dtype).max
        return (across / self.norm / self.largest).clamp(-limit, limit)


class _Columns(NamedTuple):
    """The columns of an anchor's row of similarities that are not negatives."""

    own: Tensor | None  # [M, 1]: the anchor itself, if it is among the keys
    positives: Tensor | None  # [M, P]: the positives, if they are among the keys
    excluded: Tensor | None  # [M, P]: the keys that are not negatives, without the ignored ones
    ignored: Tensor | None  # [M, I]: the ignored keys, padded with -1
    negatives: Tensor  # [M, 1]: the number of negatives

    @classmethod
    def of(cls, operands: Operands, keys: Tensor) -> "_Columns":
        count = keys.new_full((operands.anchors, 1), keys.shape[0] + operands.own_negatives)
        positives, ignored = operands.positive_index, operands.ignored_index
        if positives is not None or operands.positives is not None:
            return cls(None, positives, positives, ignored, count - count_named(positives, ignored))
        # The views of a sample are n rows apart, cyclically.
        views, anchors = len(operands.views), operands.anchors
        rows = torch.arange(anchors, device=keys.device)[:, None]
        of_sample = (rows + torch.arange(views, device=keys.device) * (anchors // views)) % anchors + operands.offset
        return cls(of_sample[:, :1], of_sample[:, 1:], of_sample, None, count - views)

    def blank(self, chunk: "_Chunk", similarities: Tensor) -> None:
        """Writes minus infinity for the keys that are not negatives."""
        if self.excluded is not None:
            similarities.scatter_(1, chunk.of(self.excluded), -math.inf)
        if self.ignored is not None:
            ignored = chunk.of(self.ignored)
            # The minimum with infinity changes nothing: the padding has no effect, and no shape depends on the data.
            bounds = torch.full_like(ignored, -math.inf, dtype=similarities.dtype).masked_fill_(ignored < 0, math.inf)
            similarities.scatter_reduce_(1, ignored.clamp(min=0), bounds, "amin")


class _Chunk(NamedTuple):
    """Anchors `start` to `start + length`."""

    start: int
    length: int

    def of(self, rows: Tensor) -> Tensor:
        return rows.narrow(0, self.start, self.length)


class _Rows(NamedTuple):
    """The data that all chunks share. If the anchors are the keys, `keys` is `anchors`."""

    operands: Operands
    anchors: _Directions
    keys: _Directions
    apart: _Directions | None  # [M * R]: the rows that are compared with one anchor alone
    columns: _Columns

    @classmethod
    def of(cls, operands: Operands) -> "_Rows":
        check_rows(operands)
        dtype = operands.dtype
        anchors = _Directions.of(torch.cat(list(operands.views)), dtype)
        keys = anchors if operands.keys is None else _Directions.of(operands.keys, dtype)
        apart = None if operands.positives is None else _Directions.of(operands.positives, dtype)
        return cls(operands, anchors, keys, apart, _Columns.of(operands, keys.unit))

    def chunks(self) -> Iterator[_Chunk]:
        keys, anchors = self.keys.unit, self.operands.anchors
        each = max(keys.shape[0], self.operands.own_negatives * keys.shape[1])
        length = max((_CPU_CHUNK if keys.device.type == "cpu" else _CHUNK) // each, 1)
        return (_Chunk(start, min(length, anchors - start)) for start in range(0, anchors, length))

    def similarities(self, chunk: _Chunk) -> tuple[Tensor, Tensor]:
        """The similarities with the keys and the own negatives, [C, L], and with the positives, [C, P]."""
        anchors = chunk.of(self.anchors.unit)
        similarities = anchors @ self.keys.unit.T
        apart = None if self.apart is None else (anchors[:, None] * self.rows_apart(chunk, self.apart.unit)).sum(2)
        if self.columns.positives is not None:
            positives = similarities.gather(1, chunk.of(self.columns.positives))
        else:
            assert apart is not None
            positives, apart = apart[:, :1], apart[:, 1:]
        if apart is not None and apart.shape[1] > 0:
            similarities = torch.cat([similarities, apart], 1)
        if self.columns.own is not None:
            similarities.scatter_(1, chunk.of(self.columns.own), 1.0)
        return similarities, positives

    def rows_apart(self, chunk: _Chunk, rows: Tensor) -> Tensor:
        """The rows apart of the anchors of a chunk, [C, R, D]."""
        return chunk.of(rows.view(self.operands.anchors, -1, rows.shape[1]))


def check_rows(operands: Operands) -> None:
    """Raises an error for rows on the CPU that have no direction. It names the caller's argument.

    Raises:
        ValueError: A row is all zeros or not finite.
    """
    if operands.views[0].device.type != "cpu":
        return  # the check would wait for the device
    views = [f"z{1 + view}" if view < 2 else f"more_views[{view - 2}]" for view in range(len(operands.views))]
    names = [*(views if operands.keys is None or len(views) > 1 else ["anchors"]), "keys", "positives"]
    for name, rows in zip(names, [*operands.views, operands.keys, operands.positives], strict=True):
        if rows is None:
            continue
        largest = rows.abs().amax(1)
        bad = ~(largest.isfinite() & (largest > 0))
        if bad.any():
            row = int(bad.int().argmax())
            fault = "is all zeros" if largest[row] == 0 else "has a NaN or an infinity"
            if name == "positives":
                name, row = _name_apart(operands, row)
            raise ValueError(f"expected rows of finite numbers, not all zero, but row {row} of `{name}` {fault}")


def _name_apart(operands: Operands, row: int) -> tuple[str, int]:
    """The caller's name for one of the rows apart."""
    anchor, place = divmod(row, operands.rows_apart)
    positives = operands.rows_apart - operands.own_negatives
    return ("positives", anchor) if place < positives else (f"own_negatives[{anchor}]", place - positives)


# --------------------------------------------------------------------------------------------------------- threshold


def _threshold(rows: _Rows) -> Tensor:
    """The threshold, 0-d. NaN if labels decide."""
    operands = rows.operands
    if operands.threshold is not None:
        return operands.threshold.to(operands.dtype)
    if operands.threshold_rule == "adaptive":
        return _row_quantiles(rows, operands.threshold_value).mean()
    return rows.keys.unit.new_full((), math.nan if operands.threshold_rule == "labels" else operands.threshold_value)


def _row_quantiles(rows: _Rows, quantile: float) -> Tensor:
    return torch.cat([_quantiles_of_chunk(rows, chunk, quantile) for chunk in rows.chunks()])


def _quantiles_of_chunk(rows: _Rows, chunk: _Chunk, quantile: float) -> Tensor:
    row, positives = rows.similarities(chunk)
    if rows.columns.positives is None:
        row = torch.cat([row, positives], 1)
    # Count from the nearer end, because the work grows with k. Python rounds half to even, like torch.quantile.
    k, length = 1 + round(quantile * (row.shape[1] - 1)), row.shape[1]
    if 2 * k <= length:
        return row.topk(k, 1, largest=False, sorted=False).values.amax(1)
    return row.topk(length - k + 1, 1, sorted=False).values.amin(1)


def _hierarchical(
    rows: _Rows, chunk: _Chunk, similarities: Tensor, positives: Tensor, threshold: Tensor
) -> Tensor | None:
    """A mask of the keys and own negatives on the hierarchical side, [C, L]. None if there are none."""
    operands = rows.operands
    if operands.threshold_rule == "labels":
        assert operands.anchor_labels is not None
        keys = operands.anchor_labels if operands.key_labels is None else operands.key_labels
        # The own negatives have no labels.
        return F.pad(chunk.of(operands.anchor_labels)[:, None] == keys, (0, operands.own_negatives))
    if operands.threshold_rule in ("margin", "relative_margin"):
        closest, margin = positives.amax(1, keepdim=True), operands.threshold_value
        threshold = closest + (margin if operands.threshold_rule == "margin" else margin * closest.abs())
    value = operands.threshold_value
    by_value = operands.threshold_rule in ("cosine", "minmax") and operands.threshold is None
    if by_value and value >= 1.0:
        return None
    if operands.threshold_rule == "minmax" and math.isfinite(value):
        low, high = similarities.amin(1, keepdim=True), similarities.amax(1, keepdim=True)
        if rows.columns.positives is None:
            low, high = torch.minimum(low, positives), torch.maximum(high, positives)
        return similarities > low + (high - low) * value
    # A cosine never exceeds 1, but a rounded one may.
    return similarities > threshold.masked_fill(threshold >= 1.0, math.inf)


# ----------------------------------------------------------------------------------------------------------- formula


class Sums(NamedTuple):
    """Sums over the negatives of each anchor, [C, 1] each. The names are those of `src/formula.rs`.

    Each sum is divided by a power of exp(shift / temperature), so that no exponential overflows at a low temperature.
    The shift is the largest similarity among the summed negatives.
    """

    global_shift: Tensor
    hierarchical_shift: Tensor
    global_: Tensor  # sum over G of exp((c - global_shift) / t)
    weighted: Tensor  # sum over H of exp((1 + beta) (c - hierarchical_shift) / t)
    weights: Tensor  # sum over H of exp(beta (c - hierarchical_shift) / t)
    hierarchical: Tensor  # |H|
    similarity: Tensor  # sum over H of c
    negatives: Tensor  # |G| + |H|


class Formula(NamedTuple):
    """The losses and their derivatives with respect to the similarities c.

    The derivative is `positives` for a positive, and `global_ * exp((c - global_shift) / t)` for a global negative. For
    a hierarchical negative it is
    `weighted * exp((1 + beta) (c - hierarchical_shift) / t) - weights * exp(beta (c - hierarchical_shift) / t)`.
    """

    loss: Tensor  # [C, 1]: 0 where the loss is undefined
    defined: Tensor  # bool [C, 1]
    at_floor: Tensor  # [C, 1]: the fraction of the positives for which Q is at its floor
    positives: Tensor  # [C, P]
    global_: Tensor  # [C, 1]
    weighted: Tensor  # [C, 1]
    weights: Tensor  # [C, 1]
    temperature: Tensor  # [C, 1]: the temperature's derivative through floor and constant, which use no similarity


def formula(operands: Operands, sums: Sums, positives: Tensor) -> Formula:
    """Losses and derivatives from the sums over the negatives and the similarities of the positives, [C, P]."""
    temperature = _temperature(operands, positives.dtype)
    if operands.formulation == "importance":
        return _importance(temperature, operands.beta, operands.tau_plus, sums, positives)
    if operands.formulation == "elimination":
        # What remains is InfoNCE over the global negatives.
        none = torch.zeros_like(sums.hierarchical)
        remaining = sums._replace(hierarchical=none, weighted=none)
        return _importance(temperature, 0.0, 0.0, remaining, positives)
    if operands.formulation == "supervised":
        return _supervised(temperature, sums, positives)
    official = operands.formulation == "official"
    constant = torch.exp(torch.full_like(sums.negatives, -1.0) / temperature) * sums.negatives if official else None
    return _without_positive(temperature, constant, sums, positives)


def _temperature(operands: Operands, dtype: torch.dtype) -> float | Tensor:
    return operands.temperature_value if operands.temperature is None else operands.temperature.to(dtype)


def _importance(temperature: float | Tensor, beta: float, tau_plus: float, sums: Sums, positives: Tensor) -> Formula:
    """The mean over the positives p of L_p = -s_p + log(exp(s_p) + E + Q_p)."""
    share, count, empty = 1.0 / positives.shape[1], sums.hierarchical, sums.hierarchical == 0
    logit = positives / temperature
    log_global = sums.global_shift / temperature + sums.global_.log()
    mean_weight = (sums.weights / count).masked_fill(empty, 1.0)
    log_reweighted = sums.hierarchical_shift / temperature + (sums.weighted / mean_weight).log()  # log R
    # All terms are relative to the largest one.
    top = torch.maximum(torch.maximum(logit, log_global), log_reweighted)
    positive = (logit - top).exp()
    floor = count * (-1.0 / temperature - top).exp()
    debiased = ((log_reweighted - top).exp() - tau_plus * count * positive) / (1.0 - tau_plus)
    at_floor = (debiased <= floor) & ~empty
    denominator = positive + (log_global - top).exp() + torch.maximum(debiased, floor).masked_fill(empty, 0.0)

    scale = share / (temperature * denominator)
    live = torch.where(at_floor | empty, 0.0, scale / (1.0 - tau_plus))
    of_global = torch.where(sums.global_ > 0, scale * (sums.global_shift / temperature - top).exp(), 0.0)
    of_hierarchical = live * (sums.hierarchical_shift / temperature - top).exp() / mean_weight
    of_hierarchical = torch.where(live > 0, of_hierarchical, 0.0).sum(1, keepdim=True)
    return Formula(
        loss=(top + denominator.log() - logit).mean(1, keepdim=True),
        defined=torch.ones_like(empty),
        at_floor=at_floor.to(logit.dtype).mean(1, keepdim=True),
        positives=scale * positive - share / temperature - live * tau_plus * count * positive,
        global_=of_global.sum(1, keepdim=True),
        weighted=of_hierarchical * (1.0 + beta),
        weights=of_hierarchical * beta * sums.weighted / sums.weights.masked_fill(empty, 1.0),
        temperature=torch.where(at_floor, scale * floor / temperature, 0.0).sum(1, keepdim=True),
    )


def _without_positive(temperature: float | Tensor, constant: Tensor | None, sums: Sums, positives: Tensor) -> Formula:
    """The mean over the positives p of L_p = -s_p + log(E) + constant. Undefined without a global negative."""
    defined = sums.global_ > 0
    loss = sums.global_shift / temperature + sums.global_.log() - positives.mean(1, keepdim=True) / temperature
    none = torch.zeros_like(sums.global_)
    constant = none if constant is None else constant
    attraction = defined.to(positives.dtype) / (-positives.shape[1] * temperature)
    return Formula(
        loss=torch.where(defined, loss + constant, 0.0),
        defined=defined,
        at_floor=none,
        positives=attraction.expand_as(positives),
        global_=torch.where(defined, 1.0 / (temperature * sums.global_), 0.0),
        weighted=none,
        weights=none,
        temperature=torch.where(defined, constant / (temperature * temperature), 0.0),
    )


def _supervised(temperature: float | Tensor, sums: Sums, positives: Tensor) -> Formula:
    """L = log(sum over all other rows of exp(s)) - mean of s over the positives, which include the anchor's label."""
    count = positives.shape[1] + sums.hierarchical
    defined, share = count > 0, 1.0 / count.clamp(min=1.0)
    log_global = sums.global_shift / temperature + sums.global_.log()
    log_label = sums.hierarchical_shift / temperature + sums.weighted.log()
    logit = positives / temperature
    top = torch.cat([log_global, log_label, logit], 1).amax(1, keepdim=True)
    positive = (logit - top).exp()
    denominator = (log_global - top).exp() + (log_label - top).exp() + positive.sum(1, keepdim=True)
    attraction = share * (positives.sum(1, keepdim=True) + sums.similarity) / temperature
    scale = 1.0 / (temperature * denominator)
    none = torch.zeros_like(top)

    def coefficient(total: Tensor, shift: Tensor) -> Tensor:
        return torch.where(defined & (total > 0), scale * (shift / temperature - top).exp(), 0.0)

    return Formula(
        loss=torch.where(defined, top + denominator.log() - attraction, 0.0),
        defined=defined,
        at_floor=none,
        positives=scale * positive - share / temperature,
        global_=coefficient(sums.global_, sums.global_shift),
        weighted=coefficient(sums.weighted, sums.hierarchical_shift),
        weights=torch.where(defined, share / temperature, 0.0),
        temperature=none,
    )


# ---------------------------------------------------------------------------------------------- one chunk of anchors


class _Anchors(NamedTuple):
    """The results for each anchor, [C] each."""

    loss: Tensor
    defined: Tensor  # 1 or 0
    at_floor: Tensor  # fraction of its positives
    hierarchical: Tensor  # number of hierarchical negatives
    positive: Tensor  # sum of the similarities of the positives
    positives: Tensor  # number of positives
    negative: Tensor  # sum of the similarities of the negatives


def _chunk(rows: _Rows, chunk: _Chunk, threshold: Tensor, gradients: "_Gradients") -> _Anchors:
    operands, dtype = rows.operands, rows.operands.dtype
    similarities, positives = rows.similarities(chunk)
    hierarchical = _hierarchical(rows, chunk, similarities, positives, threshold)
    rows.columns.blank(chunk, similarities)
    negative = similarities.masked_fill(similarities == -math.inf, 0.0).sum(1)
    split = _split(operands, similarities, hierarchical)
    similarity = torch.zeros_like(chunk.of(rows.columns.negatives))
    if operands.formulation == "supervised":
        assert hierarchical is not None
        valid = hierarchical & (similarities > -math.inf)
        similarity = similarities.masked_fill(~valid, 0.0).sum(1, keepdim=True)
    # These are few numbers. Use double precision if the device has it.
    wide = torch.float32 if similarities.device.type == "mps" else torch.float64
    sums = Sums(*(each.to(wide) for each in (*split.sums, similarity, chunk.of(rows.columns.negatives))))
    found = Formula(*(each.to(dtype) for each in formula(operands, sums, positives.to(wide))))
    gradients.add(rows, chunk, split, found)
    return _Anchors(
        loss=found.loss[:, 0],
        defined=found.defined[:, 0],
        at_floor=found.at_floor[:, 0],
        hierarchical=sums.hierarchical[:, 0].to(dtype),
        positive=positives.sum(1) + similarity[:, 0],
        positives=torch.full_like(sums.hierarchical[:, 0], positives.shape[1], dtype=dtype)
        + (sums.hierarchical[:, 0].to(dtype) if operands.formulation == "supervised" else 0.0),
        negative=negative,
    )


class _Split(NamedTuple):
    """The exponentials of the negatives, [C, L], 0 for other keys, and their sums.

    The sums are the fields of `Sums` without `similarity` and `negatives`.
    """

    exponentials: Sequence[Tensor]  # of the sums `global_`, `weighted` and `weights`
    sums: Sequence[Tensor]


def _split(operands: Operands, similarities: Tensor, hierarchical: Tensor | None) -> _Split:
    """Splits `similarities` [C, L], which are minus infinity where a key is not a negative."""

    def shifted(side: Tensor) -> tuple[Tensor, Tensor]:
        """The largest similarity [C, 1] as the shift, and (c - shift) / t, minus infinity for other keys."""
        shift = side.amax(1, keepdim=True)
        shift = shift.masked_fill(shift == -math.inf, 0.0)
        return shift, (side - shift).div_(_temperature(operands, side.dtype))

    if hierarchical is None:
        shift, logits = shifted(similarities)
        of_global = logits.exp_()
        none = torch.zeros_like(shift)
        return _Split([of_global], [shift, none, of_global.sum(1, keepdim=True), none, none, none])
    global_shift, logits = shifted(similarities.masked_fill(hierarchical, -math.inf))
    of_global = logits.exp_()
    hierarchical_shift, logits = shifted(similarities.masked_fill(~hierarchical, -math.inf))
    # exp(0 * -inf) would be NaN.
    beta = 0.0 if operands.formulation == "supervised" else operands.beta
    weights = (beta * logits).exp_() if beta > 0.0 else (logits > -math.inf).to(logits.dtype)
    count = (logits > -math.inf).sum(1, keepdim=True, dtype=logits.dtype)
    weighted = logits.exp_().mul_(weights)
    exponentials = [of_global, weighted, weights]
    totals = [each.sum(1, keepdim=True) for each in exponentials]
    return _Split(exponentials, [global_shift, hierarchical_shift, *totals, count])


class _Gradients(NamedTuple):
    """Running sums of the gradients for the directions of each input. None for unwanted gradients."""

    anchors: Tensor | None
    keys: Tensor | None
    apart: Tensor | None
    temperature: Tensor | None

    @classmethod
    def zeros(cls, rows: _Rows) -> "_Gradients":
        operands = rows.operands
        wanted = operands.want_gradient and not operands.one_loss_per_anchor
        keys = rows.keys if operands.keys is not None and operands.want_keys_gradient else None
        apart = rows.apart if operands.want_positives_gradient else None
        anchors, *others = (torch.zeros_like(of.unit) if wanted and of else None for of in (rows.anchors, keys, apart))
        temperature = rows.anchors.unit.new_zeros(()) if wanted and operands.want_temperature_gradient else None
        return cls(anchors, others[0], others[1], temperature)

    def add(self, rows: _Rows, chunk: _Chunk, split: _Split, found: Formula) -> None:
        if self.anchors is None:
            return
        coefficients = (found.global_, found.weighted, -found.weights)
        by_positives, by_negatives, by_temperature = (
            found.positives,
            split.exponentials[0] * coefficients[0],
            found.temperature,
        )
        for exponentials, coefficient in zip(split.exponentials[1:], coefficients[1:], strict=False):
            by_negatives.addcmul_(exponentials, coefficient)
        if rows.operands.weights is not None:
            weights = chunk.of(rows.operands.weights)[:, None]
            by_positives, by_negatives = by_positives * weights, by_negatives.mul_(weights)
            by_temperature = by_temperature * weights
        if self.temperature is not None:
            self.temperature.add_(by_temperature.sum())
        keys = rows.keys.unit.shape[0]
        by_keys, by_apart = by_negatives[:, :keys], by_negatives[:, keys:]
        if rows.columns.positives is not None:
            by_keys.scatter_add_(1, chunk.of(rows.columns.positives), by_positives)
        else:
            by_apart = torch.cat([by_positives, by_apart], 1)
        anchors = chunk.of(rows.anchors.unit)
        chunk.of(self.anchors).addmm_(by_keys, rows.keys.unit)
        for_keys = self.anchors if rows.operands.keys is None else self.keys
        if for_keys is not None:
            for_keys.addmm_(by_keys.T, anchors)
        if rows.apart is not None:
            by_apart = by_apart[:, :, None]
            chunk.of(self.anchors).add_((by_apart * rows.rows_apart(chunk, rows.apart.unit)).sum(1))
            if self.apart is not None:
                rows.rows_apart(chunk, self.apart).add_(by_apart * anchors[:, None])

    def finish(self, rows: _Rows, divisor: Tensor) -> list[Tensor | None]:
        """The gradients for the rows and the temperature. None for unwanted gradients."""
        directions = (rows.anchors, rows.keys, rows.apart)
        of_rows = [
            None if sums is None or of is None else of.gradient_for_rows(sums / divisor)
            for sums, of in zip(self, directions, strict=False)
        ]
        if self.temperature is None or self.anchors is None:
            return [*of_rows, None]
        # Except for floor and constant, the loss depends on similarities and temperature only through their ratio. If
        # the anchors are the keys, their gradients count each pair twice.
        pairs = (self.anchors * rows.anchors.unit).sum() * (0.5 if rows.operands.keys is None else 1.0)
        temperature = self.temperature - pairs / _temperature(rows.operands, pairs.dtype)
        return [*of_rows, temperature / divisor]


def _statistics(rows: _Rows, threshold: Tensor, anchors: _Anchors) -> Tensor:
    """The statistics in the order of :class:`hex_ssl.statistics.Statistics`."""
    negatives = rows.columns.negatives.sum()
    return torch.stack(
        [
            threshold,
            anchors.hierarchical.mean(),
            anchors.positive.sum() / anchors.positives.sum(),
            (anchors.negative.sum() / negatives).masked_fill(negatives == 0, math.nan),
            anchors.at_floor.mean(),
            (1.0 - anchors.defined).sum(),
        ]
    )
