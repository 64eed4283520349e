"""The same bits from run to run; the same numbers across threads, backends and chunks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hex_ssl.functional import hex_loss, hex_loss_with_keys
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold

from .batches import clustered, decided
from .compare import arguments
from .reference import Settings

MODES: dict[str, dict[str, Any]] = {
    f"{formulation}, {name}": {"formulation": formulation, "threshold": threshold}
    for formulation in ("importance", "official", "decoupled")
    for name, threshold in {
        "adaptive": AdaptiveThreshold(0.98),
        "cosine": FixedThreshold(0.5, scale="cosine"),
        "minmax": FixedThreshold(0.8),
        "supervised": "supervised",
        "none": FixedThreshold(1.0),
    }.items()
}


def run(z: Tensor, views: int = 2, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient and statistics."""
    z = z.detach().clone().requires_grad_()
    if settings.get("threshold") == "supervised":
        settings["labels"] = torch.arange(len(z) // views) % 5
    loss, statistics = hex_loss(*z.chunk(views), return_statistics=True, **settings)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    return loss.detach(), gradient, torch.stack(list(statistics))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("formulation", ["importance", "official"])
def test_same_bits_from_run_to_run(formulation: str, dtype: torch.dtype, threads: int, backend: str) -> None:
    torch.set_num_threads(threads)
    z = clustered(301, 2, 40, torch.Generator().manual_seed(1)).to(dtype)
    first = run(z, formulation=formulation)
    for _ in range(5):
        for ours, before in zip(run(z, formulation=formulation), first, strict=True):
            assert torch.equal(ours, before)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_thread_count_changes_only_rounding(mode: dict[str, Any], backend: str) -> None:
    z = clustered(203, 2, 24, torch.Generator().manual_seed(3))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(z, **mode))
    for result in results[1:]:
        for ours, single in zip(result, results[0], strict=True):
            torch.testing.assert_close(ours, single, rtol=1e-11, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_backends_agree(mode: dict[str, Any], views: int, reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    z = clustered(67, views, 24, torch.Generator().manual_seed(4))
    results = []
    for backend in ("cpu", "composite"):
        monkeypatch.setenv("HEX_SSL_BACKEND", backend)
        results.append(run(z, views, reduction=reduction, **mode))
    for ours, composite in zip(*results, strict=True):
        torch.testing.assert_close(ours, composite, rtol=1e-10, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize("formulation", ["importance", "official"])
def test_backends_agree_on_many_rows(formulation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # 4,000 anchors: many tiles for the kernel, several chunks for the composite.
    z = clustered(2000, 2, 32, torch.Generator().manual_seed(5)).float()
    results = []
    for backend in ("cpu", "composite"):
        monkeypatch.setenv("HEX_SSL_BACKEND", backend)
        results.append(run(z, formulation=formulation))
    for loss, reference in zip(results[0][::2], results[1][::2], strict=True):
        torch.testing.assert_close(loss, reference, rtol=1e-4, atol=1e-5)
    # A few of 16 million pairs are within rounding of the threshold; each is one in 4,000 anchors.
    off = (results[0][1] - results[1][1]).norm() / results[1][1].norm()
    assert off.item() < 1e-3


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_backends_agree_with_keys(mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(6)
    inputs = clustered(29 + 29 + 101, 1, 18, generator).split([29, 29, 101])
    supervised = mode["threshold"] == "supervised"
    labels = {"anchor_labels": torch.arange(29) % 3, "key_labels": torch.arange(101) % 3} if supervised else {}
    results = []
    for backend in ("cpu", "composite"):
        monkeypatch.setenv("HEX_SSL_BACKEND", backend)
        a, p, k = (x.clone().requires_grad_() for x in inputs)
        loss = hex_loss_with_keys(a, k, positives=p, **labels, **mode)
        results.append((loss, *torch.autograd.grad(loss, (a, p, k))))
    for ours, composite in zip(*results, strict=True):
        torch.testing.assert_close(ours, composite, rtol=1e-10, atol=1e-13)


def test_results_do_not_depend_on_what_ran_before(backend: str) -> None:
    # Buffers that are used again must not carry anything over, least of all from a larger batch.
    settings = arguments(Settings())
    small = decided(20, 2, 7, Settings(), torch.float32)
    before = run(small, **settings)
    run(clustered(300, 3, 64, torch.Generator().manual_seed(7)).float(), 3, **settings)
    with pytest.raises(ValueError, match="row 0"):
        run(torch.full((8, 7), torch.nan), **settings)
    for ours, first in zip(run(small, **settings), before, strict=True):
        assert torch.equal(ours, first)
