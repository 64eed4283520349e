"""The losses of the other methods, against loops over their formulas and against other libraries, in several dtypes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hex_ssl.losses import (
    BarlowTwinsLoss,
    BYOLLoss,
    FeatureContrastLoss,
    MoCoLoss,
    NNCLRLoss,
    SimSiamLoss,
    VICRegLoss,
    barlow_twins_loss,
    byol_loss,
    feature_contrast_loss,
    moco_loss,
    nnclr_loss,
    simsiam_loss,
    vicreg_loss,
)


def rows(count: int, n: int = 12, dims: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Matrices of projections that resemble each other."""
    generator = torch.Generator().manual_seed(n + dims)
    base = torch.randn(n, dims, generator=generator, dtype=torch.float64)
    return [
        (base + 0.7 * torch.randn(n, dims, generator=generator, dtype=torch.float64)).to(dtype) for _ in range(count)
    ]


def moments(z: list[list[float]]) -> tuple[list[float], list[list[float]]]:
    """Means, and the sums of the products of the deviations, by loops."""
    n, dims = len(z), len(z[0])
    means = [sum(row[d] for row in z) / n for d in range(dims)]
    sums = [[sum((row[d] - means[d]) * (row[e] - means[e]) for row in z) for e in range(dims)] for d in range(dims)]
    return means, sums


def reference_barlow(z1: Tensor, z2: Tensor, lamb: float, scale: float) -> float:
    views = [z1.tolist(), z2.tolist()]
    n, dims = z1.shape
    found = [moments(view) for view in views]
    standardised = [
        [[(row[d] - means[d]) / math.sqrt(sums[d][d] / n + 1e-5) for d in range(dims)] for row in view]
        for view, (means, sums) in zip(views, found, strict=True)
    ]
    total = 0.0
    for d in range(dims):
        for e in range(dims):
            c = sum(first[d] * second[e] for first, second in zip(*standardised, strict=True)) / n
            total += (1 - c) ** 2 if d == e else lamb * c**2
    return scale * total


def reference_vicreg(z1: Tensor, z2: Tensor, half: bool) -> float:
    n, dims = z1.shape
    invariance = sum((a - b) ** 2 for a, b in zip(z1.flatten().tolist(), z2.flatten().tolist(), strict=True))
    variance = covariance = 0.0
    for z in (z1, z2):
        _, sums = moments(z.tolist())
        variance += sum(max(0.0, 1 - math.sqrt(sums[d][d] / (n - 1) + 1e-4)) for d in range(dims)) / dims
        covariance += sum((sums[d][e] / (n - 1)) ** 2 for d in range(dims) for e in range(dims) if d != e) / dims
    return 25 * invariance / (n * dims) + 25 * variance / (2 if half else 1) + covariance


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def reference_feature_contrast(z1: Tensor, z2: Tensor, m1: Tensor, m2: Tensor) -> float:
    dims = z1.shape[1]
    on = off = 0.0
    for m, z in ((m1, z2), (m2, z1)):
        columns, others = m.T.tolist(), z.T.tolist()
        for d in range(dims):
            for e in range(dims):
                c = cosine(columns[d], others[e])
                if d == e:
                    on += (c - 1) ** 2 / dims / 2
                else:
                    off += c**2 / (dims * (dims - 1)) / 2
    return 10 * (math.sqrt(on) / 2 + math.sqrt(off) / 2)


def reference_info_nce(anchors: Tensor, positives: Tensor, negatives: list[Tensor], temperature: float) -> float:
    losses = []
    for i, anchor in enumerate(anchors.tolist()):
        positive = cosine(anchor, positives[i].tolist()) / temperature
        others = [cosine(anchor, each) / temperature for each in negatives[i].tolist()]
        losses.append(-positive + math.log(sum(math.exp(each) for each in (positive, *others))))
    return sum(losses) / len(losses)


def test_barlow_twins_by_loops() -> None:
    z1, z2 = rows(2)
    ours = barlow_twins_loss(z1, z2, lamb=0.3, scale=0.7)
    assert ours.item() == pytest.approx(reference_barlow(z1, z2, 0.3, 0.7), rel=1e-12)


@pytest.mark.parametrize("half", [True, False])
def test_vicreg_by_loops(half: bool) -> None:
    z1, z2 = (0.9 * each for each in rows(2))  # some deviations below 1, some above
    ours = vicreg_loss(z1, z2, half_variance=half)
    assert ours.item() == pytest.approx(reference_vicreg(z1, z2, half), rel=1e-12)


def test_byol_and_simsiam_by_loops() -> None:
    p, z = rows(2)
    mean = sum(cosine(a, b) for a, b in zip(p.tolist(), z.tolist(), strict=True)) / len(p)
    assert byol_loss(p, z).item() == pytest.approx(2 - 2 * mean, rel=1e-12)
    assert simsiam_loss(p, z).item() == pytest.approx(-mean, rel=1e-12)


def test_feature_contrast_by_loops() -> None:
    tensors = rows(4)
    assert feature_contrast_loss(*tensors).item() == pytest.approx(reference_feature_contrast(*tensors), rel=1e-12)


def test_nnclr_by_loops(backend: str) -> None:
    neighbours, p = rows(2)
    negatives = [torch.cat([p[:i], p[i + 1 :]]) for i in range(len(p))]
    expected = reference_info_nce(neighbours, p, negatives, 0.3)
    assert nnclr_loss(neighbours, p, temperature=0.3).item() == pytest.approx(expected, rel=1e-12)


def test_moco_by_loops(backend: str) -> None:
    queries, keys = rows(2)
    queue = rows(1, n=9)[0]
    expected = reference_info_nce(queries, keys, [queue] * len(queries), 0.3)
    assert moco_loss(queries, keys, queue, temperature=0.3).item() == pytest.approx(expected, rel=1e-12)


class TestLightly:
    """lightly's losses are another's reading of the same papers."""

    @pytest.mark.filterwarnings("ignore")
    def test_barlow_twins(self) -> None:
        lightly = pytest.importorskip("lightly.loss")
        self.assert_same(BarlowTwinsLoss(), lightly.BarlowTwinsLoss())

    @pytest.mark.filterwarnings("ignore")
    def test_vicreg(self) -> None:
        lightly = pytest.importorskip("lightly.loss")
        self.assert_same(VICRegLoss(), lightly.VICRegLoss())

    @pytest.mark.filterwarnings("ignore")
    def test_simsiam(self) -> None:
        lightly = pytest.importorskip("lightly.loss")
        theirs = lightly.NegativeCosineSimilarity()
        self.assert_same(SimSiamLoss(), lambda p, z: theirs(p, z.detach()))

    def assert_same(self, ours: nn.Module, theirs: Callable[..., Tensor]) -> None:
        results = []
        for loss_of in (ours, theirs):
            leaves = [each.requires_grad_() for each in rows(2, n=40, dims=9)]
            loss = loss_of(*leaves)
            loss.backward()
            results.append((loss.detach(), leaves[0].grad))
        torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


LOSSES: dict[str, tuple[Callable[..., Tensor], int, list[bool]]] = {
    "barlow_twins": (barlow_twins_loss, 2, [True, True]),
    "vicreg": (vicreg_loss, 2, [True, True]),
    "byol": (byol_loss, 2, [True, False]),
    "simsiam": (simsiam_loss, 2, [True, False]),
    "feature_contrast": (feature_contrast_loss, 4, [True, True, False, False]),
    "nnclr": (nnclr_loss, 2, [True, True]),
    "moco": (lambda q, k, queue: moco_loss(q, k, queue), 3, [True, False, False]),
}
"""Each loss, its number of matrices, and through which of them a gradient goes."""


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name: str) -> None:
    loss_of, count, gradients = LOSSES[name]
    leaves = [each.requires_grad_() for each in rows(count)]
    loss_of(*leaves).backward()
    assert [each.grad is not None for each in leaves] == gradients
    inputs = [each.detach().requires_grad_(needed) for each, needed in zip(leaves, gradients, strict=True)]
    assert torch.autograd.gradcheck(loss_of, inputs)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_dtypes(name: str, dtype: torch.dtype) -> None:
    loss_of, count, _ = LOSSES[name]
    tensors = rows(count, n=40, dtype=dtype)
    loss = loss_of(*tensors)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), loss_of(*(each.double() for each in tensors)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(name: str) -> None:
    loss_of, count, _ = LOSSES[name]
    tensors = rows(count, n=40, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss_of(*tensors), loss_of(*(each.float() for each in tensors)))
        inside = loss_of(*tensors)
    assert torch.equal(inside, loss_of(*tensors))


@pytest.mark.parametrize("name", LOSSES)
def test_compiles_without_a_break(name: str) -> None:
    loss_of, count, _ = LOSSES[name]
    tensors = rows(count)
    compiled = torch.compile(loss_of, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), loss_of(*tensors))


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_differ_are_errors(name: str) -> None:
    loss_of, count, _ = LOSSES[name]
    tensors = rows(count)
    text = r"^expected `\w+` to have shape \[12, 5\] like `\w+`, but got \[11, 5\]; row i of each is sample i$"
    with pytest.raises(ValueError, match=text):
        loss_of(tensors[0], tensors[1][:-1], *tensors[2:])
    with pytest.raises(
        TypeError, match=r"^expected `\w+` to be a tensor, but got list; write torch\.as_tensor\(\w+\)$"
    ):
        loss_of(tensors[0].tolist(), *tensors[1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BarlowTwinsLoss(lamb=-1.0), r"^expected `lamb` to be at least 0, but got -1.0$"),
        (lambda: BarlowTwinsLoss(scale=math.inf), r"^expected `scale` to be at least 0, but got inf$"),
        (lambda: VICRegLoss(cov_weight=math.nan), r"^expected `cov_weight` to be at least 0, but got nan$"),
        (lambda: NNCLRLoss(temperature=0.0), r"^expected `temperature` to be a positive number, but got 0.0$"),
        (lambda: MoCoLoss(reduction="sums"), r"^expected `reduction` to be one of .*, but got \"sums\"$"),
        (lambda: vicreg_loss(torch.ones(1, 3), torch.ones(1, 3)), r"^expected `z1` to have at least 2 rows.* got 1$"),
        (lambda: feature_contrast_loss(*torch.ones(4, 3, 1)), r"^expected `z1` to have at least 2 columns, but got 1$"),
    ],
)
def test_wrong_settings_are_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_modules_are_the_functions() -> None:
    tensors = rows(4)
    pair = tensors[:2]
    for module, expected in (
        (BarlowTwinsLoss(0.02, 0.5), barlow_twins_loss(*pair, lamb=0.02, scale=0.5)),
        (VICRegLoss(1.0, 2.0, 3.0, half_variance=False),
         vicreg_loss(*pair, sim_weight=1.0, var_weight=2.0, cov_weight=3.0, half_variance=False)),
        (BYOLLoss(), byol_loss(*pair)),
        (SimSiamLoss(), simsiam_loss(*pair)),
        (NNCLRLoss(0.3), nnclr_loss(*pair, temperature=0.3)),
    ):  # fmt: skip
        assert torch.equal(module(*pair), expected), module
    assert torch.equal(MoCoLoss(0.3)(*tensors[:3]), moco_loss(*tensors[:3], temperature=0.3))
    assert torch.equal(FeatureContrastLoss()(*tensors), feature_contrast_loss(*tensors))


def test_terms_add_up() -> None:
    z1, z2 = rows(2)
    barlow, vicreg = BarlowTwinsLoss(lamb=0.02), VICRegLoss()
    loss = barlow(z1.requires_grad_(), z2)
    assert barlow.terms is not None
    assert not barlow.terms.on_diagonal.requires_grad
    torch.testing.assert_close(barlow.terms.on_diagonal + 0.02 * barlow.terms.off_diagonal, loss.detach())
    loss = vicreg(z1, z2)
    assert vicreg.terms is not None
    invariance, variance, covariance = vicreg.terms
    torch.testing.assert_close(25 * invariance + 25 * variance + covariance, loss.detach())


def test_repr_shows_what_it_computes() -> None:
    assert "lamb=0.01" in repr(BarlowTwinsLoss(lamb=0.01))
    assert "half_variance=False" in repr(VICRegLoss(half_variance=False))
    assert "temperature=0.07" in repr(NNCLRLoss(0.07))
    assert "temperature=0.07" in repr(MoCoLoss(0.07))
    assert "gather_distributed=True" in repr(FeatureContrastLoss(gather_distributed=True))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_one_view_that_collapsed_are_finite(name: str) -> None:
    loss_of, count, gradients = LOSSES[name]
    leaves = [torch.ones(8, 4, dtype=torch.float64).requires_grad_() for _ in range(count)]
    loss = loss_of(*leaves)
    loss.backward()
    assert loss.isfinite()
    for leaf, needed in zip(leaves, gradients, strict=True):
        if needed:
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()
