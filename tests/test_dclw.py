"""DCLLoss with weights, and DCLW."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hex_ssl.losses import DCLLoss, DCLWLoss, negative_mises_fisher_weights


def two_views(samples: int = 7) -> list[Tensor]:
    """Two views, of any scale."""
    return [(3 * torch.randn(samples, 5, dtype=torch.float64)).requires_grad_() for _ in range(2)]


def distance(z1: Tensor, z2: Tensor) -> Tensor:
    """Weights with a gradient: lightly's own example."""
    return (z1 - z2).square().sum(1)


def uneven(z1: Tensor, z2: Tensor) -> Tensor:
    """Weights that change with the order of the views."""
    return 1 + z1[:, 0] - 2 * z2[:, 1]


def written_out(z1: Tensor, z2: Tensor, temperature: float, weight_fn: Any) -> Tensor:
    """The losses of the anchors, [2 n], from all pairs."""
    first, second = (F.normalize(each, dim=1) for each in (z1, z2))
    z, samples = torch.cat([first, second]), len(first)
    logits = z @ z.T / temperature
    index = torch.arange(2 * samples)
    partner = (index + samples) % (2 * samples)
    negatives = torch.ones_like(logits, dtype=torch.bool)
    negatives[index, index] = negatives[index, partner] = False
    weights = torch.cat([weight_fn(first, second), weight_fn(second, first)])
    return -weights * logits[index, partner] + logits.masked_fill(~negatives, -torch.inf).logsumexp(1)


@pytest.mark.parametrize("weight_fn", [negative_mises_fisher_weights, distance, uneven])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_is_the_formula(reduction: str, weight_fn: Any, backend: str) -> None:
    views = two_views()
    losses = written_out(*views, 0.2, weight_fn)
    expected = losses if reduction == "none" else getattr(losses, reduction)()
    loss = DCLLoss(temperature=0.2, weight_fn=weight_fn, reduction=reduction)(*views)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(each.square().sum(), views) for each in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)


def test_a_temperature_gets_its_gradient() -> None:
    views, temperature = two_views(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    losses = DCLLoss(temperature, uneven)(*views), written_out(*views, temperature, uneven).mean()  # type: ignore[arg-type]
    torch.testing.assert_close(*(torch.autograd.grad(each, temperature) for each in losses))


def test_dclw_weighs_by_the_von_mises_fisher_density() -> None:
    views = two_views()
    first, second = (F.normalize(each.detach(), dim=1) for each in views)
    density = ((first * second).sum(1) / 0.3).exp()
    weights = negative_mises_fisher_weights(first, second, sigma=0.3)
    torch.testing.assert_close(weights, 2 - density / density.mean())
    expected = DCLLoss(temperature=0.2, weight_fn=lambda z1, z2: weights)(*views)
    torch.testing.assert_close(DCLWLoss(temperature=0.2, sigma=0.3)(*views), expected)
    assert "sigma=0.3" in repr(DCLWLoss(sigma=0.3))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_one_sample_has_no_loss(reduction: str) -> None:
    z1, z2 = two_views(1)
    loss = DCLWLoss(reduction=reduction)(z1, z2)
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros_like(loss))
    assert torch.equal(z1.grad, torch.zeros_like(z1))  # type: ignore[arg-type]


def test_16_bit_views_are_weighted_in_float32() -> None:
    z1, z2 = ((each.detach().bfloat16()) for each in two_views())
    expected = DCLWLoss()(z1.double(), z2.double())
    with torch.autocast("cpu", torch.bfloat16):
        loss = DCLWLoss()(z1, z2)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected.float(), rtol=1e-2, atol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weight_fn", [distance, uneven, None])
def test_is_lightlys(weight_fn: Any) -> None:
    lightly = pytest.importorskip("lightly.loss")
    for ours, theirs in (
        (DCLLoss(0.2, weight_fn), lightly.DCLLoss(0.2, weight_fn)),
        (DCLWLoss(0.2, 0.4), lightly.DCLWLoss(0.2, 0.4)),
    ):
        views = two_views()
        losses = ours(*views), theirs(*views)
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(each, views) for each in losses))


def test_compiles_without_a_break() -> None:
    z1, z2 = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    criterion = DCLWLoss()
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(z1, z2), criterion(z1, z2))


def test_errors() -> None:
    views = two_views()
    with pytest.raises(TypeError, match="^expected `weight_fn` to be a function or None, but got 0.5$"):
        DCLLoss(weight_fn=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^expected 2 views with `weight_fn`, but got 3$"):
        DCLLoss(weight_fn=distance)(*views, views[0])
    with pytest.raises(ValueError, match=r"^expected `weight_fn` to return a tensor of shape \[7\], but got \[7, 1\]$"):
        DCLLoss(weight_fn=lambda z1, z2: distance(z1, z2)[:, None])(*views)
    with pytest.raises(ValueError, match=r"^expected `weight_fn` to return a tensor of shape \[7\], but got float$"):
        DCLLoss(weight_fn=lambda z1, z2: 0.5)(*views)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="^expected `sigma` to be above 0, but got 0.0$"):
        DCLWLoss(sigma=0.0)
    with pytest.raises(TypeError, match="^expected `sigma` to be a number, but got None$"):
        DCLWLoss(sigma=None)  # type: ignore[arg-type]
