"""The reference: dense form against loops, gradient against finite differences, both against the golden numbers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from .batches import clustered
from .golden_records import RECORDS, Record
from .reference import (
    Layout,
    Settings,
    apart_layout,
    evaluate,
    evaluate_by_loops,
    indexed_layout,
    nearest_quantile,
    views_layout,
    with_own_negatives,
)

SETTINGS = [
    Settings(formulation=formulation, threshold=threshold, value=value, temperature=temperature)
    for formulation in ("importance", "official", "decoupled", "elimination")
    for threshold, value in [
        ("adaptive", 0.99),
        ("adaptive", 0.8),
        ("cosine", 0.3),
        ("cosine", -math.inf),
        ("cosine", 1.0),
        ("minmax", 0.7),
        ("labels", 0.0),
        ("margin", -0.2),
        ("relative_margin", 0.3),
        ("given", 0.1),
    ]
    for temperature in (0.1, 0.5)
] + [Settings(value=0.7, beta=beta, tau_plus=tau_plus) for beta in (0.0, 2.0) for tau_plus in (0.0, 0.3)]


def layouts() -> list[tuple[str, int, int, Layout]]:
    """Name, anchors, candidates and layout of each kind of comparison."""
    positive_index = [[(3 * i) % 17, (3 * i + 5) % 17] for i in range(9)]
    ignored_index = [[(3 * i + 1) % 17, i] if i % 2 else [-1, -1] for i in range(9)]
    return [
        ("two views", 62, 62, views_layout(31, 2)),
        ("three views", 24, 24, views_layout(8, 3)),
        ("gathered", 12, 40, views_layout(6, 2, keys=40, offset=10)),
        ("indexed", 9, 17, indexed_layout(positive_index, ignored_index, 17)),
        ("apart", 7, 27, apart_layout(7, 20)),
        ("indexed, own negatives", 9, 35, with_own_negatives(indexed_layout(positive_index, ignored_index, 17), 2)),
        ("apart, own negatives", 7, 48, with_own_negatives(apart_layout(7, 20), 3)),
        ("apart, with lists", 7, 27, apart_layout(7, 20, [[i, -1, 9] if i % 2 else [-1] for i in range(7)])),
    ]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("anchors", "candidates", "layout"), [pytest.param(*rest, id=name) for name, *rest in layouts()]
)
def test_dense_equals_loops(settings: Settings, anchors: int, candidates: int, layout: Layout) -> None:
    generator = torch.Generator().manual_seed(3)
    k = clustered(candidates, 1, 6, generator)
    own = [anchor.own for anchor in layout.anchors]
    a = k[own] if own[0] is not None else clustered(anchors, 1, 6, generator)  # type: ignore[index]
    key_labels = torch.randint(4, (candidates,), generator=generator)
    labels = key_labels[own] if own[0] is not None else torch.randint(4, (anchors,), generator=generator)  # type: ignore[index]

    losses, statistics = evaluate_by_loops(a.numpy(), k.numpy(), layout, settings, labels.tolist(), key_labels.tolist())
    found = evaluate(a, k, layout, settings, labels, key_labels)

    assert found.defined.tolist() == [loss is not None for loss in losses]
    expected = torch.tensor([loss or 0.0 for loss in losses], dtype=torch.float64)
    torch.testing.assert_close(found.losses, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.statistics, statistics, rtol=1e-12)


@pytest.mark.parametrize("formulation", ["importance", "official", "decoupled", "elimination"])
@pytest.mark.parametrize("views", [2, 3])
def test_gradient_is_that_of_finite_differences(formulation: str, views: int) -> None:
    z = clustered(6, views, 4, torch.Generator().manual_seed(1)).requires_grad_()
    settings = Settings(temperature=0.4, threshold="given", value=0.3, formulation=formulation)

    def loss(z: Tensor) -> Tensor:
        return evaluate(z, z, views_layout(6, views), settings).reduced("mean")

    assert torch.autograd.gradcheck(loss, (z,))


def test_gradient_flows_through_the_weights_and_not_at_the_floor() -> None:
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    keys = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, -0.9]], dtype=torch.float64)
    layout = indexed_layout([[0]], None, 3)
    floored = evaluate(anchor, keys, layout, Settings(threshold="cosine", value=-1.0, tau_plus=0.9))
    assert floored.statistics.floor_fraction == 1.0
    (gradient,) = torch.autograd.grad(floored.losses.sum(), anchor)
    # L = log(1 + 2 exp(-1 / t) / exp(s_p)): only the positive moves the anchor.
    s = keys[0, 1] / keys[0].norm() / 0.1
    share = 2 * math.exp(-10.0) / (math.exp(keys[0, 0] / keys[0].norm() / 0.1) + 2 * math.exp(-10.0))
    torch.testing.assert_close(gradient, torch.stack([torch.zeros_like(s), -share * s])[None])


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_reference_equals_gold(record: Record) -> None:
    record.check(record.evaluate_reference)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 51, 52, 100, 151, 251])
@pytest.mark.parametrize("quantile", [0.0, 0.25, 0.5, 0.9, 0.99, 1.0])
def test_nearest_quantile_is_torchs(count: int, quantile: float) -> None:
    values = torch.randn(count, dtype=torch.float64)
    expected = torch.quantile(values, torch.tensor(quantile, dtype=torch.float64), interpolation="nearest")
    assert nearest_quantile(values.tolist(), quantile) == expected.item()
