"""Own negatives of the anchors on the CUDA kernels, whose PTX is executed on the CPU, against the reference."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hex_ssl import functional
from hex_ssl.ops import evaluate as evaluate_op
from hex_ssl.ops import row_quantiles
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold, MarginThreshold

from .batches import clustered, gapped, is_decided
from .compare import GRADIENT_ERROR, LOSS_ERROR, arguments, assert_like_reference
from .conftest import Emulate
from .ptx import kernels
from .ptx.emulation import Emulation
from .ptx.interpreter import Schedule
from .ptx.mutations import OWN_MUTATIONS
from .reference import (
    Evaluation,
    Layout,
    Settings,
    Statistics,
    apart_layout,
    evaluate,
    indexed_layout,
    with_own_negatives,
)

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
DIMS = 40


class Batch(NamedTuple):
    """Anchors, keys, own negatives [M * H, D] and, unless the anchors name their positives, these."""

    inputs: list[Tensor]
    layout: Layout
    index: Tensor | None
    ignored: Tensor
    labels: tuple[Tensor, Tensor]

    def reference(self, settings: Settings, anchors: Tensor, keys: Tensor, own: Tensor, *apart: Tensor) -> Evaluation:
        of_anchors, of_keys = self.labels
        others = torch.full((len(own) + sum(map(len, apart)),), -1)
        candidates = torch.cat([keys, *apart, own])
        return evaluate(anchors, candidates, self.layout, settings, of_anchors, torch.cat([of_keys, others]))

    def call(
        self,
        settings: Settings,
        reduction: str,
        anchors: Tensor,
        keys: Tensor,
        own: Tensor,
        positives: Tensor | None = None,
    ) -> tuple[Tensor, Statistics]:
        of_anchors, of_keys = self.labels if settings.threshold == "labels" else (None, None)
        return functional.hex_loss_with_keys(
            anchors, keys, positives=positives, positive_index=self.index, ignored_index=self.ignored,
            anchor_labels=of_anchors, key_labels=of_keys, own_negatives=own.view(len(anchors), -1, own.shape[1]),
            reduction=reduction, return_statistics=True, **arguments(settings),
        )  # fmt: skip


def drawn(
    settings: Settings,
    each: int,
    *,
    apart: bool,
    count: int = 37,
    keys: int = 90,
    dims: int = DIMS,
    dtype: torch.dtype = F32,
    draw: Callable[[int, int, int, torch.Generator], Tensor] = clustered,
) -> Batch:
    """The first batch for which no decision is within rounding. Every third anchor ignores a key."""
    sizes = [count, keys, count * each, *([count] if apart else [])]
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        rows = draw(sum(sizes), 1, dims, generator).to(dtype)
        inputs = list(rows[torch.randperm(len(rows), generator=generator)].split(sizes))
        orders = torch.stack([torch.randperm(keys, generator=generator)[:3] for _ in range(count)])
        index, ignored = orders[:, :2], torch.where(torch.arange(count)[:, None] % 3 > 0, -1, orders[:, 2:])
        layout = (
            apart_layout(count, keys, ignored.tolist())
            if apart
            else indexed_layout(index.tolist(), ignored.tolist(), keys)
        )
        found = Batch(
            inputs,
            with_own_negatives(layout, each),
            None if apart else index,
            ignored,
            (torch.arange(count) % 4, torch.arange(keys) % 4),
        )
        if is_decided(found.reference(settings, *inputs), dtype):
            return found
    raise AssertionError(f"no batch is decided for {settings}")


def check(settings: Settings, each: int, *, reduction: str = "mean", **sizes: Any) -> None:
    """Positives apart, and keys that anchors name."""
    for apart in (True, False):
        batch = drawn(settings, each, apart=apart, **sizes)
        assert_like_reference(
            partial(batch.call, settings, reduction),
            partial(batch.reference, settings),
            batch.inputs,
            settings,
            reduction,
        )


SETTINGS = {
    "adaptive": Settings(value=0.9),
    "cosine": Settings(threshold="cosine", value=0.3),
    "all": Settings(threshold="cosine", value=-math.inf),
    "minmax": Settings(threshold="minmax", value=0.6),
    "labels": Settings(threshold="labels"),
    "margin": Settings(threshold="margin", value=-0.1),
    "relative margin": Settings(threshold="relative_margin", value=-0.4),
    "beta": Settings(threshold="cosine", value=0.3, beta=0.5),
    "official": Settings(threshold="cosine", value=0.3, formulation="official"),
    "decoupled": Settings(threshold="adaptive", value=0.9, formulation="decoupled"),
    "elimination": Settings(threshold="cosine", value=0.3, formulation="elimination"),
    "sharp": Settings(0.005, threshold="cosine", value=0.3),
    "sharp minmax": Settings(0.01, threshold="minmax", value=0.6),
}


@pytest.mark.parametrize("each", [1, 3, 40])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name: str, each: int, emulate: Emulate) -> None:
    emulate(F32, DIMS)
    check(SETTINGS[name], each, count=37 if each < 40 else 9)


@pytest.mark.parametrize("name", ["cosine", "adaptive"])
@pytest.mark.parametrize(
    ("dtype", "dims"), [(BF16, 64), (F16, 64), (BF16, 128), (BF16, 250), (F32, 127), (F32, 256)], ids=str
)
def test_rows(dtype: torch.dtype, dims: int, name: str, emulate: Emulate) -> None:
    # In these batches cosines are above 0.9 or below about 0.5.
    emulate(dtype, dims)
    settings = Settings(0.3, "cosine", 0.7) if name == "cosine" else Settings(0.3, "adaptive", 0.99)
    check(settings, 3, dims=dims, dtype=dtype, draw=gapped)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_reductions(reduction: str, emulate: Emulate) -> None:
    emulate(F32, DIMS)
    check(SETTINGS["cosine"], 3, reduction=reduction)


@pytest.mark.parametrize(("count", "keys"), [(1, 2), (7, 5), (150, 70), (20, 1024)])
def test_sizes(count: int, keys: int, emulate: Emulate) -> None:
    emulate(F32, DIMS)
    for name in ("adaptive", "margin"):
        check(SETTINGS[name], 5, count=count, keys=max(keys, 3))


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("each", [3, 40])
def test_many_keys(each: int, quantile: float, emulate: Emulate) -> None:
    emulate(F32, DIMS)
    check(Settings(value=quantile), each, count=24, keys=1300)


@pytest.mark.parametrize("cosine", [0.9, 0.2, -0.9])
@pytest.mark.parametrize(("keys", "each"), [(70, 3), (70, 90), (1300, 3), (1300, 120)])
def test_quantiles(keys: int, each: int, cosine: float, emulate: Emulate) -> None:
    """The own negatives are all more similar to the anchor than the keys, at random, or all less."""
    emulate(F32, DIMS)
    generator = torch.Generator().manual_seed(3)
    anchors, others = torch.randn(20 + keys, DIMS, generator=generator).split([20, keys])
    rows = cosine * anchors[:, None] + math.sqrt(1 - cosine**2) * torch.randn(20, each, DIMS, generator=generator)
    unit = [normalize(each.double(), dim=-1) for each in (anchors, others, rows)]
    exact = torch.cat([unit[0] @ unit[1].T, (unit[0][:, None] * unit[2]).sum(2)], 1)
    for quantile in (0.0, 0.3, 0.9, 0.97, 1.0):
        # The first row apart is the positive.
        found = row_quantiles([anchors], others, rows.flatten(0, 1), 0, quantile)
        expected = exact.quantile(quantile, dim=1, interpolation="nearest")
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-7)


def check_misled(dtype: torch.dtype, dims: int) -> None:
    """The keys of the sample are closer than the others, and the own negatives, or half of them, are far below.

    All blocks search the rows of the first anchors alone together, and those of all anchors by themselves.
    """
    generator = torch.Generator().manual_seed(5)
    draw = partial(torch.randn, generator=generator)
    axis, keys = torch.ones(dims), draw(1300, dims) - 0.5
    keys[sorted(kernels.sampled_columns(256, 1300))] += 1.0
    anchors = (axis + 0.3 * draw(20, dims)).to(dtype)
    keys = keys.to(dtype)
    for half, quantile in ((False, 0.5), (False, 0.9), (False, 0.97), (True, 0.5)):
        own = -axis + 0.3 * draw(20, 399, dims)
        own[:, ::2] += 2 * axis if half else 0 * axis
        unit = [normalize(rows.double(), dim=-1) for rows in (anchors, keys, own.to(dtype))]
        exact = torch.cat([unit[0] @ unit[1].T, (unit[0][:, None] * unit[2]).sum(2)], 1)
        expected = exact.quantile(quantile, dim=1, interpolation="nearest")
        for count in (12, 20):
            found = row_quantiles([anchors[:count]], keys, own[:count].to(dtype).flatten(0, 1), 0, quantile)
            torch.testing.assert_close(found.double(), expected[:count], rtol=0, atol=5e-7)
        statistics = functional.hex_loss_with_keys(
            anchors, keys, positive_index=torch.arange(20), own_negatives=own.to(dtype), return_statistics=True,
            threshold=AdaptiveThreshold(quantile),
        )[1]  # fmt: skip
        torch.testing.assert_close(statistics.threshold.double(), expected.mean(), rtol=0, atol=5e-7)


def test_the_sample_misleads(emulate: Emulate) -> None:
    emulate(F32, 64)
    check_misled(F32, 64)


def check_temperature(dtype: torch.dtype, temperature: float, apart: bool) -> None:
    """The derivative by a temperature that is a tensor, with weights, as the CPU kernel's in float64.

    At 0.0002 no precision holds the terms of own negatives without shifts that are theirs too.
    """
    # Below 0.01 the reference's exponentials are infinite.
    settings = Settings(max(temperature, 0.01), "cosine", 0.7)
    batch = drawn(settings, 20, apart=apart, keys=9, dims=64, dtype=dtype, draw=gapped)
    weights = torch.linspace(0.5, 1.5, 37)

    def step(dtype: torch.dtype) -> list[Tensor]:
        inputs = [each.detach().to(dtype).requires_grad_() for each in batch.inputs]
        anchors, keys, own, positives = (*inputs, None)[:4]
        learned = torch.tensor(temperature, dtype=dtype, requires_grad=True)
        loss = functional.hex_loss_with_keys(
            anchors, keys, positives=positives, positive_index=batch.index, own_negatives=own.view(37, 20, 64),
            temperature=learned, threshold=FixedThreshold(0.7, scale="cosine"), reduction="none",
        )  # fmt: skip
        loss = (loss * weights.to(loss.dtype)).sum()
        return [loss.detach(), *torch.autograd.grad(loss, [*inputs, learned])]

    found = step(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEX_SSL_BACKEND", "cpu")
        loss, *gradients = step(torch.float64)
    sharp = max(1.0, 0.1 / temperature)
    torch.testing.assert_close(found[0].double(), loss, rtol=LOSS_ERROR[dtype] * sharp, atol=0)
    for ours, theirs in zip(found[1:], gradients, strict=True):
        # Single precision does not hold less than 1e-38.
        assert (ours.double() - theirs).norm() <= GRADIENT_ERROR[dtype] * sharp * theirs.norm().clamp(min=1e-30)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(("dtype", "temperature"), [(F32, 0.2), (F32, 0.01), (F32, 0.0002), (BF16, 0.3)], ids=str)
def test_temperature(dtype: torch.dtype, temperature: float, apart: bool, emulate: Emulate) -> None:
    emulate(dtype, 64)
    check_temperature(dtype, temperature, apart)


def check_ties(dtype: torch.dtype, dims: int) -> None:
    """An own negative that repeats the positive is as similar: it is not above a margin of 0."""
    generator = torch.Generator().manual_seed(11)
    anchors, keys, (row,) = torch.randn(81, dims, generator=generator).to(dtype).split([40, 40, 1])
    keys[:30] = row
    for pairing in ({"positive_index": torch.arange(40) % 30}, {"positives": row.repeat(40, 1)}):
        found = [
            functional.hex_loss_with_keys(
                anchors, keys[:30], own_negatives=row.repeat(40, 3, 1), threshold=MarginThreshold(margin),
                return_statistics=True, **pairing,
            )[1].hierarchical_negatives.item()
            for margin in (0.0, -1e-6)
        ]  # fmt: skip
        assert found == [0, 33 if "positives" in pairing else 32]


@pytest.mark.parametrize(("dtype", "dims"), [(F32, DIMS), (F32, 256), (BF16, 64), (F16, 64)], ids=str)
def test_ties(dtype: torch.dtype, dims: int, emulate: Emulate) -> None:
    emulate(dtype, dims, schedule=Schedule(seed=5, extra_bits=1))
    check_ties(dtype, dims)


def test_the_same_bits_in_any_order(emulate: Emulate) -> None:
    batch, found = drawn(SETTINGS["adaptive"], 3, apart=True), []
    for schedule in (Schedule(seed=1), Schedule(seed=2, random_lanes=True), Schedule(seed=3, resident_blocks=1)):
        emulate(F32, DIMS, schedule=schedule)
        rows = [each.clone().requires_grad_() for each in batch.inputs]
        loss, statistics = batch.call(SETTINGS["adaptive"], "mean", *rows)
        found.append([*torch.autograd.grad(loss, rows), loss.detach(), *statistics])
    for other in found[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], other, strict=True))


def test_supcon(emulate: Emulate) -> None:
    """Own negatives have no label: they are in the denominator alone."""
    emulate(F32, DIMS)
    batch, labels = drawn(SETTINGS["labels"], 3, apart=False), torch.arange(90) % 4

    def step(dtype: torch.dtype) -> list[Tensor]:
        anchors, keys, own = (each.to(dtype) for each in batch.inputs)
        found = evaluate_op(
            [anchors], keys, own, batch.index, None, labels[:37], labels, None, None, None, 0, "labels", 0.0,
            "supervised", 1.0, 0.1, 0.1, "mean", False, True, True, True,
        )  # fmt: skip
        return list(found[:5])

    found = step(F32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEX_SSL_BACKEND", "cpu")
        expected = step(torch.float64)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).nan_to_num().norm() <= GRADIENT_ERROR[F32] * theirs.nan_to_num().norm()


@pytest.mark.parametrize("name", ["adaptive", "margin"])
def test_a_row_without_a_direction(name: str, emulate: Emulate) -> None:
    # No error, as nobody waits for the device: the loss is NaN.
    emulate(F32, DIMS)
    batch = drawn(SETTINGS[name], 3, apart=True)
    batch.inputs[2][40] = 0.0
    assert batch.call(SETTINGS[name], "mean", *batch.inputs)[0].isnan()


# Planted bugs.


@pytest.fixture(scope="module", autouse=True)
def _compile_ahead(emulation: Emulation, request: pytest.FixtureRequest) -> None:
    """Compile while the first tests run."""
    emulation.start_planted(OWN_MUTATIONS, request.session, test_a_planted_bug_is_seen)


def check_core(dtype: torch.dtype) -> None:
    """What reads own negatives: quantiles of few keys and of many, ranges, shifts, sums, gradients."""
    sizes = {"dims": 64, "count": 11, "keys": 40, "dtype": dtype}
    for name in ("adaptive", "minmax", "margin"):
        check(SETTINGS[name], 3, **sizes)
    for quantile, each in ((0.9, 3), (0.98, 40), (0.97, 3)):
        check(Settings(value=quantile), each, **sizes | {"keys": 1300})
    check_temperature(dtype, 0.0002, apart=True)
    check_misled(dtype, 64)
    check_ties(dtype, 64)


@pytest.mark.parametrize("random_lanes", [False, True])
def test_the_core_is_right(random_lanes: bool, emulate: Emulate) -> None:
    emulate(F32, 64, schedule=Schedule(seed=2, random_lanes=random_lanes, resident_blocks=3))
    check_core(F32)


@pytest.mark.parametrize("name", OWN_MUTATIONS)
def test_a_planted_bug_is_seen(name: str, emulate: Emulate) -> None:
    mutation = OWN_MUTATIONS[name]
    emulate(mutation.dtype, 64, mutation=name)
    with mutation.seen():
        check_core(mutation.dtype)
