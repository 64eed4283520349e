"""Gradient caching equals the whole batch."""

import re
from collections import UserDict
from typing import Any, NamedTuple

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


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("chunk", [3, 8])
def test_automatic_needs_only_the_backward_of_the_loss(chunk: int, autocast: bool) -> None:
    batch = views(8)
    ours, theirs = Encoder(dropout=0.5), Encoder(dropout=0.5)
    automatic, manual = GradientCache(chunk, automatic=True), GradientCache(chunk)
    losses = []
    for encoder, cache in ((ours, automatic), (theirs, manual)):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses.append(encoder.loss(cache.embed(encoder, batch)))
        (8 * losses[-1]).backward()  # as a gradient scaler does
    manual.backward(theirs)
    assert torch.equal(*losses)
    expected, found = gradients_of(theirs), gradients_of(ours)
    assert found.keys() == expected.keys() == dict(ours.named_parameters()).keys() - {
        "follower.1.weight", "follower.1.bias"
    }  # fmt: skip
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    with pytest.raises(RuntimeError, match="^expected no call of GradientCache.backward, because loss.backward"):
        automatic.backward(ours)


def test_automatic_takes_several_batches_before_one_backward() -> None:
    encoder, cache = Encoder(), GradientCache(3, automatic=True)
    batches = views(7), views(5)
    sum(encoder.loss(cache.embed(encoder, batch)) for batch in batches).backward()  # type: ignore[union-attr]
    found = gradients_of(encoder)
    encoder.zero_grad()
    sum(encoder.loss(encoder.embed(batch)) for batch in batches).backward()  # type: ignore[union-attr]
    for name, gradient in gradients_of(encoder).items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_automatic_without_gradients_is_a_forward() -> None:
    encoder, cache = Encoder(), GradientCache(3, automatic=True)
    with torch.no_grad():
        embeddings = cache.embed(encoder, views(7))
    assert not any(each.requires_grad for each in embeddings)


def test_gradients_are_accumulated() -> None:
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


class Tokens(UserDict[str, Tensor]):
    """Like Hugging Face's BatchEncoding: a mapping that is not a dict, with attributes."""

    @property
    def input_ids(self) -> Tensor:
        return self["input_ids"]


class Pair(NamedTuple):
    tokens: Any
    images: Tensor


class TwoTowers(nn.Module):
    """Texts and images, embedded from any nesting of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words = nn.Embedding(20, 6)
        self.picture = nn.Linear(5, 6)

    def embed(self, views: Any) -> tuple[Tensor, Tensor]:
        tokens, images = (views["tokens"], views["images"]) if isinstance(views, dict) else views[:2]
        ids = tokens.input_ids if isinstance(tokens, Tokens) else tokens["input_ids"]
        mask = tokens["attention_mask"].unsqueeze(-1)
        return (self.words(ids) * mask).sum(1) / mask.sum(1), self.picture(images)


@pytest.mark.parametrize("chunk", [3, 4, 12, 50])
@pytest.mark.parametrize("nested", ["tuple", "dict", "list", "mapping", "named tuple"])
def test_any_nesting_of_tensors(nested: str, chunk: int) -> None:
    tokens: Any = {"input_ids": torch.randint(20, (12, 7)), "attention_mask": torch.rand(12, 7).round() + 0.1}
    images = torch.rand(12, 5)
    batch = {
        "tuple": (tokens, images, None, True),
        "dict": {"tokens": tokens, "images": images},
        "list": [tokens, images],
        "mapping": (Tokens(tokens), images),
        "named tuple": Pair(tokens, images),
    }[nested]
    whole, parts, cache = TwoTowers(), TwoTowers(), GradientCache(chunk)
    hex_ssl.hex_loss(*whole.embed(batch)).backward()
    hex_ssl.hex_loss(*cache.embed(parts, batch)).backward()
    cache.backward(parts)
    for ours, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)
    assert len(tokens["input_ids"]) == 12  # the caller's own is as it was


@pytest.mark.parametrize(
    ("batch", "error", "text"),
    [
        (
            (torch.rand(6, 4), torch.rand(5, 4)),
            ValueError,
            "expected `views` to hold tensors of the same number of samples, [N, ...], but got [6, 4], [5, 4]",
        ),
        (
            (None,),
            ValueError,
            "expected `views` to hold tensors of the same number of samples, [N, ...], but got no tensor",
        ),
        (
            {"tokens": ["a", "b"]},
            TypeError,
            "expected `views` to hold tensors in tuples, lists and mappings, but got str",
        ),
        ((torch.rand(4, 1, 4, 4).numpy(),), TypeError,
            "expected `views` to hold tensors in tuples, lists and mappings, but got ndarray"),
    ],
    ids=["lengths", "none", "strings", "arrays"],
)  # fmt: skip
def test_views_that_cannot_be_split(batch: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        GradientCache(2).embed(Encoder(), batch)


def test_networks_that_do_not_embed() -> None:
    class One(Encoder):
        def embed(self, views: tuple[Tensor, ...]) -> Any:
            return self.network(views[0])

    with pytest.raises(TypeError, match="^expected `embed` to return a tuple of tensors, but got Tensor$"):
        GradientCache(2).embed(One(), views(4))
    with pytest.raises(TypeError, match="^expected `method` to be an nn.Module, but got object$"):
        GradientCache(2).embed(object(), views(4))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^expected `method` to have a method embed\(views\), but got Linear, which"):
        GradientCache(2).embed(nn.Linear(4, 4), views(4))  # type: ignore[arg-type]


def test_backward_out_of_order() -> None:
    encoder, cache = Encoder(), GradientCache(2)
    with pytest.raises(RuntimeError, match=r"expected `embed` and loss.backward\(\) before .* but got no `embed`$"):
        cache.backward(encoder)
    loss = encoder.loss(cache.embed(encoder, views(5)))
    with pytest.raises(
        RuntimeError, match=r"^expected loss.backward\(\) before .*but got embeddings without a gradient$"
    ):
        cache.backward(encoder)
    assert all(each.grad is None for each in encoder.parameters())
    loss.backward()
    cache.backward(encoder)  # as if nothing had been
    assert encoder.network[1].weight.grad is not None
    with pytest.raises(RuntimeError, match="but got no `embed`"):
        cache.backward(encoder)


def test_chunk_must_hold_an_image() -> None:
    with pytest.raises(ValueError, match="expected `chunk` to be at least 1, but got 0"):
        GradientCache(0)
    for chunk in (None, 2.5):
        with pytest.raises(TypeError, match=f"^expected `chunk` to be a whole number, but got {chunk}$"):
            GradientCache(chunk)  # type: ignore[arg-type]
