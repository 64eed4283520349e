"""SupCon against its formula written out. `test_peers.py` compares it with pytorch-metric-learning's."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hex_ssl.functional import hex_loss, supcon_loss

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}


def reference(views: list[Tensor], labels: Tensor, temperature: float) -> Tensor:
    """Each row's loss, NaN where it has no positive, in float64."""
    rows = F.normalize(torch.cat(views).double(), dim=1)
    labels = labels.repeat(len(views))
    logits = rows @ rows.T / temperature
    others = ~torch.eye(rows.shape[0], dtype=torch.bool)
    positives = (labels[:, None] == labels) & others
    log_probabilities = logits - logits.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)
    return -log_probabilities.masked_fill(~positives, 0.0).sum(1) / positives.sum(1)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize(("rows", "classes"), [(2, 1), (9, 3), (64, 10), (131, 7), (300, 40)])
def test_is_the_formula(rows: int, classes: int, views: int, dtype: torch.dtype, backend: str) -> None:
    z = [torch.randn(rows, 11).to(dtype).requires_grad_() for _ in range(views)]
    labels = torch.arange(rows) % classes - 1
    losses = reference(z, labels, 0.2)
    expected = losses[~losses.isnan()].mean()
    found = supcon_loss(*z, labels=labels, temperature=0.2)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    rounding = {torch.bfloat16: 5e-3, torch.float16: 1e-3}.get(dtype, tolerance)
    ours, theirs = torch.autograd.grad(found, z), torch.autograd.grad(expected, z)
    off = torch.cat([a.double() - b.double() for a, b in zip(ours, theirs, strict=True)]).norm()
    assert off <= rounding * torch.cat(theirs).double().norm().clamp(min=1e-3)


@pytest.mark.parametrize("temperature", [0.005, 0.02, 1.0, 10.0])
def test_over_temperatures(temperature: float, backend: str) -> None:
    z, labels = torch.randn(50, 8, dtype=torch.float64, requires_grad=True), torch.randint(6, (50,))
    expected = reference([z], labels, temperature)
    found = supcon_loss(z, labels=labels, temperature=temperature, reduction="none")
    torch.testing.assert_close(found, expected.nan_to_num(0.0), rtol=1e-10, atol=1e-10)
    upstream = torch.rand(50, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((each * upstream).sum(), z)[0] for each in (found, expected.nan_to_num(0.0)))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_rows_without_a_positive_are_counted(backend: str) -> None:
    z, labels = torch.randn(7, 4, requires_grad=True), torch.tensor([0, 0, 1, 2, 3, 0, 4])
    loss, statistics = supcon_loss(z, labels=labels, return_statistics=True)
    losses = reference([z], labels, 0.1)
    torch.testing.assert_close(loss.double(), losses[[0, 1, 5]].mean(), rtol=1e-5, atol=0)
    assert statistics.undefined_anchors == 4
    torch.testing.assert_close(statistics.hierarchical_negatives, torch.tensor(6 / 7))
    cosines = F.cosine_similarity(z[[0, 0, 1]], z[[1, 5, 5]]).detach()
    torch.testing.assert_close(statistics.positive_similarity, cosines.mean())
    none = supcon_loss(z, labels=torch.arange(7))
    assert none == 0
    assert torch.equal(torch.autograd.grad(none, z)[0], torch.zeros_like(z))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_similarity_of_no_positives_is_nan(dtype: torch.dtype, backend: str) -> None:
    for rows in range(2, 20):
        statistics = supcon_loss(torch.randn(rows, 40).to(dtype), labels=torch.arange(rows), return_statistics=True)[1]
        assert statistics.positive_similarity.isnan()
        assert statistics.negative_similarity.isfinite()


def test_memory_is_linear() -> None:
    # Nothing of [N, N] or of an index over pairs: 4,096 rows of one label have 16 million positive pairs.
    z = torch.randn(4096, 4, requires_grad=True)
    labels = torch.zeros(4096, dtype=torch.int64)
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profiler:
        supcon_loss(z, labels=labels).backward()
    largest = max(event.cpu_memory_usage for event in profiler.events())
    assert largest < 4096 * 4096


def test_errors() -> None:
    z = torch.randn(6, 4)
    with pytest.raises(ValueError, match=r"expected `labels` to have shape \[6\], but got \[5\]"):
        supcon_loss(z, labels=torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected `labels` to have an integer dtype"):
        supcon_loss(z, labels=torch.zeros(6))
    with pytest.raises(ValueError, match="SupCon is hex_ssl.SupConLoss"):
        hex_loss(z, z, formulation="supervised", threshold="supervised", labels=torch.arange(6))
    with pytest.raises(TypeError, match="labels"):
        supcon_loss(z)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="row 2 of `z1`"):
        supcon_loss(z.index_fill(0, torch.tensor([2]), 0.0), z, labels=torch.arange(6))


def test_a_bad_row_of_one_view_has_the_name_of_the_argument(backend: str) -> None:
    z1 = torch.ones(4, 3)
    z1[2] = 0
    with pytest.raises(ValueError, match="row 2 of `z1` is all zeros"):
        supcon_loss(z1, labels=torch.tensor([0, 0, 1, 1]))
