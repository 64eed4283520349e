"""The identities of the loss, as properties of random batches."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hex_ssl.functional import dcl_loss, hcl_loss, hex_loss, hex_loss_with_keys, ntxent_loss
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold, SupervisedThreshold

from .batches import clustered

SEEDS = st.integers(0, 2**16)
SAMPLES = st.integers(2, 40)
DIMS = st.integers(2, 24)
TEMPERATURES = st.sampled_from([0.05, 0.1, 0.5, 2.0])
VIEWS = st.integers(2, 4)
THRESHOLDS = st.sampled_from(
    [
        AdaptiveThreshold(0.99),
        AdaptiveThreshold(0.7),
        FixedThreshold(0.6),
        FixedThreshold(0.2, scale="cosine"),
        FixedThreshold(-math.inf, scale="cosine"),
        FixedThreshold(math.inf),
    ]
)
FORMULATIONS = st.sampled_from(["importance", "official", "decoupled"])


def batch(seed: int, samples: int, dims: int, views: int = 2) -> Tensor:
    """Stacked views of clustered samples in float64, in which no random batch is near a tie."""
    return clustered(samples, views, dims, torch.Generator().manual_seed(seed))


def loss_and_gradient(
    loss_of: Callable[..., Tensor], z: Tensor, views: int = 2, **settings: Any
) -> tuple[Tensor, Tensor]:
    """The loss of stacked views and its gradient."""
    z = z.detach().requires_grad_()
    loss = loss_of(*z.chunk(views), **settings)
    (gradient,) = torch.autograd.grad(loss, z)
    return loss.detach(), gradient


def assert_same(ours: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Asserts that two losses and gradients are equal up to float64's rounding."""
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-11, atol=1e-12)
    scale = expected[1].abs().max().item() + 1e-3
    torch.testing.assert_close(ours[1], expected[1], rtol=0, atol=1e-11 * scale)


@given(SEEDS, SAMPLES, DIMS, VIEWS, TEMPERATURES, THRESHOLDS)
def test_without_beta_and_tau_plus_it_is_ntxent(
    backend: str, seed: int, samples: int, dims: int, views: int, temperature: float, threshold: Any
) -> None:
    z = batch(seed, samples, dims, views)
    settings = {"temperature": temperature, "threshold": threshold, "beta": 0.0, "tau_plus": 0.0}
    plain = loss_and_gradient(ntxent_loss, z, views, temperature=temperature)
    assert_same(loss_and_gradient(hex_loss, z, views, **settings), plain)


@given(SEEDS, SAMPLES, DIMS, TEMPERATURES)
def test_ntxent_is_cross_entropy(backend: str, seed: int, samples: int, dims: int, temperature: float) -> None:
    def cross_entropy(z1: Tensor, z2: Tensor) -> Tensor:
        z = torch.nn.functional.normalize(torch.cat([z1, z2]))
        logits = (z @ z.T / temperature).fill_diagonal_(-math.inf)
        return torch.nn.functional.cross_entropy(logits, torch.arange(2 * samples).roll(samples))

    z = batch(seed, samples, dims)
    assert_same(loss_and_gradient(ntxent_loss, z, temperature=temperature), loss_and_gradient(cross_entropy, z))


@given(SEEDS, SAMPLES, DIMS, VIEWS, TEMPERATURES, st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 0.1, 0.5]))
def test_with_every_negative_hierarchical_it_is_hcl(
    backend: str, seed: int, samples: int, dims: int, views: int, temperature: float, beta: float, tau_plus: float
) -> None:
    z = batch(seed, samples, dims, views)
    settings = {"temperature": temperature, "beta": beta, "tau_plus": tau_plus}
    every = FixedThreshold(-math.inf, scale="cosine")
    plain = loss_and_gradient(hcl_loss, z, views, **settings)
    assert_same(loss_and_gradient(hex_loss, z, views, threshold=every, **settings), plain)
    if views == 2:
        assert_same(plain, loss_and_gradient(published_hcl, z, **settings))


def published_hcl(z1: Tensor, z2: Tensor, temperature: float, beta: float, tau_plus: float) -> Tensor:
    """HCL as its authors publish it, in dense operations."""
    samples = len(z1)
    z = torch.nn.functional.normalize(torch.cat([z1, z2]))
    similarity = (z @ z.T / temperature).exp()
    same = torch.eye(samples, dtype=torch.bool).repeat(2, 2)
    negatives = similarity[~same].view(2 * samples, -1)
    positive = (z * z.roll(samples, 0)).sum(1).div(temperature).exp()
    importance = (beta * negatives.log()).exp()
    reweighted = (importance * negatives).sum(1) / importance.mean(1)
    count = 2 * samples - 2
    ng = (-tau_plus * count * positive + reweighted) / (1 - tau_plus)
    ng = ng.clamp(min=count * math.exp(-1 / temperature))
    return ((positive + ng).log() - positive.log()).mean()


@given(
    SEEDS,
    SAMPLES,
    DIMS,
    VIEWS,
    TEMPERATURES,
    st.sampled_from([1.0, 1.5, math.inf]),
    st.sampled_from(["cosine", "minmax"]),
)
def test_with_no_negative_hierarchical_it_is_ntxent(
    backend: str, seed: int, samples: int, dims: int, views: int, temperature: float, value: float, scale: str
) -> None:
    z = batch(seed, samples, dims, views)
    settings = {
        "temperature": temperature,
        "threshold": FixedThreshold(value, scale=scale),
        "beta": 2.0,
        "tau_plus": 0.2,
    }
    plain = loss_and_gradient(ntxent_loss, z, views, temperature=temperature)
    assert_same(loss_and_gradient(hex_loss, z, views, **settings), plain)


@given(SEEDS, st.integers(2, 25), DIMS, TEMPERATURES)
def test_small_batches_are_ntxent(backend: str, seed: int, samples: int, dims: int, temperature: float) -> None:
    # Up to 51 rows the 0.99-quantile of a row is its largest similarity, its own.
    z = batch(seed, samples, dims)
    plain = loss_and_gradient(ntxent_loss, z, temperature=temperature)
    assert_same(loss_and_gradient(hex_loss, z, temperature=temperature), plain)


@given(SEEDS, SAMPLES, DIMS, VIEWS, TEMPERATURES)
def test_supervised_with_distinct_labels_is_ntxent(
    backend: str, seed: int, samples: int, dims: int, views: int, temperature: float
) -> None:
    z = batch(seed, samples, dims, views)
    labels = torch.randperm(samples) + 7
    settings = {"temperature": temperature, "threshold": SupervisedThreshold(), "labels": labels}
    plain = loss_and_gradient(ntxent_loss, z, views, temperature=temperature)
    assert_same(loss_and_gradient(hex_loss, z, views, **settings), plain)


@given(SEEDS, SAMPLES, DIMS, TEMPERATURES)
def test_supervised_with_equal_labels_is_hcl(
    backend: str, seed: int, samples: int, dims: int, temperature: float
) -> None:
    z = batch(seed, samples, dims)
    settings = {"threshold": SupervisedThreshold(), "labels": torch.full((samples,), 3)}
    ours = loss_and_gradient(hex_loss, z, temperature=temperature, **settings)
    assert_same(ours, loss_and_gradient(hcl_loss, z, temperature=temperature, beta=1.0, tau_plus=0.1))


@given(SEEDS, SAMPLES, DIMS, TEMPERATURES)
def test_decoupled_with_no_negative_hierarchical_is_dcl(
    backend: str, seed: int, samples: int, dims: int, temperature: float
) -> None:
    def dcl(z1: Tensor, z2: Tensor) -> Tensor:
        z = torch.nn.functional.normalize(torch.cat([z1, z2]))
        logits = z @ z.T / temperature
        same = torch.eye(samples, dtype=torch.bool).repeat(2, 2)
        return (logits.masked_fill(same, -math.inf).logsumexp(1) - logits.diagonal(samples).repeat(2)).mean()

    z = batch(seed, samples, dims)
    plain = loss_and_gradient(dcl, z)
    assert_same(loss_and_gradient(dcl_loss, z, temperature=temperature), plain)
    settings = {"temperature": temperature, "threshold": FixedThreshold(1.0), "formulation": "decoupled"}
    assert_same(loss_and_gradient(hex_loss, z, **settings), plain)


@given(SEEDS, SAMPLES, DIMS, VIEWS, TEMPERATURES, THRESHOLDS)
def test_official_is_decoupled_plus_a_constant(
    backend: str, seed: int, samples: int, dims: int, views: int, temperature: float, threshold: Any
) -> None:
    z = batch(seed, samples, dims, views)
    settings: dict[str, Any] = {"temperature": temperature, "threshold": threshold}
    official, gradient = loss_and_gradient(hex_loss, z, views, formulation="official", **settings)
    decoupled, expected = loss_and_gradient(hex_loss, z, views, formulation="decoupled", **settings)
    # With every negative hierarchical no anchor has a loss, and there is nothing to add a constant to.
    constant = (
        0.0 if getattr(threshold, "value", 0.0) == -math.inf else views * (samples - 1) * math.exp(-1 / temperature)
    )
    assert_same((official, gradient), (decoupled + constant, expected))


@given(SEEDS, SAMPLES, DIMS, VIEWS, FORMULATIONS, THRESHOLDS)
def test_permuting_samples_permutes_the_gradient(
    backend: str, seed: int, samples: int, dims: int, views: int, formulation: str, threshold: Any
) -> None:
    z = batch(seed, samples, dims, views)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([order + view * samples for view in torch.randperm(views).tolist()])
    settings = {"formulation": formulation, "threshold": threshold}
    loss, gradient = loss_and_gradient(hex_loss, z, views, **settings)
    assert_same(loss_and_gradient(hex_loss, z[rows], views, **settings), (loss, gradient[rows]))


@given(SEEDS, SAMPLES, DIMS, VIEWS, FORMULATIONS, THRESHOLDS)
def test_scaling_rows_changes_nothing(
    backend: str, seed: int, samples: int, dims: int, views: int, formulation: str, threshold: Any
) -> None:
    z = batch(seed, samples, dims, views)
    # Powers of two: the scaled rows round as the rows do.
    scale = torch.randint(-30, 30, (len(z), 1), generator=torch.Generator().manual_seed(seed)).double().exp2()
    settings = {"formulation": formulation, "threshold": threshold}
    loss, gradient = loss_and_gradient(hex_loss, z, views, **settings)
    scaled_loss, scaled_gradient = loss_and_gradient(hex_loss, z * scale, views, **settings)
    assert_same((scaled_loss, scaled_gradient * scale), (loss, gradient))
    along_rows = (gradient * z).sum(1)
    torch.testing.assert_close(along_rows, torch.zeros_like(along_rows), rtol=0, atol=1e-12)


@given(SEEDS, SAMPLES, DIMS, FORMULATIONS, THRESHOLDS)
def test_rotating_rotates_the_gradient(
    backend: str, seed: int, samples: int, dims: int, formulation: str, threshold: Any
) -> None:
    z = batch(seed, samples, dims)
    rotation = torch.linalg.qr(torch.randn(dims, dims, dtype=torch.float64)).Q
    settings = {"formulation": formulation, "threshold": threshold}
    loss, gradient = loss_and_gradient(hex_loss, z, **settings)
    assert_same(loss_and_gradient(hex_loss, z @ rotation, **settings), (loss, gradient @ rotation))


@given(SEEDS, st.integers(2, 30), DIMS, st.integers(2, 3), FORMULATIONS)
def test_views_are_keys_with_indexed_positives(
    backend: str, seed: int, samples: int, dims: int, views: int, formulation: str
) -> None:
    z = batch(seed, samples, dims, views)
    everyone = torch.arange(views * samples)
    positive_index = torch.stack([everyone.roll(-k * samples) for k in range(1, views)], 1)
    settings: dict[str, Any] = {"formulation": formulation, "threshold": FixedThreshold(0.3, scale="cosine")}

    def with_keys(*split: Tensor) -> Tensor:
        z = torch.cat(split)
        return hex_loss_with_keys(z, z, positive_index=positive_index, ignored_index=everyone, **settings)

    assert_same(loss_and_gradient(with_keys, z, views), loss_and_gradient(hex_loss, z, views, **settings))


# Not the adaptive one: a lone anchor's quantile ties with the similarity that it is.
@given(SEEDS, st.integers(1, 40), DIMS, FORMULATIONS, THRESHOLDS.filter(lambda it: isinstance(it, FixedThreshold)))
def test_a_lone_anchor_may_give_its_positive_either_way(
    backend: str, seed: int, keys: int, dims: int, formulation: str, threshold: Any
) -> None:
    rows = batch(seed, keys + 2, dims, views=1)
    anchor, positive, queue = rows.split([1, 1, keys])
    settings: dict[str, Any] = {"formulation": formulation, "threshold": threshold}
    apart = hex_loss_with_keys(anchor, queue, positives=positive, **settings)
    indexed = hex_loss_with_keys(
        anchor, torch.cat([queue, positive]), positive_index=torch.tensor([[keys]]), **settings
    )
    torch.testing.assert_close(apart, indexed, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("formulation", ["importance", "official", "decoupled"])
def test_equal_views_get_equal_gradients(formulation: str, backend: str) -> None:
    view = batch(3, 30, 8, views=1)
    z1, z2 = view.clone().requires_grad_(), view.clone().requires_grad_()
    hex_loss(z1, z2, formulation=formulation, threshold=AdaptiveThreshold(0.9)).backward()
    torch.testing.assert_close(z1.grad, z2.grad, rtol=1e-9, atol=1e-14)
