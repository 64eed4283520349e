"""Margins over the positive, lists of keys to ignore and the elimination on the CUDA kernels, whose PTX is executed on
the CPU.

`test_cuda_emulation.py` has the elimination with the other thresholds, `test_cuda_losses.py` that of towers.
"""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hex_ssl import functional
from hex_ssl.ops import evaluate as evaluate_op
from hex_ssl.thresholds import FixedThreshold, MarginThreshold, Threshold

from .batches import clustered, decided
from .compare import (
    GRADIENT_ERROR,
    LOSS_ERROR,
    assert_apart_like_reference,
    assert_index_like_reference,
    assert_views_like_reference,
)
from .conftest import Emulate
from .ptx.emulation import Emulation
from .ptx.interpreter import Schedule
from .ptx.mutations import NEGATIVE_MUTATIONS
from .reference import Settings

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
TRUNCATING = Schedule(seed=5, extra_bits=1)
"""As real tensor cores are reported to round."""


def groups(samples: int, views: int, dims: int, generator: torch.Generator, cosine: float) -> Tensor:
    """Samples in groups of five, with cosines of about 0.98 within a group and below 0.5 elsewhere.

    The second view has a given cosine to the first one, the third half of it, and so on; otherwise they are at random.
    """
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    centres = draw(-(-samples // 5), dims).repeat_interleave(5, 0)[:samples]
    first = normalize(centres + 0.15 * draw(samples, dims))
    rows = [first]
    for view in range(1, views):
        across, along = draw(samples, dims), cosine / view
        across = normalize(across - (across * first).sum(1, keepdim=True) * first)
        rows.append(along * first + math.sqrt(1 - along**2) * across)
    return torch.cat(rows)


# Each with a cosine of the positives for which no negative is near the thresholds: 0.75, 0.65, none, 0.75, 0.67, 0.72.
RULES = {
    "margin": ("margin", 0.15, 0.6),
    "negative margin": ("margin", -0.3, 0.95),
    "margin of 1": ("margin", 1.0, 0.6),
    "relative margin": ("relative_margin", 0.25, 0.6),
    "negative relative margin": ("relative_margin", -0.3, 0.95),
    "relative margin of a negative cosine": ("relative_margin", 2.2, -0.6),
}


def check_margin(dtype: torch.dtype, rule: str, formulation: str, samples: int, dims: int, views: int = 2) -> None:
    threshold, value, cosine = RULES[rule]
    settings = Settings(threshold=threshold, value=value, formulation=formulation)
    z = decided(samples, views, dims, settings, dtype, draw=partial(groups, cosine=cosine))
    assert_views_like_reference(z, views, settings)


@pytest.mark.parametrize("formulation", ["importance", "official", "elimination"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_margins(dtype: torch.dtype, rule: str, formulation: str, emulate: Emulate) -> None:
    emulate(dtype, 64)
    check_margin(dtype, rule, formulation, 35, 64)


@pytest.mark.parametrize(
    ("dtype", "samples", "dims", "views"),
    [
        (F32, 2, 40, 2),
        (BF16, 75, 64, 2),
        (F16, 33, 64, 2),
        (F32, 70, 40, 3),
        (BF16, 65, 128, 2),
        (BF16, 33, 250, 2),
        (F32, 33, 127, 2),
        (F32, 33, 256, 2),
    ],
    ids=str,
)
def test_sizes(dtype: torch.dtype, samples: int, dims: int, views: int, emulate: Emulate) -> None:
    emulate(dtype, dims)
    check_margin(dtype, "margin", "elimination", samples, dims, views)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_reductions(reduction: str, emulate: Emulate) -> None:
    emulate(F32, 64)
    settings = Settings(threshold="margin", value=0.15)
    z = decided(35, 2, 64, settings, F32, draw=partial(groups, cosine=0.6))
    assert_views_like_reference(z, 2, settings, reduction=reduction)


@pytest.mark.parametrize("formulation", ["importance", "elimination"])
@pytest.mark.parametrize("temperature", [0.005, 0.03])
def test_temperatures(temperature: float, formulation: str, emulate: Emulate) -> None:
    emulate(F32, 40)
    settings = Settings(temperature, "margin", -0.1, formulation)
    assert_views_like_reference(decided(40, 2, 40, settings, F32), 2, settings)


@pytest.mark.parametrize(("threshold", "value"), [("margin", 0.1), ("relative_margin", -0.4)])
@pytest.mark.parametrize("formulation", ["importance", "elimination"])
def test_other_keys(formulation: str, threshold: str, value: float, emulate: Emulate) -> None:
    emulate(F32, 40)
    settings = Settings(threshold=threshold, value=value, formulation=formulation)
    generator = torch.Generator().manual_seed(29)
    anchors, positives, keys = clustered(340, 1, 40, generator).to(F32).split([70, 70, 200])
    assert_apart_like_reference(anchors, keys, positives, settings)
    orders = torch.stack([torch.randperm(200, generator=generator) for _ in range(70)])
    assert_index_like_reference(anchors, keys, orders[:, :3], orders[:, 3], settings)


def check_ties(dtype: torch.dtype, dims: int) -> None:
    """A key that repeats the positive is as similar, whatever the rounding: it is not above a margin of 0."""
    anchors, (row,) = torch.randn(41, dims).to(dtype).split([40, 1])
    queue = row.repeat(70, 1)

    def hierarchical(margin: float, **pairing: Any) -> float:
        given = {"threshold": MarginThreshold(margin), "return_statistics": True} | pairing
        return functional.hex_loss_with_keys(anchors, queue, **given)[1].hierarchical_negatives.item()

    named, apart = {"positive_index": torch.arange(40)}, {"positives": row.repeat(40, 1)}
    assert [hierarchical(margin, **named) for margin in (0.0, -1e-6)] == [0, 69]
    assert [hierarchical(margin, **apart) for margin in (0.0, -1e-6)] == [0, 70]
    for towers in ((anchors, queue[:40]), (queue[:40], anchors)):
        found = functional.clip_loss(*towers, threshold=MarginThreshold(0.0), return_statistics=True)[1]
        # From the tower of equal rows, the other rows' similarities have an order: 39 / 2 are above, on average.
        assert found.hierarchical_negatives == 39 / 4


def check_largest(dtype: torch.dtype) -> None:
    """No key is above a threshold of 1, also if it repeats the anchor and their cosine is rounded up."""
    anchors, positives = torch.zeros(2, 120, 64, dtype=dtype)
    anchors[:, :32] = torch.randn(120, 32, generator=torch.Generator().manual_seed(0))
    positives[:, 32:] = 1.0
    for threshold in (MarginThreshold(1.0), FixedThreshold(1.0, scale="cosine")):
        found = functional.hex_loss_with_keys(
            anchors, anchors, positives=positives, threshold=threshold, return_statistics=True
        )[1]
        assert found.hierarchical_negatives == 0


@pytest.mark.parametrize("schedule", [Schedule(seed=5), TRUNCATING], ids=["rounding", "truncating"])
@pytest.mark.parametrize(
    ("dtype", "operand", "dims"),
    [(F32, None, 40), (F32, None, 256), (F32, "TF32", 64), (BF16, None, 64), (BF16, None, 128), (F16, None, 64)],
    ids=str,
)
def test_ties(dtype: torch.dtype, operand: str | None, dims: int, schedule: Schedule, emulate: Emulate) -> None:
    emulate(dtype, dims, operand, schedule=schedule)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if operand == "TF32" else before)
    try:
        check_ties(dtype, dims)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("of", ["anchor", "positive", "key"])
def test_a_row_without_a_direction(of: str, emulate: Emulate) -> None:
    # No error, as nobody waits for the device: the loss is NaN.
    emulate(F32, 64)
    rows = {name: torch.randn(20, 64) for name in ("anchor", "positive", "key")}
    rows[of][7] = 0.0
    anchors, positives, keys = rows.values()
    loss = functional.hex_loss_with_keys(anchors, keys, positives=positives, threshold=MarginThreshold(0.1))
    assert loss.isnan()


# Lists of keys to ignore.


def lists(anchors: int, keys: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Three positives of each anchor, and up to ten keys to ignore, in no order and with gaps between them.

    One anchor ignores all that are left.
    """
    orders = torch.stack([torch.randperm(keys, generator=generator) for _ in range(anchors)])
    ignored = torch.full((anchors, keys + 1), -1)
    for i in range(anchors):
        ignored[i, 1 + i % 3 :: 3][: i % 10] = orders[i, 3 : 3 + i % 10]
    ignored[10, 1 : keys - 2] = orders[10, 3:]
    ignored[4::7, 0] = orders[4::7, -1]
    return orders[:, :3], ignored


LISTS = {
    "adaptive": Settings(value=0.9),
    "cosine": Settings(threshold="cosine", value=0.3),
    "minmax": Settings(threshold="minmax", value=0.6),
    "labels": Settings(threshold="labels"),
    "margin": Settings(threshold="margin", value=-0.1),
    "official": Settings(threshold="cosine", value=0.3, formulation="official"),
    "elimination": Settings(threshold="cosine", value=0.3, formulation="elimination"),
    "sharp": Settings(0.005, threshold="cosine", value=0.3),
}


def check_lists(settings: Settings, count: int, dims: int, dtype: torch.dtype = F32, seed: int = 29) -> None:
    """Anchors that name positives and keys to ignore; and positives apart, with keys to ignore."""
    generator = torch.Generator().manual_seed(seed)
    anchors, positives, keys = clustered(2 * count + 200, 1, dims, generator).to(dtype).split([count, count, 200])
    labels = (torch.arange(count) % 4, torch.arange(200) % 4) if settings.threshold == "labels" else None
    positive_index, ignored_index = lists(count, 200, generator)
    assert_index_like_reference(anchors, keys, positive_index, ignored_index, settings, labels=labels)
    assert_apart_like_reference(anchors, keys, positives, settings, ignored_index=ignored_index, labels=labels)


@pytest.mark.parametrize("name", LISTS)
def test_lists(name: str, emulate: Emulate) -> None:
    emulate(F32, 40)
    check_lists(LISTS[name], 140, 40)


@pytest.mark.parametrize(("dtype", "dims"), [(BF16, 64), (F16, 64), (BF16, 128), (BF16, 250), (F32, 127)], ids=str)
def test_lists_of_rows(dtype: torch.dtype, dims: int, emulate: Emulate) -> None:
    emulate(dtype, dims)
    check_lists(Settings(0.5, threshold="cosine", value=1.0), 35, dims, dtype)


def test_lists_of_nothing(emulate: Emulate) -> None:
    emulate(F32, 40)
    anchors, positives, keys = torch.randn(90, 40).split([20, 20, 50])
    for pairing in ({"positive_index": torch.arange(20)}, {"positives": positives}):
        plain = functional.hex_loss_with_keys(anchors, keys, **pairing)
        for nothing in (torch.full((20, 3), -1), torch.empty(20, 0, dtype=torch.int64)):
            assert functional.hex_loss_with_keys(anchors, keys, ignored_index=nothing, **pairing).equal(plain)


def test_lists_of_everything(emulate: Emulate) -> None:
    emulate(F32, 40)
    anchors, keys = torch.randn(40, 40).requires_grad_(), torch.randn(40, 40).requires_grad_()
    others = torch.stack([torch.cat([torch.arange(i), torch.arange(i + 1, 40)]) for i in range(40)])
    loss, statistics = functional.infonce_loss(anchors, keys, ignored_index=others, return_statistics=True)
    assert loss == 0
    assert statistics.negative_similarity.isnan()
    assert not any(each.any() for each in torch.autograd.grad(loss, [anchors, keys]))


def check_unchecked_indices(dtype: torch.dtype) -> None:
    """Indices that the host does not check, as those on a GPU.

    A positive that is no key gives NaN. A number that is no key ignores nothing. A key that is named twice counts once.
    """
    generator = torch.Generator().manual_seed(31)
    anchors, keys = torch.randn(60, 64, generator=generator).to(dtype).split([20, 40])
    positives, ignored = (torch.arange(60).view(20, 3) % 40).split([2, 1], 1)

    def call(positives: Tensor, ignored: Tensor, threshold: Threshold) -> list[Tensor]:
        inputs = [rows.clone().requires_grad_() for rows in (anchors, keys)]
        given = [torch.arange(20)[:, None].repeat(1, 2), torch.full(ignored.shape, -1)]
        make = torch.empty

        def late(*sizes: Any, **options: Any) -> Tensor:
            if options.get("dtype") == torch.uint8:  # the scratch memory, after the host's checks
                for each, index in zip(given, (positives, ignored), strict=True):
                    each.copy_(index)
            return make(*sizes, **options)

        given[0][:, 1] += 20
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "empty", late)
            loss, statistics = functional.hex_loss_with_keys(
                *inputs, positive_index=given[0], ignored_index=given[1], threshold=threshold, return_statistics=True
            )
        return [loss.detach(), *torch.autograd.grad(loss, inputs), torch.stack(list(statistics))]

    for threshold in (FixedThreshold(0.1, scale="cosine"), MarginThreshold(-0.1)):
        none = [torch.full((20, 1), index) for index in (-1, 40, 2**40, 39 - 2**32)]
        for beyond in none:
            assert call(torch.cat([positives[:, :1], beyond], 1), ignored, threshold)[0].isnan()
        plain, *found = [
            call(positives, torch.cat([ignored, other], 1), threshold) for other in (*none, ignored, positives[:, :1])
        ]
        assert not plain[0].isnan()
        assert all(ours.equal(theirs) for each in found for ours, theirs in zip(each, plain, strict=True))


def test_indices_that_the_host_does_not_check(emulate: Emulate) -> None:
    emulate(F32, 64)
    check_unchecked_indices(F32)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("name", ["cosine", "labels", "margin"])
def test_lists_where_the_anchors_are_the_keys(name: str, dtype: torch.dtype, emulate: Emulate) -> None:
    # Each anchor's positive and the keys that it ignores, itself among them, name it too.
    emulate(dtype, 64)
    count, settings = 150, LISTS[name] if dtype == F32 else Settings(threshold="cosine", value=1.0)
    z = clustered(count, 1, 64, torch.Generator().manual_seed(7)).to(dtype)
    rows = torch.arange(count)
    ignored = torch.stack([rows, (count + 5 - rows) % count, (count + 9 - rows) % count], 1)
    positive = rows ^ 1
    ignored[(ignored == positive[:, None]) | (ignored == rows[:, None]).cumsum(1).gt(1)] = -1
    labels = rows % 4 if settings.threshold == "labels" else None

    def call(z: Tensor) -> list[Tensor]:
        loss, statistics, gradient, *_ = evaluate_op(
            [z], None, None, positive[:, None], ignored, labels, None, None, None, None, 0, settings.threshold,
            settings.value, "importance", 1.0, 0.1, 0.1, "mean", False, True,
        )  # fmt: skip
        return [loss, gradient, statistics]

    loss, gradient, statistics = call(z)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEX_SSL_BACKEND", "cpu")
        expected, by_rows, of_cpu = call(z.double())
    torch.testing.assert_close(loss.double(), expected, rtol=LOSS_ERROR[dtype], atol=0)
    assert (gradient.double() - by_rows).norm() <= GRADIENT_ERROR[dtype] * by_rows.norm()
    torch.testing.assert_close(statistics.double(), of_cpu, rtol=1e-6, atol=2e-6, equal_nan=True)


# Planted bugs.


@pytest.fixture(scope="module", autouse=True)
def _compile_ahead(emulation: Emulation, request: pytest.FixtureRequest) -> None:
    """Compile while the first tests run."""
    emulation.start_planted(NEGATIVE_MUTATIONS, request.session, test_a_planted_bug_is_seen)


def check_core(dtype: torch.dtype) -> None:
    """Margins with several positives, with a negative similarity, of 1; ties; the elimination; lists; no rows."""
    check_margin(dtype, "margin", "elimination", 13, 64, views=3)
    check_margin(dtype, "relative margin of a negative cosine", "elimination", 35, 64)
    check_ties(dtype, 64)
    check_largest(dtype)
    check_lists(Settings(0.5, threshold="cosine", value=1.0, formulation="official"), 35, 64, dtype)
    check_unchecked_indices(dtype)


@pytest.mark.parametrize("random_lanes", [False, True])
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_the_core_is_right(dtype: torch.dtype, random_lanes: bool, emulate: Emulate) -> None:
    emulate(dtype, 64, schedule=Schedule(seed=2, random_lanes=random_lanes, resident_blocks=3))
    check_core(dtype)


@pytest.mark.parametrize("name", NEGATIVE_MUTATIONS)
def test_a_planted_bug_is_seen(name: str, emulate: Emulate) -> None:
    mutation = NEGATIVE_MUTATIONS[name]
    emulate(mutation.dtype, 64, mutation=name)
    with mutation.seen():
        check_core(mutation.dtype)
