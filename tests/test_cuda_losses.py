"""A temperature in device memory, two towers and SupCon on the CUDA kernels, whose PTX is executed on the CPU.

`test_cuda_emulation.py` has the tests of all other calls.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hex_ssl import functional
from hex_ssl.thresholds import AdaptiveThreshold

from .batches import clustered, gapped, is_decided
from .compare import GRADIENT_ERROR, LOSS_ERROR, arguments, assert_like_reference
from .conftest import Emulate
from .ptx import kernels
from .ptx.emulation import Emulation
from .ptx.interpreter import Schedule
from .ptx.mutations import LOSS_MUTATIONS
from .ptx.structures import enumerators, structures
from .reference import Anchor, Evaluation, Layout, Settings, Statistics, evaluate
from .temperatures import COSINE, LOSSES, assert_close, exact, step

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize("temperature", [0.01, 0.5])
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, F32) for name in LOSSES), ("floor", BF16), ("clip", BF16), ("ntxent", F16)], ids=str
)
def test_temperature_in_device_memory(name: str, dtype: torch.dtype, temperature: float, emulate: Emulate) -> None:
    emulate(dtype, 64)
    z = gapped(36, 2, 64, torch.Generator().manual_seed(3)).to(dtype)
    given = torch.tensor(temperature)
    assert_close(step(LOSSES[name], z, given), exact(LOSSES[name], z, given), temperature, dtype)


def test_some_anchors_are_at_the_floor(emulate: Emulate) -> None:
    emulate(F32, 64)
    z = gapped(36, 2, 64, torch.Generator().manual_seed(3)).float()
    found = LOSSES["floor"](*z.chunk(2), temperature=torch.tensor(0.5), return_statistics=True)[1]
    assert 0.0 < found.floor_fraction < 1.0


@pytest.mark.parametrize("dtype", [BF16, F32, torch.float64], ids=str)
def test_number_and_tensor_give_the_same_loss(dtype: torch.dtype, emulate: Emulate) -> None:
    # At 0.25 a number takes the kernels for shifts of 1, which a tensor does not.
    emulate(F32, 64)
    z = clustered(20, 2, 64, torch.Generator().manual_seed(3)).float()
    for temperature in (0.25, 2.0**-6):  # exact in all
        by_number = functional.hex_loss(*z.chunk(2), threshold=COSINE, temperature=temperature)
        given = torch.tensor(temperature, dtype=dtype)
        by_tensor = functional.hex_loss(*z.chunk(2), threshold=COSINE, temperature=given)
        torch.testing.assert_close(by_tensor, by_number, rtol=3e-6, atol=0)


@pytest.mark.parametrize("wanted", ["rows", "temperature", "neither"])
def test_gradients_that_are_wanted(wanted: str, emulate: Emulate) -> None:
    emulate(F32, 64)
    z = clustered(20, 2, 64, torch.Generator().manual_seed(3)).float()
    whole = step(functional.ntxent_loss, z, torch.tensor(0.2))
    rows = z.clone().requires_grad_(wanted == "rows")
    learned = torch.tensor(0.2).requires_grad_(wanted == "temperature")
    loss = functional.ntxent_loss(*rows.chunk(2), temperature=learned)
    assert loss.equal(whole.loss)
    if wanted != "neither":
        loss.backward()
        assert rows.grad is None if wanted == "temperature" else whole.rows.equal(rows.grad)  # type: ignore[arg-type]
        assert learned.grad is None if wanted == "rows" else whole.temperature.equal(learned.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_reductions(reduction: str, emulate: Emulate) -> None:
    emulate(F32, 64)
    z = gapped(20, 2, 64, torch.Generator().manual_seed(3)).float()
    weights = torch.linspace(0.5, 1.5, 40) if reduction == "none" else None

    def loss(*z: Tensor, **more: Any) -> Tensor:
        return LOSSES["floor"](*z, reduction=reduction, **more)

    given = torch.tensor(0.2)
    assert_close(step(loss, z, given, weights), exact(loss, z, given, weights), 0.2, F32)


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
def test_a_temperature_that_is_not_positive_gives_nan(value: float, emulate: Emulate) -> None:
    # An error would have to wait for the device. The CPU kernel raises one.
    emulate(F32, 64)
    loss = functional.ntxent_loss(*torch.randn(2, 10, 64), temperature=torch.tensor(value))
    assert loss.isnan()


# Two towers.


def towers_layout(samples: int) -> Layout:
    """Each row of a tower is compared with the other tower."""
    towers = [tuple(range(samples)), tuple(range(samples, 2 * samples))]
    anchors = []
    for i in range(2 * samples):
        other, positive = towers[i < samples], (i + samples) % (2 * samples)
        anchors.append(Anchor(other, (positive,), tuple(j for j in other if j != positive)))
    return Layout(anchors, 2 * samples)


def assert_towers_like_reference(
    z: Tensor, settings: Settings, *, labels: Tensor | None = None, reduction: str = "mean"
) -> None:
    """`clip_loss` on the two halves of `z`."""
    rows = None if labels is None else labels.repeat(2)

    def call(*towers: Tensor) -> tuple[Tensor, Statistics]:
        found = functional.clip_loss(
            *towers, labels=labels, reduction=reduction, return_statistics=True, **arguments(settings)
        )
        return found[0], Statistics(*(each.item() for each in found[1]))

    def reference(*towers: Tensor) -> Evaluation:
        stacked = torch.cat(towers)
        return evaluate(stacked, stacked, towers_layout(len(z) // 2), settings, rows, rows)

    assert_like_reference(call, reference, z.chunk(2), settings, reduction)


def decided_towers(samples: int, dims: int, settings: Settings, dtype: torch.dtype) -> Tensor:
    """The first batch on which no decision is within rounding."""
    for seed in range(100):
        z = gapped(samples, 2, dims, torch.Generator().manual_seed(seed)).to(dtype)
        if is_decided(evaluate(z, z, towers_layout(samples), settings), dtype):
            return z
    # Not an AssertionError, which a planted bug is expected to cause.
    raise ValueError(f"no batch of {samples} samples is decided for {settings}")


@pytest.mark.parametrize(
    ("dtype", "samples", "dims"),
    [(F32, 2, 40), (BF16, 33, 64), (F32, 64, 64), (F16, 75, 64), (BF16, 131, 64), (F32, 35, 150), (BF16, 40, 250)],
    ids=str,
)
def test_towers(dtype: torch.dtype, samples: int, dims: int, emulate: Emulate) -> None:
    # Blocks of 128 rows end at the border between the towers, or have rows of both.
    emulate(dtype, dims)
    settings = Settings(threshold="cosine", value=0.7)
    assert_towers_like_reference(decided_towers(samples, dims, settings, dtype), settings)


@pytest.mark.parametrize("formulation", ["importance", "official", "elimination"])
@pytest.mark.parametrize(
    ("threshold", "value"),
    [
        ("adaptive", 0.93),
        ("minmax", 0.75),
        ("labels", 0.0),
        ("cosine", 1.0),
        ("margin", 0.1),
        ("relative_margin", -0.3),
    ],
)
def test_thresholds_of_towers(threshold: str, value: float, formulation: str, emulate: Emulate) -> None:
    emulate(F32, 64)
    settings = Settings(threshold=threshold, value=value, formulation=formulation)
    labels = torch.arange(70) % 5 if threshold == "labels" else None
    z = gapped(70, 2, 64, torch.Generator().manual_seed(1)) if labels is not None else None
    assert_towers_like_reference(
        decided_towers(70, 64, settings, F32) if z is None else z.float(), settings, labels=labels
    )


@pytest.mark.parametrize(("reduction", "temperature"), [("sum", 0.1), ("none", 0.01)])
def test_reductions_of_towers(reduction: str, temperature: float, emulate: Emulate) -> None:
    emulate(F32, 64)
    settings = Settings(temperature, threshold="cosine", value=1.0)
    assert_towers_like_reference(decided_towers(40, 64, settings, F32), settings, reduction=reduction)


def test_towers_of_many_rows(emulate: Emulate) -> None:
    # A sample brackets the quantiles of more than 1,024 keys. For some rows, 600 equal similarities are in the bracket,
    # which is more than there is room for, so that another kernel searches all keys.
    emulate(BF16, 64)
    z = gapped(1030, 2, 64, torch.Generator().manual_seed(1)).to(BF16)
    z[1030:1630] = z[0]
    units = torch.nn.functional.normalize(z.double())
    rows = units[:1030] @ units[1030:].T
    expected = torch.cat([rows, rows.T]).quantile(0.99, 1, interpolation="nearest").mean()
    _, statistics = functional.clip_loss(*z.chunk(2), threshold=AdaptiveThreshold(0.99), return_statistics=True)
    torch.testing.assert_close(statistics.threshold.double(), expected, rtol=0, atol=1e-6)


def check_failed_towers(missed: tuple[int, int]) -> None:
    """So many rows of either tower that the sample's bracket misses: the keys that it looks at are close to them."""
    towers = torch.randn(2, 1030, 64, generator=torch.Generator().manual_seed(6))
    towers[:, :, :2] = 0.0
    looked_at = sorted(kernels.sampled_columns(256, 1030))
    others = sorted(set(range(1030)) - set(looked_at))
    for tower, count in enumerate(missed):
        towers[1 - tower, looked_at, tower], towers[tower, others[:count], tower] = 6.0, 10.0
    towers = towers.to(BF16)
    first, second = torch.nn.functional.normalize(towers.double(), dim=-1)
    rows = first @ second.T
    expected = torch.cat([rows, rows.T]).quantile(0.5, 1, interpolation="nearest").mean()
    _, statistics = functional.clip_loss(*towers, threshold=AdaptiveThreshold(0.5), return_statistics=True)
    torch.testing.assert_close(statistics.threshold.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("missed", "by_all_blocks"), [((1, 0), True), ((9, 7), True), ((7, 10), False)])
def test_rows_of_towers_that_brackets_miss(missed: tuple[int, int], by_all_blocks: bool, emulate: Emulate) -> None:
    emulate(BF16, 64)
    check_failed_towers(missed)
    # It is wrong only where all blocks share the search.
    bug = "select: failed rows are compared with both towers"
    emulate(BF16, 64, mutation=bug)
    with LOSS_MUTATIONS[bug].seen() if by_all_blocks else nullcontext():
        check_failed_towers(missed)


def test_one_sample_of_towers(emulate: Emulate) -> None:
    emulate(F32, 40)
    z1, z2 = torch.randn(2, 1, 40, requires_grad=True)
    assert functional.clip_loss(z1, z2) == 0


# SupCon.


@pytest.mark.parametrize(
    ("dtype", "rows", "views", "classes"),
    [(F32, 2, 1, 1), (F32, 70, 1, 10), (BF16, 40, 2, 7), (F16, 75, 1, 30), (F32, 33, 3, 40)],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.01, 0.2])
def test_supcon(dtype: torch.dtype, rows: int, views: int, classes: int, temperature: float, emulate: Emulate) -> None:
    # With 30 and 40 classes some rows have no positive: 0 to 4 have one each, at most.
    emulate(dtype, 64)
    labels = torch.arange(rows) % classes - 1
    z = clustered(rows, views, 64, torch.Generator().manual_seed(3)).to(dtype)

    def call(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        leaf = z.detach().requires_grad_()
        loss, statistics = functional.supcon_loss(
            *leaf.chunk(views), labels=labels, temperature=temperature, return_statistics=True
        )
        return loss.detach(), torch.autograd.grad(loss, leaf)[0], torch.stack(list(statistics))

    loss, gradient, statistics = call(z)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEX_SSL_BACKEND", "cpu")
        expected, by_rows, of_cpu = call(z.double())
    error = LOSS_ERROR[dtype] * max(1.0, 0.1 / temperature)
    torch.testing.assert_close(loss.double(), expected, rtol=error, atol=error)
    error = GRADIENT_ERROR[dtype] * max(1.0, 0.1 / temperature)
    assert (gradient.double() - by_rows).norm() <= error * max(by_rows.norm(), 1e-3)
    torch.testing.assert_close(statistics.double(), of_cpu, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_supcon_without_any_positive(emulate: Emulate) -> None:
    emulate(F32, 40)
    z = torch.randn(7, 40, requires_grad=True)
    loss, statistics = functional.supcon_loss(z, labels=torch.arange(7), return_statistics=True)
    loss.backward()
    assert loss == 0
    assert z.grad is not None
    assert not z.grad.any()
    assert statistics.undefined_anchors == 7


# Planted bugs.


@pytest.fixture(scope="module", autouse=True)
def _compile_ahead(emulation: Emulation, request: pytest.FixtureRequest) -> None:
    """Compile while the first tests run."""
    emulation.start_planted(LOSS_MUTATIONS, request.session, test_a_planted_bug_is_seen)


def check_losses(dtype: torch.dtype) -> None:
    """Towers that share a block, by a threshold and by a quantile; SupCon; derivatives by the temperature."""
    for samples, settings in (
        (190, Settings(threshold="cosine", value=0.7, temperature=0.5)),
        (75, Settings(value=0.96, temperature=0.5)),
    ):
        assert_towers_like_reference(decided_towers(samples, 64, settings, dtype), settings)
    # So many rows for SupCon that a block has several tiles, whose labels differ.
    for name, samples, temperature in (
        ("supcon", 76, 0.5),
        ("floor", 36, 0.5),
        ("official", 36, 0.5),
        ("ntxent", 36, 0.005),
    ):
        z, given = gapped(samples, 2, 64, torch.Generator().manual_seed(3)).to(dtype), torch.tensor(temperature)
        assert_close(step(LOSSES[name], z, given), exact(LOSSES[name], z, given), temperature, dtype)
    # So sharp that exponentials are finite only relative to the largest one, of the positives or of negatives.
    draw, given = partial(torch.randn, generator=torch.Generator().manual_seed(5)), torch.tensor(0.0005)
    first, noise, others = draw(3, 36, 64)
    near = first + 0.1 * noise
    for z in (torch.cat([first, near]).to(dtype), torch.cat([first[:18], near[:18], others]).to(dtype)):
        for name in ("supcon", "hex"):
            assert_close(step(LOSSES[name], z, given), exact(LOSSES[name], z, given), 0.0005, dtype)
    # The anchors that count are in blocks behind as many as the last one has threads.
    z, given = gapped(2060, 2, 64, torch.Generator().manual_seed(3)).to(dtype), torch.tensor(0.5)
    weights, each = (torch.arange(2060) >= 2048).float(), partial(LOSSES["queue"], reduction="none")
    assert_close(step(each, z, given, weights), exact(each, z, given, weights), 0.5, dtype)


def check_totals(emulation: Emulation, dtype: torch.dtype, mutation: str | None = None) -> None:
    """The kernel `anchors` adds the totals of more blocks than a block has threads, here of 8 anchors each."""
    struct, number, count = structures(), enumerators(), 8 * 257
    sums, cards, losses = torch.ones(count, 5), torch.zeros(count, 4), torch.zeros(count)
    sums[:, 3] = torch.arange(count)
    header, totals = torch.zeros(16, dtype=torch.float64), torch.zeros(257, 9, dtype=torch.float64)
    header[struct["Header"].temperature.offset // 8] = 1.0
    statistics = torch.zeros(6)
    parameters = struct["Parameters"](
        anchors=struct["Side"](cards=cards.data_ptr(), count=count, padded=count), loss=losses.data_ptr(),
        statistics=statistics.data_ptr(), header=header.data_ptr(), sums=sums.data_ptr(), totals=totals.data_ptr(),
        pairing=number["INDEXED"], formulation=number["IMPORTANCE"], splits=1,
    )  # fmt: skip
    emulation.interpreter.launch(
        emulation.start(kernels.operand_of(dtype), 64, mutation).result(),
        [bytes(parameters), bytes(struct["Launch"](rows=8))],
        kernel="anchors",
        blocks=(257, 1, 1),
        threads=256,
        shared_bytes=584,
        memory=(sums, cards, losses, header, totals, statistics),
    )
    assert statistics[1] == (count - 1) / 2


@pytest.mark.parametrize("random_lanes", [False, True])
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_the_losses_are_right(dtype: torch.dtype, random_lanes: bool, emulate: Emulate, emulation: Emulation) -> None:
    emulate(dtype, 64, schedule=Schedule(seed=2, random_lanes=random_lanes, resident_blocks=3))
    check_losses(dtype)
    check_totals(emulation, dtype)


@pytest.mark.parametrize("name", LOSS_MUTATIONS)
def test_a_planted_bug_is_seen(name: str, emulate: Emulate, emulation: Emulation) -> None:
    mutation = LOSS_MUTATIONS[name]
    emulate(mutation.dtype, 64, mutation=name)
    with mutation.seen():
        if "failed rows" in name:
            check_failed_towers((9, 7))
        check_losses(mutation.dtype)
        check_totals(emulation, mutation.dtype, name)
