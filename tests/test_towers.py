"""CLIP's loss and InfoNCE against cross entropy, over sizes, dtypes, thresholds and backends."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hex_ssl import CLIPLoss, InfoNCELoss
from hex_ssl.functional import clip_loss, hex_loss_with_keys, infonce_loss
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}


def towers(rows: int, dims: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * dims)
    a = torch.randn(rows, dims, generator=generator, dtype=torch.float64)
    b = a + torch.randn(rows, dims, generator=generator, dtype=torch.float64)
    return a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()


def by_cross_entropy(a: Tensor, b: Tensor, temperature: float, reduction: str = "mean") -> Tensor:
    """CLIP's loss as its paper has it, in float64."""
    a, b = F.normalize(a.double(), dim=1), F.normalize(b.double(), dim=1)
    logits, index = a @ b.T / temperature, torch.arange(a.shape[0])
    both = [F.cross_entropy(each, index, reduction=reduction) for each in (logits, logits.T)]
    return {"mean": sum(both) / 2, "sum": sum(both), "none": torch.cat(both) if reduction == "none" else None}[
        reduction
    ]


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [each.double() for each in torch.autograd.grad(loss.sum(), inputs)]


def assert_like(found: Tensor, expected: Tensor, dtype: torch.dtype, *inputs: Tensor) -> None:
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    # The gradients of 16-bit rows are rounded to 16 bits.
    rounding = {torch.bfloat16: 5e-3, torch.float16: 1e-3}.get(dtype, tolerance)
    for ours, theirs in zip(gradients(found, *inputs), gradients(expected, *inputs), strict=True):
        assert (ours - theirs).norm() <= rounding * max(theirs.norm(), 1e-3)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("rows", "dims"), [(1, 3), (2, 1), (3, 8), (64, 16), (65, 100), (130, 5), (257, 32), (400, 7)])
def test_clip_is_cross_entropy_both_ways(rows: int, dims: int, dtype: torch.dtype, backend: str) -> None:
    a, b = towers(rows, dims, dtype)
    assert_like(clip_loss(a, b, temperature=0.2), by_cross_entropy(a, b, 0.2), dtype, a, b)


@pytest.mark.parametrize("temperature", [0.005, 0.01, 0.07, 1.0, 10.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_clip_over_temperatures(reduction: str, temperature: float, backend: str) -> None:
    a, b = towers(70, 9)
    found = clip_loss(a, b, temperature=temperature, reduction=reduction)
    assert found.shape == ((140,) if reduction == "none" else ())
    assert_like(found, by_cross_entropy(a, b, temperature, reduction), torch.float64, a, b)


@pytest.mark.parametrize(
    "threshold",
    [AdaptiveThreshold(0.9), FixedThreshold(0.4, scale="cosine"), FixedThreshold(0.7), "supervised"],
    ids=str,
)
@pytest.mark.parametrize("formulation", ["importance", "official", "decoupled"])
def test_hierarchical_negatives_of_both_directions(formulation: str, threshold: Any, backend: str) -> None:
    a, b = towers(67, 6)
    labels = torch.arange(67) % 4
    supervised = threshold == "supervised"
    given: dict[str, Any] = {"temperature": 0.2, "formulation": formulation, "beta": 0.5}
    found, statistics = clip_loss(
        a, b, threshold=threshold, labels=labels if supervised else None, return_statistics=True, **given
    )
    if isinstance(threshold, AdaptiveThreshold):  # one for both directions, of which each alone has another
        threshold = FixedThreshold(float(statistics.threshold), scale="cosine")
    if supervised:
        given |= {"anchor_labels": labels, "key_labels": labels}
    index = torch.arange(67)
    both = [
        hex_loss_with_keys(*pair, positive_index=index, threshold=threshold, return_statistics=True, **given)
        for pair in ((a, b), (b, a))
    ]
    assert statistics.hierarchical_negatives > 1
    assert_like(found, (both[0][0] + both[1][0]) / 2, torch.float64, a, b)
    for name in statistics._fields[1:5]:
        expected = (getattr(both[0][1], name) + getattr(both[1][1], name)) / 2
        torch.testing.assert_close(getattr(statistics, name), expected, rtol=1e-9, atol=1e-12)


def test_collapsed_towers(backend: str) -> None:
    a = torch.ones(12, 5, requires_grad=True)
    found = clip_loss(a, a.detach().clone(), temperature=0.05)
    torch.testing.assert_close(found.detach(), torch.tensor(math.log(12.0)))
    assert gradients(found, a)[0].abs().max() < 1e-6


def test_same_bits_from_any_threads() -> None:
    a, b = towers(900, 33, torch.float32)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        loss = clip_loss(a, b)
        found.append((loss.detach(), *gradients(loss, a, b)))
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


def test_infonce_is_cross_entropy(backend: str) -> None:
    anchors, keys = towers(40, 8)
    hard = torch.randn(15, 8, dtype=torch.float64, requires_grad=True)

    def reference(weights: Tensor | None = None) -> Tensor:
        rows = F.normalize(anchors, dim=1) @ F.normalize(torch.cat([keys, hard]), dim=1).T / 0.3
        losses = F.cross_entropy(rows, torch.arange(40), reduction="none")
        return losses.mean() if weights is None else (weights * losses).sum() / weights.sum()

    inputs = (anchors, keys, hard)
    assert_like(infonce_loss(anchors, torch.cat([keys, hard]), temperature=0.3), reference(), torch.float64, *inputs)
    weights = torch.rand(40)
    weighted = InfoNCELoss(temperature=0.3)(anchors, torch.cat([keys, hard]), weights=weights)
    assert_like(weighted, reference(weights.double()), torch.float64, *inputs)
    each = infonce_loss(anchors, torch.cat([keys, hard]), temperature=0.3, reduction="none")
    torch.testing.assert_close(each.mean(), reference())


def test_infonce_by_index(backend: str) -> None:
    keys, anchors = towers(30, 8)
    order = torch.randperm(30)
    moved = infonce_loss(anchors, keys[order], positive_index=order.argsort(), temperature=0.3)
    torch.testing.assert_close(moved, infonce_loss(anchors, keys, temperature=0.3), rtol=1e-12, atol=0)


def test_module_keeps_statistics_and_takes_a_temperature() -> None:
    a, b = towers(20, 8)
    criterion = CLIPLoss(temperature=0.2)
    assert criterion.statistics is None
    assert torch.equal(criterion(a, b), clip_loss(a, b, temperature=0.2))
    assert torch.equal(criterion(a, b, temperature=0.5), clip_loss(a, b, temperature=0.5))
    assert criterion.statistics is not None
    assert criterion.statistics.undefined_anchors == 0
    assert repr(criterion) == "CLIPLoss(temperature=0.2, gather_distributed=False, reduction='mean')"
    one_way = InfoNCELoss(temperature=0.2)
    assert torch.equal(one_way(a, b), infonce_loss(a, b, temperature=0.2))
    assert torch.equal(one_way(a, b, temperature=0.5), infonce_loss(a, b, temperature=0.5))


def test_compiled_without_a_break() -> None:
    a, b = towers(20, 8)
    compiled = torch.compile(clip_loss, backend="aot_eager", fullgraph=True)
    found, expected = compiled(a, b, temperature=0.2), clip_loss(a, b, temperature=0.2)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert all(torch.equal(*pair) for pair in zip(gradients(found, a, b), gradients(expected, a, b), strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: clip_loss(a, b[:5]), r"expected `z2` to have shape \[8, 4\] like `z1`, but got \[5, 4\]"),
        (lambda a, b: clip_loss(a, b.float()), "expected `z2` to have dtype float64 like `z1`, but got float32"),
        (lambda a, b: clip_loss(a, torch.zeros_like(b)), "not all zero, but row 0 of `z2` is all zeros"),
        (lambda a, b: clip_loss(a, b, labels=torch.arange(8)), "`labels`"),
        (lambda a, b: infonce_loss(a, b[:5]), "expected `keys` to have at least 8 rows"),
        (lambda a, b: infonce_loss(a, b, weights=torch.ones(3)), r"expected `weights` to have shape \[8\]"),
        (lambda a, b: infonce_loss(a, b, weights=-torch.ones(8)), "expected `weights` to be at least 0"),
        (
            lambda a, b: infonce_loss(a, b, weights=torch.ones(8, requires_grad=True)),
            "expected `weights` without a gradient",
        ),
        (lambda a, b: infonce_loss(a, b, weights=torch.arange(8)), r"int64; write weights.float\(\)"),
        (
            lambda a, b: infonce_loss(a, b, formulation="elimination"),
            "expected a `threshold` that finds the negatives to leave out",
        ),
        (lambda a, b: clip_loss(a, b, formulation="elimination"), "expected a `threshold` that finds the negatives to"),
        (lambda a, b: InfoNCELoss(formulation="elimination"), "expected a `threshold` that finds the negatives to"),
    ],
)
def test_errors(call: Any, message: str, backend: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*towers(8, 4))


def test_a_scale_in_the_place_of_open_clips_is_no_temperature() -> None:
    # open_clip's ClipLoss takes `logit_scale` third, the inverse of a temperature.
    with pytest.raises(TypeError, match="positional arguments"):
        CLIPLoss()(*towers(8, 4), torch.tensor(14.3))  # type: ignore[misc]


def test_weights_may_have_a_sum_above_the_largest_float16() -> None:
    anchors, keys = towers(8, 4)
    weights = torch.tensor([3e4, 1e4] * 4, dtype=torch.float16)
    found = infonce_loss(anchors, keys, weights=weights)
    torch.testing.assert_close(found, infonce_loss(anchors, keys, weights=torch.tensor([3.0, 1.0] * 4)))


def test_weights_compile_without_a_break() -> None:
    anchors, keys = towers(8, 4)
    weights = torch.arange(1.0, 9.0)
    compiled = torch.compile(infonce_loss, backend="aot_eager", fullgraph=True)
    found, expected = compiled(anchors, keys, weights=weights), infonce_loss(anchors, keys, weights=weights)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("positive_index", -1, r"expected `positive_index` to be in \[0, 8\), but got -1"),
        ("positive_index", 8, r"expected `positive_index` to be in \[0, 8\), but got 8"),
        ("ignored_index", 8, r"expected `ignored_index` to be in \[-1, 8\), but got 8"),
        ("ignored_index", -2, r"expected `ignored_index` to be in \[-1, 8\), but got -2"),
    ],
)
def test_a_row_of_another_process_is_an_error(
    name: str, row: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Before anything is gathered: the second process would take -1 for the last row of the first.
    monkeypatch.setattr("hex_ssl.towers.is_distributed", lambda: True)
    index = torch.arange(8).roll(1).index_fill(0, torch.tensor(5), row)
    with pytest.raises(ValueError, match=message):
        infonce_loss(*towers(8, 4), gather_distributed=True, **{name: index})  # type: ignore[call-overload]
