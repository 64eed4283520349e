"""The CUDA kernels, executed as PTX on the CPU, against the reference. tests/gpu has the tests that need a GPU."""

import math
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from hex_ssl import functional
from hex_ssl.ops import evaluate as evaluate_op
from hex_ssl.ops import row_quantiles
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold

from .batches import clustered, decided, gapped, gathered, is_decided, misled
from .compare import (
    GRADIENT_ERROR,
    arguments,
    assert_apart_like_reference,
    assert_gradient,
    assert_index_like_reference,
    assert_like_reference,
    assert_loss,
    assert_quantiles,
    assert_statistics,
    assert_views_like_reference,
    misses_of_quantiles,
)
from .conftest import Emulate
from .ptx import kernels
from .ptx.emulation import Emulation
from .ptx.interpreter import Schedule
from .ptx.mutations import MUTATIONS
from .reference import Evaluation, Settings, Statistics, apart_layout, evaluate, views_layout

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
VARIANTS = [
    ("SPLIT_TF32", 64),
    ("BF16", 64),
    ("BF16", 128),
    ("F16", 64),
    ("BF16", 288),
    ("SPLIT_TF32", 160),
    ("SPLIT_TF32", 128),
    ("BF16", 256),
    ("SPLIT_TF32", 256),
    ("TF32", 64),
]
FORMULATIONS = ["importance", "official", "decoupled", "elimination"]


@pytest.fixture(scope="module", autouse=True)
def _compile_ahead(emulation: Emulation, request: pytest.FixtureRequest) -> None:
    """Compile while the first tests run, where there are many."""
    for operand, dims in VARIANTS if len(request.session.items) > 100 else []:
        emulation.start(operand, dims)
    emulation.start_planted(MUTATIONS, request.session, test_a_planted_bug_is_seen)


@pytest.mark.parametrize(("operand", "dims"), VARIANTS)
def test_every_instruction_is_known(operand: str, dims: int, emulation: Emulation) -> None:
    # In kernels that no test here launches as well.
    emulation.load(operand, dims)
    emulation.interpreter.decode(f"{operand}_{dims}")


def test_floats_are_split_without_the_conversion_that_is_emulated(emulation: Emulation) -> None:
    # cvt.rna.tf32 is five instructions on every chip.
    assert "cvt.rna" not in emulation.start("SPLIT_TF32", 64).result()
    assert "cvt.rna" in emulation.start("TF32", 64).result()


@pytest.mark.parametrize(
    ("dtype", "samples", "dims"),
    [
        (BF16, 33, 64),
        (BF16, 150, 64),
        (BF16, 33, 270),
        (BF16, 65, 128),
        (BF16, 33, 250),
        (F16, 75, 64),
        (F32, 2, 40),
        (F32, 33, 64),
        (F32, 131, 64),
        (F32, 33, 150),
        (F32, 65, 127),
        (F32, 33, 256),
    ],
    ids=str,
)
def test_sizes(dtype: torch.dtype, samples: int, dims: int, emulate: Emulate) -> None:
    emulate(dtype, dims)
    settings = Settings(value=0.99 if samples > 50 else 0.97)
    draw = clustered if dtype == F32 else gapped
    assert_views_like_reference(decided(samples, 2, dims, settings, dtype, draw=draw), 2, settings)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_one_sample(dtype: torch.dtype, formulation: str, emulate: Emulate) -> None:
    emulate(dtype, 40)
    z = [each.requires_grad_() for each in torch.randn(2, 1, 40).to(dtype)]
    loss, found = functional.hex_loss(*z, formulation=formulation, return_statistics=True)
    loss.backward()
    assert loss == 0
    assert not any(each.grad.any() for each in z)  # type: ignore[union-attr]
    assert found.negative_similarity.isnan()
    assert found.undefined_anchors == (0 if formulation in ("importance", "elimination") else 2)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize(
    ("threshold", "value"),
    [
        ("adaptive", 0.93),
        ("cosine", 0.7),
        ("minmax", 0.75),
        ("labels", 0.0),
        ("cosine", math.inf),
        ("minmax", math.inf),
    ],
)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_thresholds(threshold: str, value: float, formulation: str, dtype: torch.dtype, emulate: Emulate) -> None:
    emulate(dtype, 64)
    settings = Settings(threshold=threshold, value=value, formulation=formulation)
    labels = torch.arange(35) % 5 if threshold == "labels" else None
    # bfloat16 decides as float64 does only where similarities keep away from what they are compared with.
    z = decided(35, 2, 64, settings, dtype, labels, draw=clustered if dtype == F32 else gapped)
    assert_views_like_reference(z, 2, settings, labels=labels)


@pytest.mark.parametrize("scale", ["cosine", "minmax"])
def test_all_negatives_hierarchical(scale: str, emulate: Emulate) -> None:
    emulate(F32, 40)
    settings = Settings(threshold=scale, value=-math.inf)
    assert_views_like_reference(decided(35, 2, 40, settings, F32), 2, settings)


@pytest.mark.parametrize("formulation", ["importance", "official", "elimination"])
@pytest.mark.parametrize("temperature", [0.005, 0.03, 10.0])
@pytest.mark.parametrize("threshold", ["cosine", "minmax"])
def test_temperatures(threshold: str, temperature: float, formulation: str, emulate: Emulate) -> None:
    emulate(F32, 40)
    settings = Settings(temperature, threshold, 0.55, formulation)
    assert_views_like_reference(decided(40, 2, 40, settings, F32), 2, settings)


@pytest.mark.parametrize(("beta", "tau_plus"), [(0.0, 0.0), (2.5, 0.05), (1.0, 0.0)])
@pytest.mark.parametrize("temperature", [0.02, 0.2])
def test_weights(temperature: float, beta: float, tau_plus: float, emulate: Emulate) -> None:
    emulate(F32, 40)
    settings = Settings(temperature, "adaptive", 0.9, beta=beta, tau_plus=tau_plus)
    assert_views_like_reference(decided(40, 2, 40, settings, F32), 2, settings)


@pytest.mark.parametrize("views", [3, 5])
def test_views(views: int, emulate: Emulate) -> None:
    emulate(F32, 40)
    settings = Settings(value=0.95)
    assert_views_like_reference(decided(31, views, 40, settings, F32), views, settings)


@pytest.mark.parametrize(("dtype", "reduction"), [(F32, "sum"), (F32, "none"), (F16, "none")], ids=str)
@pytest.mark.parametrize(("threshold", "value"), [("cosine", 0.7), ("adaptive", 0.93)])
def test_reductions(threshold: str, value: float, dtype: torch.dtype, reduction: str, emulate: Emulate) -> None:
    emulate(dtype, 64)
    settings = Settings(threshold=threshold, value=value)
    z = decided(40, 2, 64, settings, dtype, draw=clustered if dtype == F32 else gapped)
    assert_views_like_reference(z, 2, settings, reduction=reduction)


@pytest.mark.parametrize("dtype", [BF16, F16, F32, torch.float64], ids=str)
def test_a_threshold_on_the_device(dtype: torch.dtype, emulate: Emulate) -> None:
    emulate(F32, 40)
    z = clustered(35, 2, 40, torch.Generator().manual_seed(1)).float()
    epsilon = torch.tensor(0.3125, dtype=dtype)  # exact in all
    given = ["importance", 1.0, 0.1, 0.1, "mean", False, True]
    inputs = [list(z.chunk(2)), None, None, None, None, None, None]
    for_tensor = evaluate_op(*inputs, epsilon, None, None, 0, "given", 0.0, *given)
    for_number = evaluate_op(*inputs, None, None, None, 0, "cosine", 0.3125, *given)
    assert all(one.equal(other) for one, other in zip(for_tensor, for_number, strict=True))


@pytest.mark.parametrize(("threshold", "value"), [("adaptive", 0.9), ("minmax", 0.6), ("cosine", 0.3), ("labels", 0.0)])
def test_other_keys(threshold: str, value: float, emulate: Emulate) -> None:
    emulate(F32, 40)
    settings = Settings(threshold=threshold, value=value)
    generator = torch.Generator().manual_seed(29)
    anchors, positives, keys = clustered(340, 1, 40, generator).to(F32).split([70, 70, 200])
    labels = (torch.arange(70) % 4, torch.arange(200) % 4) if threshold == "labels" else None
    assert_apart_like_reference(anchors, keys, positives, settings, labels=labels)

    orders = torch.stack([torch.randperm(200, generator=generator) for _ in range(70)])
    ignored = torch.where(torch.arange(70) % 3 == 0, -1, orders[:, 3])
    assert_index_like_reference(anchors, keys, orders[:, :3], ignored, settings, labels=labels)
    assert_index_like_reference(anchors, keys, orders[:, :1], None, settings, labels=labels)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize(("offset", "samples"), [(0, 65), (13, 200)])
def test_gathered_keys(offset: int, samples: int, dtype: torch.dtype, emulate: Emulate) -> None:
    # As a process of several calls the operator: its anchors stand in all keys, from its offset on. There are tiles
    # without a pair of two views of a sample.
    emulate(dtype, 64)
    settings = Settings(threshold="cosine", value=0.7)
    anchors, keys = gathered(offset, samples, dtype)

    def call(anchors: Tensor, keys: Tensor) -> tuple[Tensor, Statistics]:
        loss, statistics, *_ = evaluate_op(
            list(anchors.chunk(2)), keys, None, None, None, None, None, None, None,
            None, offset, "cosine", 0.7, "importance", 1.0, 0.1, 0.1, "mean", False, True,
        )  # fmt: skip
        return loss, Statistics(*statistics.tolist())

    def reference(anchors: Tensor, keys: Tensor) -> Evaluation:
        return evaluate(anchors, keys, views_layout(samples, 2, len(keys), offset), settings)

    assert_like_reference(call, reference, [anchors, keys], settings)


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
@pytest.mark.parametrize("sign", [-1, 1])
def test_scales_of_rows(sign: int, dtype: torch.dtype, emulate: Emulate) -> None:
    emulate(dtype, 40)
    exponent = sign * (3 if dtype == F16 else 30)
    settings = Settings(threshold="labels")
    labels = torch.arange(24) % 6
    powers = torch.full((48, 1), float(exponent), dtype=torch.float64)
    powers[::2] *= -1
    plain = torch.nn.functional.normalize(clustered(24, 2, 40, torch.Generator().manual_seed(6)))
    z = (plain * 10**powers).to(dtype).requires_grad_()
    near = (z.detach().double() * 10 ** (-powers)).requires_grad_()
    loss = functional.hex_loss(*z.chunk(2), threshold="supervised", labels=labels)
    expected = evaluate(near, near, views_layout(24, 2), settings, labels.repeat(2), labels.repeat(2)).reduced("mean")
    loss.backward()
    expected.backward()
    assert_loss(loss, expected, settings, dtype)
    assert z.grad is not None
    assert near.grad is not None
    if dtype != F16:  # whose gradients of the longest rows are below its smallest number
        back = (z.grad.double() * 10**powers).float()
        off = (back.double() - near.grad).norm() / near.grad.norm()
        assert off.item() < (1e-5 if dtype == F32 else 2e-2)


def check_weights(dtype: torch.dtype) -> None:
    """Weights of anchors that are negative, with float16 derivatives scaled as for positive ones, and all 0.

    And so small or large that float16 derivatives are not scaled: what is beyond its range is its largest number.
    """
    settings = Settings(threshold="cosine", value=0.7)
    z = gapped(35, 2, 64, torch.Generator().manual_seed(1)).to(dtype)
    exact = z.double().requires_grad_()
    losses = evaluate(exact, exact, views_layout(35, 2), settings).losses

    def gradient(weights: Tensor) -> Tensor:
        return evaluate_op(
            list(z.chunk(2)), None, None, None, None, None, None, None, weights,
            None, 0, "cosine", 0.7, "importance", 1.0, 0.1, 0.1, "none", False, True,
        )[2]  # fmt: skip

    for weights in (torch.linspace(-2e-6, -1e-6, 70), torch.zeros(70)):
        (expected,) = torch.autograd.grad((losses * weights).sum(), exact, retain_graph=True)
        assert (gradient(weights).double() - expected).norm() <= GRADIENT_ERROR[dtype] * expected.norm()
    for weight in (1e-40, 1e31, -1e31) if dtype == F16 else ():
        assert gradient(torch.full((70,), weight)).isfinite().all()


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
def test_weights_of_anchors(dtype: torch.dtype, emulate: Emulate) -> None:
    emulate(dtype, 64)
    check_weights(dtype)


def check_ties(dtype: torch.dtype) -> None:
    """All similarities with keys are equal, and so the threshold. None is above it."""
    one, other = torch.randn(2, 64, generator=torch.Generator().manual_seed(8)).to(dtype)
    anchors, keys = one.repeat(5, 1).requires_grad_(), other.repeat(70, 1)
    loss, found = functional.hex_loss_with_keys(
        anchors, keys, positives=-one.repeat(5, 1), threshold=AdaptiveThreshold(0.5), return_statistics=True
    )
    assert found.hierarchical_negatives == 0
    assert not found.threshold.isnan()
    loss.backward()
    assert anchors.grad is not None
    exact, settings = anchors.detach().double().requires_grad_(), Settings(threshold="cosine", value=math.inf)
    candidates = torch.cat([keys, -one.repeat(5, 1)]).double()
    evaluate(exact, candidates, apart_layout(5, 70), settings).reduced("mean").backward()
    assert exact.grad is not None
    assert_gradient(anchors.grad, exact.grad, exact.detach(), settings, 0.2)


def check_short_row(dtype: torch.dtype) -> None:
    """A row so short that its gradient is beyond float32: it saturates."""
    settings = Settings(threshold="cosine", value=0.7)
    z = gapped(15, 2, 64, torch.Generator().manual_seed(1)).to(dtype)
    z[3] *= 1e-41
    inputs, exact = z.clone().requires_grad_(), z.double().requires_grad_()
    functional.hex_loss(*inputs.chunk(2), **arguments(settings)).backward()
    evaluate(exact, exact, views_layout(15, 2), settings).reduced("mean").backward()
    assert inputs.grad is not None
    assert exact.grad is not None
    largest = torch.finfo(dtype).max
    beyond = exact.grad.abs() > 1.1 * largest
    assert beyond.any()
    assert inputs.grad[beyond].equal(exact.grad.sign()[beyond].to(dtype) * largest)


def test_a_gradient_beyond_float32(emulate: Emulate) -> None:
    emulate(F32, 64)
    check_short_row(F32)


def check_nan(dtype: torch.dtype, value: float) -> None:
    """NaN is the loss of every anchor, not 0 as where it has no global negatives."""
    z = torch.randn(80, 64).to(dtype)
    z[5] = value
    for formulation in FORMULATIONS:
        assert functional.hex_loss(*z.chunk(2), formulation=formulation, reduction="none").isnan().all()


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan], ids=str)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_a_row_without_a_direction(dtype: torch.dtype, value: float, emulate: Emulate) -> None:
    # No error, as nobody waits for the device: the loss is NaN.
    emulate(dtype, 64)
    check_nan(dtype, value)


@pytest.mark.parametrize(
    "threshold", [FixedThreshold(0.5, scale="cosine"), FixedThreshold(0.5)], ids=["usual", "general"]
)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_a_key_without_a_direction(dtype: torch.dtype, threshold: FixedThreshold, emulate: Emulate) -> None:
    emulate(dtype, 64)
    anchors, positives, keys = torch.randn(180, 64).to(dtype).split([40, 40, 100])
    keys[70] = 0.0
    loss = functional.hex_loss_with_keys(anchors, keys, positives=positives, threshold=threshold)
    assert math.isnan(loss.item())


def test_strides(emulate: Emulate) -> None:
    emulate(F32, 40)
    settings = Settings(value=0.9)
    z = decided(36, 2, 40, settings, F32)
    wide = torch.full((72, 90), math.nan)
    wide[:, 3:83:2] = z
    expected = functional.hex_loss(*z.chunk(2))
    assert functional.hex_loss(z[:36].t().contiguous().t(), wide[36:, 3:83:2]).equal(expected)


def test_same_bits(emulate: Emulate) -> None:
    emulate(BF16, 64)
    z = torch.randn(300, 64).to(BF16).requires_grad_()

    def run() -> tuple[Tensor, Tensor]:
        z.grad = None
        loss = functional.hex_loss(*z.chunk(2))
        loss.backward()
        assert z.grad is not None
        return loss.detach(), z.grad

    first, second = run(), run()
    assert all(one.equal(other) for one, other in zip(first, second, strict=True))


@pytest.fixture
def _allow_tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("_allow_tf32")
def test_tf32_where_torch_allows_it(emulate: Emulate) -> None:
    emulate(F32, 64, "TF32")
    settings = Settings(threshold="cosine", value=0.7)
    z = decided(70, 2, 64, settings, BF16, draw=gapped).float().requires_grad_()
    loss = functional.hex_loss(*z.chunk(2), **arguments(settings))
    loss.backward()
    exact = z.detach().double().requires_grad_()
    expected = evaluate(exact, exact, views_layout(70, 2), settings).reduced("mean")
    expected.backward()
    # Eleven bits, as float16.
    off = abs(loss.item() / expected.item() - 1)
    assert 1e-8 < off < 2e-3
    assert z.grad is not None
    assert exact.grad is not None
    assert_gradient(z.grad.half(), exact.grad, exact.detach(), settings, 1 / 140)


@pytest.mark.parametrize("extra_bits", [0, 1])
@pytest.mark.parametrize(("dtype", "dims"), [(BF16, 64), (F16, 64), (F32, 64), (F32, 127), (F32, 256)], ids=str)
def test_tensor_cores_that_cut_sums_off(dtype: torch.dtype, dims: int, extra_bits: int, emulate: Emulate) -> None:
    # As real ones are reported to: the loss is as accurate as with those that round.
    emulate(dtype, dims, schedule=Schedule(seed=3, extra_bits=extra_bits))
    settings = Settings(value=0.97)
    assert_views_like_reference(decided(65, 2, dims, settings, dtype, draw=gapped), 2, settings)


# Quantiles.


@pytest.mark.parametrize("quantile", [0.0, 0.02, 0.5, 0.99, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["spread", "ties", "clusters"])
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_quantiles_of_many_keys(dtype: torch.dtype, kind: str, quantile: float, emulate: Emulate) -> None:
    # More than the kernel `select` takes by itself: a sample brackets the quantile. Ties and keys whose order goes with
    # the sample's stride make the bracket miss, or keep too many.
    emulate(dtype, 64)
    generator = torch.Generator().manual_seed(4)
    anchors, positives = torch.randn(2, 21, 64, generator=generator).to(dtype)
    keys = torch.randn(1300, 64, generator=generator)
    if kind == "ties":
        keys = keys[torch.randint(3, (1300,), generator=generator)]
    if kind == "clusters":
        keys[::4] = anchors[0].float() + 0.1 * keys[::4]
    keys = keys.to(dtype)
    found = row_quantiles([anchors], keys, positives, 0, quantile)
    assert_quantiles(found, anchors, keys, positives, quantile)


@pytest.mark.parametrize("order", ["periodic", "blocks", "shuffled"])
def test_the_order_of_classes_makes_few_brackets_miss(order: str, emulate: Emulate) -> None:
    # 16 keys of each class, which are a row's largest similarities. A sample of every fourth key has either all of a
    # class or none of it where classes take turns.
    emulate(BF16, 64)
    generator = torch.Generator().manual_seed(5)
    classes = {
        "periodic": torch.arange(1600) % 100,
        "blocks": torch.arange(1600) // 16,
        "shuffled": torch.arange(1600)[torch.randperm(1600, generator=generator)] % 100,
    }[order]
    centres = torch.randn(100, 64, generator=generator)
    keys = (centres[classes] + 0.3 * torch.randn(1600, 64, generator=generator)).to(BF16)
    anchors, positives = (centres + 0.3 * torch.randn(2, 100, 64, generator=generator)).to(BF16)
    assert misses_of_quantiles(anchors, keys, positives, 0.99) <= 2


@pytest.mark.parametrize(
    ("missed", "others", "keys", "sampled", "quantile", "by_all_blocks"),
    [
        (1, 5, 1300, 256, 0.5, True),
        (3, 5, 1302, 256, 0.5, True),
        (16, 5, 1279, 256, 0.5, True),
        (17, 5, 1301, 256, 0.5, False),
        # The memory has room for the similarities of ten rows.
        (10, 0, 5000, 512, 0.99, True),
        (11, 0, 5000, 512, 0.99, False),
    ],
)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_all_blocks_search_few_rows(
    dtype: torch.dtype,
    missed: int,
    others: int,
    keys: int,
    sampled: int,
    quantile: float,
    by_all_blocks: bool,
    emulate: Emulate,
) -> None:
    anchors, rows, positives = (each.to(dtype) for each in misled(missed, others, keys, sampled))

    emulate(dtype, 64)
    assert misses_of_quantiles(anchors, rows, positives, quantile) == missed
    # It is wrong only there.
    bug = "each block compares failed rows with the first keys"
    emulate(dtype, 64, mutation=bug)
    with MUTATIONS[bug].seen() if by_all_blocks else nullcontext():
        assert misses_of_quantiles(anchors, rows, positives, quantile) == missed


@pytest.mark.parametrize("keys", [3, 130, 1024, 1025, 2500])
def test_quantiles_count_the_anchor_itself(keys: int, emulate: Emulate) -> None:
    emulate(BF16, 64)
    rows = torch.randn(keys, 64).to(BF16)
    anchors = rows[1:] if keys == 3 else rows[1:21]
    found = row_quantiles(list(anchors.chunk(2)), rows, None, 1, 1.0)
    assert found.equal(torch.ones(len(anchors)))
    found = row_quantiles(list(anchors.chunk(2)), rows, None, 1, 0.9)
    assert_quantiles(found, anchors, rows, None, 0.9)


def test_loss_of_many_rows(emulate: Emulate) -> None:
    emulate(BF16, 64)
    # Groups of ten: the seventh largest similarity of a row is in the group, or far below.
    settings = Settings(value=0.995)
    z = gapped(520, 2, 64, torch.Generator().manual_seed(1)).to(BF16)
    loss, statistics = functional.hex_loss(*z.chunk(2), return_statistics=True, **arguments(settings))
    expected = evaluate(z, z, views_layout(520, 2), settings)
    assert is_decided(expected, BF16)
    assert_loss(loss, expected.reduced("mean"), settings, BF16)
    assert_statistics(statistics, expected.statistics, BF16)


# Planted bugs: the checks above see each of them.


def check_indexed(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Anchors that name their keys, in no order; some of the keys several times."""
    anchors, keys = torch.randn(230, 64, generator=generator).to(dtype).split([70, 160])
    named = torch.stack([torch.randperm(160, generator=generator)[:4] for _ in range(70)])
    named[:30, 0] = 7
    settings = Settings(threshold="cosine", value=1.0, temperature=0.5)
    assert_index_like_reference(anchors, keys, named[:, :3], named[:, 3], settings)


def check_core(dtype: torch.dtype) -> None:
    """A few hundred rows in several tiles and splits, few rows, weights, and brackets that hit, miss and overflow."""
    settings = Settings(threshold="adaptive", value=0.98, temperature=0.5)
    for samples, dims in ((150, 64), (65, 40), (14, 64)):
        z = gapped(samples, 2, dims, torch.Generator().manual_seed(2)).to(dtype)
        assert_views_like_reference(z, 2, settings)
    check_weights(dtype)
    check_ties(dtype)
    check_nan(dtype, 0.0)
    if dtype == F32:
        check_short_row(dtype)
    generator = torch.Generator().manual_seed(4)
    check_indexed(dtype, generator)
    anchors, positives = torch.randn(2, 5, 64, generator=generator).to(dtype)
    spread = torch.randn(1300, 64, generator=generator).to(dtype)
    ties = spread[torch.randint(3, (1300,), generator=generator)]
    # Alike the first anchor are the keys of the sample alone, or all others: its bracket is too high, or too low.
    looked_at = torch.zeros(1300, 1, dtype=torch.bool)
    looked_at[kernels.sampled_columns(256, 1300)] = True
    close = anchors[0] + spread / 16
    for keys in (spread, ties, torch.where(looked_at, close, spread), torch.where(looked_at, spread, close)):
        for quantile in (0.5, 0.99):
            found = row_quantiles([anchors], keys, positives, 0, quantile)
            assert_quantiles(found, anchors, keys, positives, quantile)
    # More anchors than a launch has rows.
    anchors = torch.randn(140, 64, generator=generator).to(dtype)
    found = row_quantiles([anchors], spread, anchors, 0, 0.9)
    assert_quantiles(found, anchors, spread, anchors, 0.9)
    # Brackets that miss so many rows that blocks search a part of them each.
    anchors, keys, positives = (each.to(dtype) for each in misled(20, 0, 1300, 256))
    found = row_quantiles([anchors], keys, positives, 0, 0.5)
    assert_quantiles(found, anchors, keys, positives, 0.5)


LAUNCH_ROWS = 128
"""As where a launch of all rows would take too much memory."""
SCHEDULES = {
    "in order": Schedule(seed=1, resident_blocks=1),
    "lanes at random": Schedule(seed=2, random_lanes=True, resident_blocks=3),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
def test_the_core_is_right(dtype: torch.dtype, schedule: str, emulate: Emulate) -> None:
    emulate(dtype, 64, schedule=SCHEDULES[schedule], launch_rows=LAUNCH_ROWS)
    check_core(dtype)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_bug_is_seen(name: str, emulate: Emulate) -> None:
    mutation = MUTATIONS[name]
    emulate(mutation.dtype, 64, mutation=name, launch_rows=LAUNCH_ROWS)
    with mutation.seen():
        check_core(mutation.dtype)
