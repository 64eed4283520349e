"""Calls the package with a `Settings`, and asserts that value, gradient and statistics equal the reference's."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hex_ssl import _core, dispatch, functional
from hex_ssl.operands import quantile_operands
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold, MarginThreshold, SupervisedThreshold

from .batches import is_decided
from .reference import (
    Evaluation,
    Settings,
    Statistics,
    apart_layout,
    evaluate,
    indexed_layout,
    nearest_quantile,
    views_layout,
)

# Relative error at temperature 0.1 of the loss and of the gradient. Cosines carry about 1e-7 in float32, logits
# 1 / temperature times that. float64 is bounded by the reference's own rounding. A bfloat16 result is rounded to
# 2^-9 = 2e-3 and the cosines of rounded unit rows are about 3e-4 off, 3e-3 in the logits; float16 keeps 3 bits more.
LOSS_ERROR = {torch.float64: 1e-11, torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
GRADIENT_ERROR = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def arguments(settings: Settings) -> dict[str, Any]:
    """The settings as keyword arguments of `hex_loss`."""
    threshold: object
    match settings.threshold:
        case "adaptive":
            threshold = AdaptiveThreshold(quantile=settings.value)
        case "labels":
            threshold = SupervisedThreshold()
        case "margin" | "relative_margin":
            threshold = MarginThreshold(settings.value, relative=settings.threshold == "relative_margin")
        case scale:
            threshold = FixedThreshold(settings.value, scale=scale)
    return {
        "temperature": settings.temperature,
        "threshold": threshold,
        "formulation": settings.formulation,
        "beta": settings.beta,
        "tau_plus": settings.tau_plus,
    }


def assert_like_reference(
    call: Callable[..., tuple[Tensor, Statistics]],
    reference: Callable[..., Evaluation],
    inputs: Sequence[Tensor],
    settings: Settings,
    reduction: str = "mean",
) -> None:
    """`call(*inputs)` gives the package's loss and statistics, `reference(*inputs in float64)` the reference's."""
    dtype = inputs[0].dtype
    ours = [x.detach().requires_grad_() for x in inputs]
    loss, statistics = call(*ours)
    expected_inputs = [x.detach().double().requires_grad_() for x in inputs]
    expected = reference(*expected_inputs)
    expected_loss = expected.reduced(reduction)
    assert is_decided(expected, dtype), "rounding may turn a decision of this batch over: draw another"

    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.shape == expected_loss.shape
    if reduction == "none":
        gradient_of = torch.linspace(0.5, 1.5, steps=len(expected.losses), dtype=torch.float64)
        (loss * gradient_of.to(loss.dtype)).sum().backward()
        (expected_loss * gradient_of).sum().backward()
        weight = 1.0
    else:
        loss.backward()
        expected_loss.backward()
        weight = 1.0 if reduction == "sum" else 1 / len(expected.losses)

    assert_loss(loss, expected_loss, settings, dtype, len(expected.losses) if reduction == "sum" else 1)
    for mine, theirs in zip(ours, expected_inputs, strict=True):
        assert mine.grad is not None
        assert mine.grad.dtype == dtype
        assert theirs.grad is not None
        assert_gradient(mine.grad, theirs.grad, theirs.detach(), settings, weight)
    assert_statistics(statistics, expected.statistics, dtype)


def amplification(settings: Settings) -> float:
    """How much the rounding of a cosine is amplified compared with the defaults, by 1 + beta and by differences."""
    return max(1.0, 0.1 / settings.temperature) * max(1.0, (1 + settings.beta) / 2) / (1 - settings.tau_plus)


def assert_loss(loss: Tensor, expected: Tensor, settings: Settings, dtype: torch.dtype, terms: int = 1) -> None:
    """Asserts that the loss is right up to its dtype's rounding. A sum may be off `terms` times as much."""
    error = LOSS_ERROR[dtype] * amplification(settings)
    torch.testing.assert_close(loss.double(), expected.double(), rtol=error, atol=error * terms)


def assert_gradient(gradient: Tensor, expected: Tensor, rows: Tensor, settings: Settings, weight: float) -> None:
    """The gradient per relative change of its row is right, relative to the largest and to an anchor's full pull.

    The pull of one positive on one anchor is at most weight / temperature; where all gradients cancel (one
    dimension, a loss of 0) rounding leaves a remainder of that size times the dtype's precision.
    """
    error = GRADIENT_ERROR[gradient.dtype] * amplification(settings)
    norms = rows.double().norm(dim=1, keepdim=True)
    scale = (expected * norms).abs().max().item() + 0.1 * weight / settings.temperature
    off = (gradient.double() * norms - expected * norms).abs().max().item()
    assert off <= error * scale, f"the gradient is off by {off / scale:.1e} of its scale, more than {error:.1e}"


def assert_statistics(statistics: Statistics, expected: Statistics, dtype: torch.dtype) -> None:
    """Asserts that each statistic is right up to its dtype's rounding. Counts and fractions are exact to float32."""
    error = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-3, torch.float16: 1e-3}[dtype]
    for name, value in expected._asdict().items():
        ours = float(getattr(statistics, name))
        if math.isnan(value):
            assert math.isnan(ours), f"{name}: {ours}, expected NaN"
        else:
            similarity = name in ("threshold", "positive_similarity", "negative_similarity")
            allowed = error if similarity else (1e-12 if dtype == torch.float64 else 1e-6) * max(1.0, abs(value))
            assert ours == value or abs(ours - value) <= allowed, f"{name}: {ours}, expected {value}"


def assert_views_like_reference(
    z: Tensor, views: int, settings: Settings, *, labels: Tensor | None = None, reduction: str = "mean"
) -> None:
    """`hex_loss` on `views` views of samples, stacked in `z`."""
    samples = len(z) // views
    rows = None if labels is None else labels.repeat(views)

    def call(*split: Tensor) -> tuple[Tensor, Statistics]:
        return functional.hex_loss(
            *split, labels=labels, reduction=reduction, return_statistics=True, **arguments(settings)
        )

    def reference(*split: Tensor) -> Evaluation:
        stacked = torch.cat(split)
        return evaluate(stacked, stacked, views_layout(samples, views), settings, rows, rows)

    assert_like_reference(call, reference, z.chunk(views), settings, reduction)


def assert_index_like_reference(
    anchors: Tensor,
    keys: Tensor,
    positive_index: Tensor,
    ignored_index: Tensor | None,
    settings: Settings,
    *,
    labels: tuple[Tensor, Tensor] | None = None,
    reduction: str = "mean",
) -> None:
    """`hex_loss_with_keys` on anchors that name their positive keys."""
    layout = indexed_layout(
        positive_index.view(len(anchors), -1).tolist(),
        None if ignored_index is None else ignored_index.view(len(anchors), -1).tolist(),
        len(keys),
    )
    anchor_labels, key_labels = labels or (None, None)

    def call(anchors: Tensor, keys: Tensor) -> tuple[Tensor, Statistics]:
        return functional.hex_loss_with_keys(
            anchors,
            keys,
            positive_index=positive_index,
            ignored_index=ignored_index,
            anchor_labels=anchor_labels,
            key_labels=key_labels,
            reduction=reduction,
            return_statistics=True,
            **arguments(settings),
        )

    def reference(anchors: Tensor, keys: Tensor) -> Evaluation:
        return evaluate(anchors, keys, layout, settings, anchor_labels, key_labels)

    assert_like_reference(call, reference, [anchors, keys], settings, reduction)


def assert_apart_like_reference(
    anchors: Tensor,
    keys: Tensor,
    positives: Tensor,
    settings: Settings,
    *,
    ignored_index: Tensor | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
    reduction: str = "mean",
) -> None:
    """`hex_loss_with_keys` on a queue of negatives, each anchor's positive given apart."""
    layout = apart_layout(len(anchors), len(keys), None if ignored_index is None else ignored_index.tolist())
    anchor_labels, key_labels = labels or (None, None)
    # The positives stand below the keys as candidates; their labels are never read.
    candidate_labels = None if key_labels is None else torch.cat([key_labels, torch.full((len(anchors),), -1)])

    def call(anchors: Tensor, keys: Tensor, positives: Tensor) -> tuple[Tensor, Statistics]:
        return functional.hex_loss_with_keys(
            anchors,
            keys,
            positives=positives,
            ignored_index=ignored_index,
            anchor_labels=anchor_labels,
            key_labels=key_labels,
            reduction=reduction,
            return_statistics=True,
            **arguments(settings),
        )

    def reference(anchors: Tensor, keys: Tensor, positives: Tensor) -> Evaluation:
        return evaluate(anchors, torch.cat([keys, positives]), layout, settings, anchor_labels, candidate_labels)

    assert_like_reference(call, reference, [anchors, keys, positives], settings, reduction)


def assert_ties(dtype: torch.dtype, device: torch.device | None = None) -> None:
    """One threshold for all anchors, which is a similarity: no pass has that pair above it."""
    generator = torch.Generator().manual_seed(8)
    keys = torch.randn(1300, 64, generator=generator).to(device, dtype)
    row = torch.randn(64, generator=generator).to(device, dtype)
    # Few keys at the threshold; and all of them, too many to keep.
    for rows, value, above in ((keys, 0.99, 13), (keys[:1].repeat(1300, 1), 0.5, 0)):
        anchors, positives = row.repeat(5, 1).requires_grad_(), -row.repeat(5, 1)
        loss, found = functional.hex_loss_with_keys(
            anchors, rows, positives=positives, threshold=AdaptiveThreshold(value), return_statistics=True
        )
        assert found.hierarchical_negatives == above
        threshold = found.threshold.double().cpu()
        quantiles = expected_quantiles(anchors.detach().cpu(), rows.cpu(), positives.cpu(), value)
        torch.testing.assert_close(threshold, quantiles.mean(), rtol=0, atol=5e-7)
        loss.backward()
        assert anchors.grad is not None
        exact = anchors.detach().double().cpu().requires_grad_()
        settings = Settings(threshold="cosine", value=threshold.item() + 1e-4)
        candidates = torch.cat([rows, positives]).double().cpu()
        expected = evaluate(exact, candidates, apart_layout(5, 1300), settings).reduced("mean")
        expected.backward()
        assert exact.grad is not None
        assert_loss(loss.cpu(), expected, settings, dtype)
        assert (anchors.grad.double().cpu() - exact.grad).norm() < 1e-2 * exact.grad.norm()


def misses_of_quantiles(anchors: Tensor, keys: Tensor, positives: Tensor, quantile: float) -> int:
    """Checks `row_quantiles` on interpreted kernels; how many rows' quantiles the sample's bracket missed."""
    given = quantile_operands([anchors], keys, positives, 0, quantile)
    found, memory = dispatch.allocate_quantiles(given), []

    def scratch(size: int) -> Tensor:
        memory.append(torch.empty(size, dtype=torch.uint8))
        return memory[-1]

    assert _core.row_quantiles(given, found, scratch, dispatch.EMULATED, False, 1) is None
    assert_quantiles(found, anchors, keys, positives, quantile)
    at = _core.cuda_failed_rows_at()
    return int(memory[0][at : at + 4].view(torch.int32))


def expected_quantiles(anchors: Tensor, keys: Tensor, positives: Tensor | None, quantile: float) -> Tensor:
    """By sorting, in float64; positives given apart are of their anchors' rows."""
    anchors, keys = (torch.nn.functional.normalize(rows.double()) for rows in (anchors, keys))
    rows = anchors @ keys.T
    if positives is not None:
        apart = (anchors * torch.nn.functional.normalize(positives.double())).sum(1, keepdim=True)
        rows = torch.cat([rows, apart], 1)
    return torch.tensor([nearest_quantile(row, quantile) for row in rows.tolist()], dtype=torch.float64)


def assert_quantiles(found: Tensor, anchors: Tensor, keys: Tensor, positives: Tensor | None, quantile: float) -> None:
    """Asserts that the quantiles of kernels are right up to rounding."""
    expected = expected_quantiles(anchors, keys, positives, quantile)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-7)
