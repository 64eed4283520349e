"""The CUDA kernels against the reference in float64, the CPU kernel and the composite path."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hex_ssl import functional
from hex_ssl.functional import Statistics
from hex_ssl.thresholds import FixedThreshold, MarginThreshold

from .. import batches, compare
from ..reference import Evaluation, Settings, apart_layout, evaluate, indexed_layout, views_layout, with_own_negatives
from . import DEVICE, NEEDS_DEVICE, REHEARSAL
from .on_device import TOLERANCES, assert_close, batch, step

pytestmark = NEEDS_DEVICE

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
THRESHOLDS = [("adaptive", 0.9), ("cosine", 0.3), ("minmax", 0.6), ("labels", 0.0)]
FORMULATIONS = ["importance", "official", "decoupled", "elimination"]


def brought_back(found: tuple[Tensor, Statistics]) -> tuple[Tensor, Statistics]:
    """On the CPU, where the reference's are."""
    loss, statistics = found
    return loss.cpu(), Statistics(*(each.cpu() for each in statistics))


def assert_views(z: Tensor, views: int, settings: Settings, labels: Tensor | None, reduction: str = "mean") -> None:
    """`hex_loss` on the device is the reference on the CPU."""
    samples = len(z) // views
    rows = None if labels is None else labels.repeat(views)

    def call(*split: Tensor) -> tuple[Tensor, Statistics]:
        moved: list[Any] = [each.to(DEVICE) for each in split]
        on_device = None if labels is None else labels.to(DEVICE)
        found = functional.hex_loss(
            *moved, labels=on_device, reduction=reduction, return_statistics=True, **compare.arguments(settings)
        )
        return brought_back(found)

    def reference(*split: Tensor) -> Evaluation:
        stacked = torch.cat(split)
        return evaluate(stacked, stacked, views_layout(samples, views), settings, rows, rows)

    compare.assert_like_reference(call, reference, z.chunk(views), settings, reduction)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("threshold", THRESHOLDS, ids=lambda x: str(x[0]))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_thresholds_and_formulations(dtype: torch.dtype, threshold: tuple[str, float], formulation: str) -> None:
    labels = torch.arange(40) % 7 if threshold[0] == "labels" else None
    draw = batches.clustered
    if dtype != torch.float32:
        # Thresholds in the gap of these batches, where no rounding reaches.
        draw = batches.gapped
        threshold = ("cosine", 0.7) if threshold[0] == "cosine" else threshold
    settings = Settings(0.3, *threshold, formulation)
    z = batches.decided(40, 2, 64, settings, dtype, labels, draw)
    assert_views(z, 2, settings, labels)


@pytest.mark.parametrize("dims", [1, 8, 40, 96, 128, 256])
@pytest.mark.parametrize("samples", [2, 17, 64, 65])
def test_sizes(samples: int, dims: int) -> None:
    settings = Settings(0.3, "cosine", 0.25)
    assert_views(batches.decided(samples, 2, dims, settings, torch.float32), 2, settings, None)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("views", [2, 3])
def test_reductions_and_views(views: int, reduction: str) -> None:
    settings = Settings(0.3, "adaptive", 0.9)
    assert_views(batches.decided(23, views, 64, settings, torch.float32), views, settings, None, reduction)


@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
def test_temperatures(temperature: float) -> None:
    settings = Settings(temperature, "adaptive", 0.9)
    assert_views(batches.decided(40, 2, 64, settings, torch.float32), 2, settings, None)


@pytest.mark.parametrize("threshold", [*THRESHOLDS[:3], ("margin", 0.1)], ids=lambda x: str(x[0]))
@pytest.mark.parametrize("each", [0, 3])
def test_positives_apart(each: int, threshold: tuple[str, float]) -> None:
    """And own negatives, `each` for every anchor."""
    settings = Settings(0.3, *threshold)
    layout = with_own_negatives(apart_layout(12, 46), each)
    for seed in range(100):
        z = batches.clustered(70 + 12 * each, 1, 64, torch.Generator().manual_seed(seed)).float()
        anchors, positives, keys, own = z.split([12, 12, 46, 12 * each])
        if batches.is_decided(evaluate(anchors, torch.cat([keys, positives, own]), layout, settings), torch.float32):
            break

    def call(anchors: Tensor, keys: Tensor, positives: Tensor, *own: Tensor) -> tuple[Tensor, Statistics]:
        found = functional.hex_loss_with_keys(
            anchors.to(DEVICE),
            keys.to(DEVICE),
            positives=positives.to(DEVICE),
            own_negatives=own[0].view(12, each, 64).to(DEVICE) if own else None,
            return_statistics=True,
            **compare.arguments(settings),
        )
        return brought_back(found)

    def reference(anchors: Tensor, *others: Tensor) -> Evaluation:
        return evaluate(anchors, torch.cat(others), layout, settings)

    inputs = [anchors, keys, positives, *([own] if each else [])]
    compare.assert_like_reference(call, reference, inputs, settings)


@pytest.mark.parametrize("ignored", [0, 1, 7])
def test_positives_by_index(ignored: int) -> None:
    settings = Settings(0.3, "adaptive", 0.9)
    generator = torch.Generator().manual_seed(5)
    orders = torch.stack([torch.randperm(45, generator=generator) for _ in range(20)])
    positive_index = orders[:, :3]
    ignored_index = orders[:, 3 : 3 + ignored].where(torch.arange(20 * ignored).view(20, ignored) % 5 > 0, -1)
    layout = indexed_layout(positive_index.tolist(), ignored_index.tolist(), 45)
    for seed in range(100):
        anchors, keys = batches.clustered(65, 1, 64, torch.Generator().manual_seed(seed)).float().split([20, 45])
        if batches.is_decided(evaluate(anchors, keys, layout, settings), torch.float32):
            break

    def call(anchors: Tensor, keys: Tensor) -> tuple[Tensor, Statistics]:
        found = functional.hex_loss_with_keys(
            anchors.to(DEVICE),
            keys.to(DEVICE),
            positive_index=positive_index.to(DEVICE),
            ignored_index=ignored_index.to(DEVICE) if ignored else None,
            return_statistics=True,
            **compare.arguments(settings),
        )
        return brought_back(found)

    def reference(anchors: Tensor, keys: Tensor) -> Evaluation:
        return evaluate(anchors, keys, layout, settings)

    compare.assert_like_reference(call, reference, [anchors, keys], settings)


# The core: small enough for compute-sanitizer, and every pass of the kernels is in it.
@pytest.mark.parametrize("rows", [254, 2050] if not REHEARSAL else [254])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_core_like_the_composite_path(dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z = batch(rows, 128, dtype)
    found = step(z)
    monkeypatch.setenv("HEX_SSL_BACKEND", "composite")
    assert_close(found, step(z), dtype)


LARGE = [(4098, 128), (8192, 128), (16384, 128), (5000, 256), (3000, 96)]
if REHEARSAL:
    LARGE = [(600, dims) for dims in sorted({dims for _, dims in LARGE})]
FIXED = FixedThreshold(0.3, scale="cosine")


@pytest.mark.parametrize(
    "settings",
    [{}, {"formulation": "official"}, {"threshold": "supervised"}, {"threshold": FIXED}],
    ids=["adaptive", "official", "supervised", "fixed"],
)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize(("rows", "dims"), LARGE)
def test_large_batches_like_the_composite_path(
    rows: int, dims: int, dtype: torch.dtype, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    z = batch(rows, dims, dtype)
    labels = torch.arange(rows // 2, device=DEVICE) % 100
    given = {**settings, "labels": labels} if settings.get("threshold") == "supervised" else settings
    found = step(z, **given)
    monkeypatch.setenv("HEX_SSL_BACKEND", "composite")
    expected = step(z, **given)
    if "labels" in given:
        found, expected = found._replace(threshold=z.new_zeros(())), expected._replace(threshold=z.new_zeros(()))
    assert_close(found, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_like_the_cpu_kernel(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    z = batch(1000, 128, dtype)
    found = step(z)
    monkeypatch.setenv("HEX_SSL_BACKEND", "cpu")
    assert_close(found, step(z.cpu()), dtype)


@pytest.mark.parametrize("dims", [40, 128, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_key_that_repeats_the_positive_is_as_similar(dtype: torch.dtype, dims: int) -> None:
    # Whatever the rounding of tensor cores, and wherever the two rows are in a tile.
    anchors, keys = batch(300, dims, dtype), batch(2, dims, dtype, seed=1)[:1].repeat(300, 1)
    for margin, above in ((0.0, 0), (-1e-6, 299)):
        statistics = functional.infonce_loss(
            anchors, keys, threshold=MarginThreshold(margin), formulation="elimination", return_statistics=True
        )[1]
        assert statistics.hierarchical_negatives == above


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_ties(dtype: torch.dtype) -> None:
    compare.assert_ties(dtype, DEVICE)


@pytest.mark.parametrize("rows", [600, 3000] if not REHEARSAL else [600])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_thresholds_of_duplicates_and_clusters(dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ties at the quantile, rows all alike, and one cluster that fills the bracket of a sampled search.
    spread = batch(rows, 64, dtype)
    tied = spread.clone()
    tied[: rows // 3] = tied[0]
    alike = spread[:1].expand(rows, -1) + 1e-3 * spread
    for z in (tied, alike):
        quantiles = [functional.hex_loss(*z.chunk(2), return_statistics=True)[1].threshold]
        with monkeypatch.context() as patch:
            patch.setenv("HEX_SSL_BACKEND", "composite")
            quantiles.append(functional.hex_loss(*z.chunk(2), return_statistics=True)[1].threshold)
        torch.testing.assert_close(quantiles[0], quantiles[1], rtol=0, atol=TOLERANCES[dtype][1])


def test_views_of_any_strides() -> None:
    z = batch(300, 128)
    expected = step(z)
    wide = torch.zeros(300, 256, device=DEVICE)
    wide[:, ::2] = z
    transposed = z.t().contiguous().t()
    for rows in (wide[:, ::2], transposed):
        assert not rows.is_contiguous()
        loss, statistics = functional.hex_loss(*rows.chunk(2), temperature=0.2, return_statistics=True)
        assert torch.equal(loss, expected.loss)
        assert torch.equal(statistics.threshold, expected.threshold)


def test_rows_of_any_scale() -> None:
    z = batch(300, 128)
    expected = step(z)
    for factor in (2.0**-60, 2.0**60):
        assert torch.equal(step(z * factor).loss, expected.loss)
