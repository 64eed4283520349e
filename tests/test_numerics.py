"""Extreme values: results are finite and correct if the mathematics has an answer, otherwise there is a clear error."""

import itertools
import math
import re

import pytest
import torch
from torch import Tensor

from hex_ssl.functional import (
    ALL_HIERARCHICAL,
    NO_HIERARCHY,
    dcl_loss,
    hcl_loss,
    hex_loss,
    hex_loss_with_keys,
    ntxent_loss,
)
from hex_ssl.thresholds import FixedThreshold

from .batches import clustered, decided
from .compare import assert_apart_like_reference, assert_gradient, assert_loss, assert_views_like_reference
from .reference import Settings, evaluate, views_layout

FORMULATIONS = ["importance", "official", "decoupled"]
WIDE = [torch.float64, torch.float32]


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("temperature", [0.005, 0.007, 0.01, 0.02, 0.05, 0.2, 1.0, 10.0])
def test_temperatures(temperature: float, formulation: str, dtype: torch.dtype, backend: str) -> None:
    for value in (-math.inf, 0.4, 1.0):
        if value == -math.inf and formulation != "importance":
            continue
        settings = Settings(temperature, "cosine", value, formulation)
        assert_views_like_reference(decided(40, 2, 16, settings, dtype), 2, settings)


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("temperature", [0.005, 10.0])
def test_temperatures_with_keys(temperature: float, dtype: torch.dtype, backend: str) -> None:
    settings = Settings(temperature, value=0.9)
    a, p, k = clustered(70, 1, 10, torch.Generator().manual_seed(29)).to(dtype).split([20, 20, 30])
    assert_apart_like_reference(a, k, p, settings)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("temperature", [0.005, 0.1])
@pytest.mark.parametrize("opposed", [False, True])
def test_the_whole_range_of_logits(opposed: bool, temperature: float, formulation: str, backend: str) -> None:
    # Positives at 1 or -1 and negatives at both ends: logits of +-200, whose exponentials float32 does not hold.
    corner = torch.tensor([1.0, 0.0, 0.0])
    z1 = torch.stack([corner, -corner, corner.roll(1), corner, -corner])
    z2 = -z1 if opposed else z1.clone()
    settings = Settings(temperature, "cosine", 0.5, formulation, tau_plus=0.0)
    assert_views_like_reference(torch.cat([z1, z2]), 2, settings)


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [(torch.float64, 30), (torch.float64, 200), (torch.float32, 30), (torch.bfloat16, 30), (torch.float16, 3)],
    ids=str,
)
@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("mixed", [False, True], ids=["one scale", "mixed scales"])
def test_scales_of_rows(mixed: bool, formulation: str, dtype: torch.dtype, exponent: int, backend: str) -> None:
    # Squares of 1e-30 and 1e30 leave float32, those of 1e-200 and 1e200 float64. The labels decide, not rounding.
    settings = Settings(threshold="labels", formulation=formulation)
    labels = torch.arange(24) % 6
    plain = torch.nn.functional.normalize(clustered(24, 2, 40, torch.Generator().manual_seed(6)))
    for sign in (-1, 1):
        powers = torch.full((48, 1), float(sign * exponent), dtype=torch.float64)
        if mixed:
            powers[::2] *= -1
        z = (plain * 10**powers).to(dtype).requires_grad_()
        # The reference sees the rounded rows, brought back to a norm of about 1.
        near = (z.detach().double() * 10 ** (-powers)).requires_grad_()
        loss = hex_loss(*z.chunk(2), threshold="supervised", labels=labels, formulation=formulation)
        expected = evaluate(near, near, views_layout(24, 2), settings, labels.repeat(2), labels.repeat(2)).reduced(
            "mean"
        )
        loss.backward()
        expected.backward()
        assert_loss(loss, expected, settings, dtype)
        assert z.grad is not None
        assert near.grad is not None
        # In float16 a gradient of 1e3 times a unit row's overflows nothing, one of 1e-3 times loses its last bits.
        kept = near.grad if dtype != torch.float16 else (near.grad * 10 ** (-powers)).half().double() * 10**powers
        back = (z.grad.double() * 10**powers).to(torch.float64 if dtype == torch.float64 else torch.float32)
        error_dtype = dtype if dtype in (torch.float64, torch.float32) else None
        if error_dtype:
            assert_gradient(back.to(dtype), kept, near.detach(), settings, 1 / 48)
        else:
            off = (back.double() - kept).norm() / kept.norm()
            assert off.item() < 2e-2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("samples", [2, 30, 70])
@pytest.mark.parametrize("temperature", [0.005, 0.1, 10.0])
def test_all_rows_alike(temperature: float, samples: int, dtype: torch.dtype, backend: str) -> None:
    # The weights are then all 1 and the debiasing cancels: log(2 N - 1), whoever is hierarchical.
    rows = torch.randn(12).expand(samples, 12)
    z1, z2 = rows.to(dtype).requires_grad_(), rows.to(dtype).requires_grad_()
    loss = hex_loss(z1, z2, temperature=temperature)
    loss.backward()
    # Rounding of the loss, and of a similarity over the temperature. In bfloat16 either unit row is up to 2^-9 off.
    rounding = {torch.float64: 4e-15, torch.bfloat16: 2**-8}.get(dtype, 2e-7)
    assert loss.item() == pytest.approx(math.log(2 * samples - 1), abs=rounding * (5 + 1 / temperature))
    for z in (z1, z2):
        assert z.grad is not None
        assert z.grad.abs().max().item() < 1e-3 / temperature


@pytest.mark.parametrize("dtype", WIDE, ids=str)
@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_duplicated_samples(formulation: str, dtype: torch.dtype, backend: str) -> None:
    # Every sample comes twice: each anchor has negatives at exactly its own and its positive's place.
    def twice(samples: int, views: int, dims: int, generator: torch.Generator) -> Tensor:
        return torch.randn(samples // 2, dims, generator=generator).repeat(2 * views, 1)

    settings = Settings(threshold="cosine", value=0.7, formulation=formulation)
    assert_views_like_reference(decided(40, 2, 16, settings, dtype, draw=twice), 2, settings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("threshold", ["adaptive", "step", "cosine"])
@pytest.mark.parametrize("views", [2, 3])
def test_two_samples(views: int, threshold: str, formulation: str, dtype: torch.dtype, backend: str) -> None:
    z = [x.requires_grad_() for x in torch.randn(views, 2, 8).to(dtype)]
    loss = (
        hex_loss(*z, threshold=threshold, formulation=formulation, epoch=0)
        if threshold != "adaptive"
        else hex_loss(*z, formulation=formulation)
    )
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in z)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("views", [2, 3])
def test_one_sample(views: int, formulation: str, dtype: torch.dtype, backend: str) -> None:
    # The positive alone: log 1. Without it in the denominator there is nothing to take the logarithm of.
    thresholds = ["adaptive", "supervised", NO_HIERARCHY, ALL_HIERARCHICAL, FixedThreshold(0.5)]
    for threshold, reduction in itertools.product(thresholds, ("mean", "sum", "none")):
        z = [each.requires_grad_() for each in torch.randn(views, 1, 8).to(dtype)]
        labels = torch.tensor([3]) if threshold == "supervised" else None
        loss, found = hex_loss(
            *z, threshold=threshold, formulation=formulation, labels=labels, reduction=reduction, return_statistics=True
        )
        loss.sum().backward()
        assert loss.shape == ((views,) if reduction == "none" else ())
        assert not loss.any()
        assert all(each.grad is not None and not each.grad.any() for each in z)
        assert found.undefined_anchors == (0 if formulation == "importance" else views)
        assert found.negative_similarity.isnan()
        assert (found.hierarchical_negatives, found.floor_fraction) == (0, 0)
        cosine = torch.cosine_similarity(z[0], z[1]) if views == 2 else found.positive_similarity
        torch.testing.assert_close(found.positive_similarity, cosine.squeeze().to(loss.dtype), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_keys_that_are_all_positives(dtype: torch.dtype, backend: str) -> None:
    for anchors, index in ((torch.randn(1, 8), [[0]]), (torch.randn(4, 8), [[0, 1, 2]] * 4)):
        anchors = anchors.to(dtype).requires_grad_()
        keys = torch.randn(len(index[0]), 8, dtype=dtype).requires_grad_()
        for formulation in FORMULATIONS:
            loss, found = hex_loss_with_keys(
                anchors, keys, positive_index=torch.tensor(index), formulation=formulation, return_statistics=True
            )
            gradients = torch.autograd.grad(loss, (anchors, keys))
            assert not loss.any()
            assert not any(each.any() for each in gradients)
            assert found.undefined_anchors == (0 if formulation == "importance" else len(index))
            assert found.negative_similarity.isnan()


def test_no_anchor_with_a_loss(backend: str) -> None:
    z1, z2 = torch.randn(2, 6, 4, dtype=torch.float64).requires_grad_()
    every = FixedThreshold(-math.inf, scale="cosine")
    loss, statistics = hex_loss(z1, z2, threshold=every, formulation="official", return_statistics=True)
    (gradient,) = torch.autograd.grad(loss, z1)
    assert loss.item() == 0.0
    assert not gradient.any()
    assert statistics.undefined_anchors.item() == 12


def test_anchors_without_a_loss_are_left_out(backend: str) -> None:
    # Label 0 is everyone's but the last sample's: only its two anchors have global negatives... and all others have it.
    z = clustered(5, 2, 6, torch.Generator().manual_seed(8))
    labels = torch.tensor([0, 0, 0, 0, 1])
    settings = Settings(threshold="labels", formulation="official")
    for reduction in ("mean", "sum", "none"):
        assert_views_like_reference(z, 2, settings, labels=labels, reduction=reduction)
    # An anchor whose queue is all of its own label has none.
    anchors, positives, keys = torch.randn(3, 4, 6, dtype=torch.float64)
    label_pair = (torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.int64))
    for reduction in ("mean", "sum", "none"):
        assert_apart_like_reference(anchors, keys, positives, settings, labels=label_pair, reduction=reduction)
    loss, statistics = hex_loss_with_keys(
        anchors, keys, positives=positives, formulation="official", threshold="supervised", reduction="none",
        anchor_labels=label_pair[0], key_labels=label_pair[1], return_statistics=True,
    )  # fmt: skip
    assert loss[:2].tolist() == [0.0, 0.0]
    assert statistics.undefined_anchors.item() == 2


def spoiled(rows: int, bad: dict[int, float]) -> Tensor:
    """Random rows, some of which have a NaN or an infinity in one place, or are all zeros."""
    z = torch.randn(rows, 5)
    for row, value in bad.items():
        if value == 0.0:
            z[row] = 0.0
        else:
            z[row, 3] = value
    return z


def bad_row(row: int, name: str, fault: str) -> str:
    """The whole message about a bad row, as a regular expression."""
    text = f"expected rows of finite numbers, not all zero, but row {row} of `{name}` {fault}"
    return f"^{re.escape(text)}$"


NON_FINITE, ZERO = "has a NaN or an infinity", "is all zeros"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("bad1", "bad2", "row", "name", "fault"),
    [
        ({}, {3: math.nan}, 3, "z2", NON_FINITE),
        ({0: math.inf}, {}, 0, "z1", NON_FINITE),
        ({6: -math.inf}, {}, 6, "z1", NON_FINITE),
        ({}, {5: 0.0}, 5, "z2", ZERO),
        ({4: 0.0}, {1: math.nan}, 4, "z1", ZERO),
        ({5: math.nan, 2: 0.0}, {}, 2, "z1", ZERO),
        ({5: 0.0, 2: math.nan}, {}, 2, "z1", NON_FINITE),
    ],
)
def test_bad_rows_of_views(
    bad1: dict[int, float], bad2: dict[int, float], row: int, name: str, fault: str, dtype: torch.dtype, backend: str
) -> None:
    z1, z2 = spoiled(7, bad1).to(dtype), spoiled(7, bad2).to(dtype)
    for loss in (hex_loss, ntxent_loss, hcl_loss, dcl_loss):
        with pytest.raises(ValueError, match=bad_row(row, name, fault)):
            loss(z1, z2)


def test_bad_rows_of_further_views(backend: str) -> None:
    with pytest.raises(ValueError, match=r"row 1 of `more_views\[0\]` is all zeros$"):
        hex_loss(spoiled(4, {}), spoiled(4, {}), spoiled(4, {1: 0.0}))


@pytest.mark.parametrize("name", ["anchors", "keys", "positives"])
@pytest.mark.parametrize(("value", "fault"), [(math.nan, NON_FINITE), (0.0, ZERO)])
def test_bad_rows_with_keys(value: float, fault: str, name: str, backend: str) -> None:
    inputs = {each: spoiled(9, {8: value} if each == name else {}) for each in ("anchors", "keys", "positives")}
    with pytest.raises(ValueError, match=bad_row(8, name, fault)):
        hex_loss_with_keys(inputs["anchors"], inputs["keys"], positives=inputs["positives"])


def test_a_bad_row_far_down(backend: str) -> None:
    z1, z2 = spoiled(3000, {}), spoiled(3000, {2999: math.nan, 2998: 0.0})
    with pytest.raises(ValueError, match=bad_row(2998, "z2", ZERO)):
        hex_loss(z1, z2)
