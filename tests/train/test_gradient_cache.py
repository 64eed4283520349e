"""Gradient caching equals the whole batch."""

import pytest
import torch
from torch import Tensor, nn

import hex_ssl
from hex_ssl.gradient_cache import GradientCache


class Encoder(nn.Module):
    """Two embeddings that need a gradient and one that does not, as methods with a momentum encoder have."""

    def __init__(self, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        layers = [nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12) if norm else nn.LayerNorm(12)]
        self.network = nn.Sequential(*layers, nn.GELU(), nn.Dropout(dropout), nn.Linear(12, 6))
        self.of_the_loss = nn.Linear(6, 6)
        self.follower = nn.Sequential(nn.Flatten(), nn.Linear(16, 6)).requires_grad_(False)

    def embed(self, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*(self.network(view) for view in views), self.follower(views[0]))

    def loss(self, embeddings: tuple[Tensor, ...]) -> Tensor:
        z1, z2, target = embeddings
        hex_loss = hex_ssl.hex_loss(self.of_the_loss(z1), z2, temperature=0.1)
        return hex_loss + (z1 - target).square().mean()


def views(count: int) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 1, 4, 4), torch.rand(count, 1, 4, 4)


def gradients_of(encoder: Encoder) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("count", "chunk"), [(24, 8), (23, 8), (24, 24), (5, 1)])
def test_gradient_is_that_of_the_whole_batch(count: int, chunk: int) -> None:
    batch = views(count)
    whole = Encoder()
    loss = whole.loss(whole.embed(batch))
    loss.backward()
    parts, cache = Encoder(), GradientCache(chunk)
    cached_loss = parts.loss(cache.embed(parts, batch))
    cached_loss.backward()
    assert parts.network[1].weight.grad is None  # until the cache goes on
    cache.backward(parts)
    torch.testing.assert_close(cached_loss, loss, rtol=1e-6, atol=0)
    expected, found = gradients_of(whole), gradients_of(parts)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_gradients_add_to_those_that_are_there() -> None:
    batch, encoder, cache = views(6), Encoder(), GradientCache(4)
    encoder.loss(cache.embed(encoder, batch)).backward()
    cache.backward(encoder)
    once = gradients_of(encoder)
    encoder.loss(cache.embed(encoder, batch)).backward()
    cache.backward(encoder)
    for name, gradient in gradients_of(encoder).items():
        assert (gradient - 2 * once[name]).norm() <= 1e-5 * gradient.norm(), name


def test_dropout_draws_the_same_in_both_passes() -> None:
    batch, encoder, cache = views(8), Encoder(dropout=0.5), GradientCache(4)
    first = cache.embed(encoder, batch)
    again: list[tuple[Tensor, ...]] = []
    embed = encoder.embed
    encoder.embed = lambda part: (again.append(embed(part)), again[-1])[1]  # type: ignore[method-assign,func-returns-value]
    encoder.loss(first).backward()
    state = torch.get_rng_state()
    cache.backward(encoder)
    assert torch.equal(torch.get_rng_state(), state)
    for column, whole in enumerate(first):
        torch.testing.assert_close(torch.cat([each[column] for each in again]), whole, rtol=0, atol=0)


def test_running_statistics_move_once_for_each_chunk() -> None:
    batch, encoder, cache = views(8), Encoder(norm=True), GradientCache(4)
    encoder.loss(cache.embed(encoder, batch)).backward()
    norm = encoder.network[2]
    assert isinstance(norm, nn.BatchNorm1d)
    assert (int(norm.num_batches_tracked), norm.track_running_stats) == (0, True)
    cache.backward(encoder)
    assert int(norm.num_batches_tracked) == 4  # two chunks of two views


def test_chunk_must_hold_an_image() -> None:
    with pytest.raises(ValueError, match="expected `chunk` to be at least 1, but got 0"):
        GradientCache(0)
