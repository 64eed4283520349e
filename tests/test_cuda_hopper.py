"""The CUDA kernels for sm_90a, their PTX executed on the CPU, against the reference."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from hex_ssl import functional
from hex_ssl.ops import evaluate as evaluate_op
from hex_ssl.ops import row_quantiles

from .batches import decided, gapped, gathered, is_decided, misled
from .compare import (
    arguments,
    assert_apart_like_reference,
    assert_index_like_reference,
    assert_like_reference,
    assert_loss,
    assert_quantiles,
    assert_ties,
    assert_views_like_reference,
    misses_of_quantiles,
)
from .conftest import Emulate
from .ptx import kernels
from .ptx.emulation import Emulation
from .ptx.interpreter import Schedule
from .ptx.mutations import HOPPER_MUTATIONS
from .reference import Evaluation, Settings, Statistics, apart_layout, evaluate, views_layout

BF16, F16 = torch.bfloat16, torch.float16
COSINE = Settings(threshold="cosine", value=0.7)
TRUNCATING = Schedule(seed=5, extra_bits=1)
"""As real tensor cores are reported to round: mma.sync and wgmma give similarities of other bits then."""
LAUNCH_ROWS = 256
"""As where a launch of all rows would take too much memory."""


@pytest.fixture(scope="module", autouse=True)
def _compile_ahead(emulation: Emulation, request: pytest.FixtureRequest) -> None:
    """Compile while the first tests run, where there are many."""
    emulation.start_planted(HOPPER_MUTATIONS, request.session, test_a_planted_bug_is_seen, kernels.WGMMA)


def test_every_instruction_is_known(emulation: Emulation) -> None:
    emulation.load("BF16" + kernels.WGMMA, 64)
    emulation.interpreter.decode("BF16_WGMMA_64")


# Rows of a whole and of half a tile, padded and odd dimensions, every number of panels.
@pytest.mark.parametrize(
    ("dtype", "samples", "dims"),
    [(BF16, 5, 64), (BF16, 129, 41), (BF16, 64, 128), (BF16, 75, 100), (F16, 75, 64), (BF16, 33, 192), (F16, 33, 250)],
    ids=str,
)
def test_sizes(dtype: torch.dtype, samples: int, dims: int, emulate: Emulate) -> None:
    emulate(dtype, dims if dims > 64 else 64, wgmma=True)
    assert_views_like_reference(decided(samples, 2, dims, COSINE, dtype, draw=gapped), 2, COSINE)


@pytest.mark.parametrize("formulation", ["importance", "official", "decoupled", "elimination"])
@pytest.mark.parametrize("value", [0.7, math.inf, -math.inf])
def test_thresholds(value: float, formulation: str, emulate: Emulate) -> None:
    emulate(BF16, 64, wgmma=True)
    settings = Settings(threshold="cosine", value=value, formulation=formulation, temperature=0.3, tau_plus=0.05)
    assert_views_like_reference(decided(35, 2, 64, settings, BF16, draw=gapped), 2, settings)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_reductions_and_weights(dtype: torch.dtype, emulate: Emulate) -> None:
    emulate(dtype, 64, wgmma=True)
    z = decided(40, 3, 64, COSINE, dtype, draw=gapped)
    assert_views_like_reference(z, 3, COSINE, reduction="none")
    weights = torch.linspace(0.0, 2.0, 120)

    def call(reduction: str, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        loss, _, gradient, *_ = evaluate_op(
            list(z.chunk(3)), None, None, None, None, None, None, None, weights,
            None, 0, "cosine", 0.7, "importance", 1.0, 0.1, 0.1, reduction, False, True,
        )  # fmt: skip
        return loss, gradient

    expected = z.double().requires_grad_()
    of_each = evaluate(expected, expected, views_layout(40, 3), COSINE).reduced("none")
    (of_each * weights).sum().backward()
    loss, gradient = call("none", weights)
    assert_loss(loss, (of_each * weights).sum(), COSINE, dtype, 120)
    assert expected.grad is not None
    assert (gradient.double() - expected.grad).norm() < (1e-2 if dtype == BF16 else 2e-3) * expected.grad.norm()


def test_a_threshold_on_the_device(emulate: Emulate) -> None:
    emulate(BF16, 64, wgmma=True)
    z = gapped(35, 2, 64, torch.Generator().manual_seed(1)).to(BF16)
    given = ["importance", 1.0, 0.1, 0.1, "mean", False, True]
    inputs = [list(z.chunk(2)), None, None, None, None, None, None]
    for_tensor = evaluate_op(*inputs, torch.tensor(0.3125), None, None, 0, "given", 0.0, *given)
    for_number = evaluate_op(*inputs, None, None, None, 0, "cosine", 0.3125, *given)
    assert all(one.equal(other) for one, other in zip(for_tensor, for_number, strict=True))


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_keys_by_index(dtype: torch.dtype, emulate: Emulate) -> None:
    emulate(dtype, 64, wgmma=True)
    generator = torch.Generator().manual_seed(29)
    anchors, keys = gapped(300, 1, 64, generator).to(dtype).split([140, 160])
    orders = torch.stack([torch.randperm(160, generator=generator) for _ in range(140)])
    ignored = torch.where(torch.arange(140) % 3 == 0, -1, orders[:, 3])
    assert_index_like_reference(anchors, keys, orders[:, :3], ignored, COSINE)
    lists = torch.where(torch.arange(60) % 4 == 0, -1, orders[:, 3:63])
    assert_index_like_reference(anchors, keys, orders[:, :3], lists, COSINE)
    positives = gapped(140, 1, 64, generator).to(dtype)
    assert_apart_like_reference(anchors, keys, positives, COSINE, ignored_index=lists)
    assert_index_like_reference(anchors, keys, orders[:, :1], None, COSINE)


def check_gathered(offset: int, samples: int) -> None:
    """As in `test_cuda_emulation.py`. At this temperature a pair that is no negative is felt among hundreds."""
    anchors, keys = gathered(offset, samples, BF16)
    settings = COSINE.but(temperature=0.05)

    def call(anchors: Tensor, keys: Tensor) -> tuple[Tensor, Statistics]:
        loss, statistics, *_ = evaluate_op(
            list(anchors.chunk(2)), keys, None, None, None, None, None, None, None,
            None, offset, "cosine", 0.7, "importance", 1.0, 0.1, settings.temperature, "mean", False, True,
        )  # fmt: skip
        return loss, Statistics(*statistics.tolist())

    def reference(anchors: Tensor, keys: Tensor) -> Evaluation:
        return evaluate(anchors, keys, views_layout(samples, 2, len(keys), offset), settings)

    assert_like_reference(call, reference, [anchors, keys], settings)


@pytest.mark.parametrize(("offset", "samples"), [(0, 35), (37, 300)])
def test_gathered_keys(offset: int, samples: int, emulate: Emulate) -> None:
    emulate(BF16, 64, wgmma=True)
    check_gathered(offset, samples)


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan], ids=str)
def test_a_row_without_a_direction(value: float, emulate: Emulate) -> None:
    emulate(BF16, 64, wgmma=True)
    z = torch.randn(80, 64).to(BF16)
    z[5] = value
    assert math.isnan(functional.hex_loss(*z.chunk(2), **arguments(COSINE)).item())


@pytest.mark.parametrize(
    "settings",
    [
        Settings(threshold="minmax", value=0.75),
        Settings(threshold="margin", value=1.0),
        Settings(threshold="adaptive", value=0.93),
        Settings(threshold="cosine", value=0.7, beta=2.0),
    ],
    ids=["minmax", "margin", "few keys", "beta"],
)
def test_other_calls_take_the_kernels_of_every_chip(
    settings: Settings, emulate: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rule is in `src/cuda/hopper.rs`: these would be wrong by the kernels for sm_90a.
    emulate(BF16, 64)
    monkeypatch.setenv("HEX_SSL_CUDA_WGMMA", "1")
    assert_views_like_reference(decided(35, 2, 64, settings, BF16, draw=gapped), 2, settings)


# Adaptive thresholds.


def queue(dims: int, dtype: torch.dtype, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """21 anchors, ten of them in groups, 1,298 keys, the anchors' positives; and nothing near the threshold."""
    chosen = torch.cat([torch.arange(0, 50, 5), torch.arange(335, 346)])
    others = torch.ones(1340, dtype=torch.bool).index_fill(0, torch.cat([chosen, chosen + 670]), False)
    for seed in range(100):
        z = gapped(670, 2, dims, torch.Generator().manual_seed(seed)).to(dtype)
        anchors, keys, positives = z[chosen], z[others], z[chosen + 670]
        candidates = torch.cat([keys, positives])
        if is_decided(evaluate(anchors, candidates, apart_layout(21, len(keys)), settings), dtype):
            return anchors, keys, positives
    raise AssertionError("no batch is decided")


SCHEDULES = {
    "in order": Schedule(seed=1, resident_blocks=1),
    "lanes at random": Schedule(seed=2, random_lanes=True, resident_blocks=3),
    "products that cut sums off": TRUNCATING,
}


def check_core(dtype: torch.dtype) -> None:
    """Pairs that are no negatives; rings that go round, brackets that hit and miss, keys' gradients; ties."""
    for samples, value in ((65, 0.7), (5, -math.inf)):
        settings = Settings(threshold="cosine", value=value, temperature=0.5)
        z = gapped(samples, 2, 64, torch.Generator().manual_seed(2)).to(dtype)
        assert_views_like_reference(z, 2, settings)
    adaptive = Settings(threshold="adaptive", value=0.997, temperature=0.5)
    assert_apart_like_reference(*queue(64, dtype, adaptive), adaptive)
    assert_ties(dtype)
    # More anchors than a launch has rows. Most brackets of the sample hit: few rows are searched among all keys.
    anchors, keys = torch.randn(1400, 64, generator=torch.Generator().manual_seed(9)).to(dtype).split([300, 1100])
    assert misses_of_quantiles(anchors, keys, anchors, 0.9) <= 3
    # The sample looks at other keys: most brackets miss.
    spread, looked_at = keys.repeat(2, 1)[:1300], torch.zeros(1300, 1, dtype=torch.bool)
    looked_at[kernels.sampled_columns(256, 1300)] = True
    keys, positives = torch.where(looked_at, anchors[0] + spread / 16, spread), anchors[5:10]
    assert misses_of_quantiles(anchors[:5], keys, positives, 0.5) > 0
    # So many that blocks search a part of them each.
    anchors, keys, positives = (each.to(dtype) for each in misled(70, 0, 1300, 256))
    assert misses_of_quantiles(anchors, keys, positives, 0.5) == 70


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_the_core_is_right(dtype: torch.dtype, schedule: str, emulate: Emulate) -> None:
    emulate(dtype, 64, wgmma=True, schedule=SCHEDULES[schedule], launch_rows=LAUNCH_ROWS)
    check_core(dtype)


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["spread", "ties", "with the anchors"])
def test_quantiles(kind: str, quantile: float, emulate: Emulate) -> None:
    emulate(BF16, 64, wgmma=True)
    generator = torch.Generator().manual_seed(4)
    keys = torch.randn(1300, 64, generator=generator)
    if kind == "ties":
        keys = keys[torch.randint(3, (1300,), generator=generator)]
    keys = keys.to(BF16)
    views, offset = [torch.randn(21, 64, generator=generator).to(BF16)], 0
    positives: Tensor | None = torch.randn(21, 64, generator=generator).to(BF16)
    if kind == "with the anchors":
        views, offset, positives = list(keys[130:152].chunk(2)), 130, None
    found = row_quantiles(views, keys, positives, offset, quantile)
    assert_quantiles(found, torch.cat(views), keys, positives, quantile)
    if kind == "with the anchors" and quantile == 1.0:
        # The similarity of an anchor with itself is not rounded.
        assert found.equal(torch.ones(len(found)))


@pytest.mark.parametrize(
    ("missed", "others", "keys", "sampled", "quantile", "by_all_blocks"),
    [
        (1, 5, 1300, 256, 0.5, True),
        (5, 5, 1302, 256, 0.5, True),
        (64, 5, 1279, 256, 0.5, True),
        (65, 5, 1301, 256, 0.5, False),
        # The memory has room for the similarities of 21 rows.
        (21, 0, 5000, 512, 0.99, True),
        (22, 0, 5000, 512, 0.99, False),
    ],
)
def test_all_blocks_search_few_rows(
    missed: int, others: int, keys: int, sampled: int, quantile: float, by_all_blocks: bool, emulate: Emulate
) -> None:
    anchors, rows, positives = (each.to(BF16) for each in misled(missed, others, keys, sampled))

    emulate(BF16, 64, wgmma=True)
    assert misses_of_quantiles(anchors, rows, positives, quantile) == missed
    # It is wrong only there.
    bug = "select: each block compares failed rows with all keys"
    emulate(BF16, 64, wgmma=True, mutation=bug)
    with HOPPER_MUTATIONS[bug].seen() if by_all_blocks else nullcontext():
        assert misses_of_quantiles(anchors, rows, positives, quantile) == missed


def test_same_bits(emulate: Emulate) -> None:
    anchors, keys, positives = torch.randn(1400, 64).to(BF16).split([50, 1300, 50])
    anchors.requires_grad_()
    found = []
    for seed in (1, 2):
        emulate(BF16, 64, wgmma=True, schedule=Schedule(seed, resident_blocks=3))
        anchors.grad = None
        loss = functional.hex_loss_with_keys(anchors, keys, positives=positives)
        loss.backward()
        assert anchors.grad is not None
        found.append((loss.detach(), anchors.grad))
    assert all(one.equal(other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("name", HOPPER_MUTATIONS)
def test_a_planted_bug_is_seen(name: str, emulate: Emulate) -> None:
    mutation = HOPPER_MUTATIONS[name]
    emulate(mutation.dtype, 64, wgmma=True, mutation=name, schedule=TRUNCATING, launch_rows=LAUNCH_ROWS)
    with mutation.seen():
        # Of few tiles, each has pairs that are no negatives.
        check_gathered(37, 300) if "excluded columns" in name else check_core(mutation.dtype)
