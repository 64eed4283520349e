"""Gradient caching: train with a large batch in the memory of a small one, for losses that need the whole batch.

Gradient accumulation over small batches does not work for a contrastive loss, because the negatives and the threshold
would come from the small batch. Here the loss sees all embeddings at once, and only the networks run in chunks:

1. Embed the chunks without a graph.
2. Compute the loss of all embeddings and its gradient with respect to them.
3. Embed each chunk again with a graph, and run the backward from that gradient.

Source: Gao et al. 2021 (arXiv 2101.06983), section 3.
"""

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from hex_ssl.precision import has_autocast


class Embeds(Protocol):
    """An `nn.Module` that embeds views, such as `hex_ssl.train.methods.Method`."""

    def embed(self, views: Any) -> tuple[Tensor, ...]:
        """Embeds the views of n samples. Returns the inputs of the loss, each [n, ...]."""
        ...


class GradientCache:
    """Runs a method's `embed` in chunks around one loss of the whole batch.

    The gradient is that of the whole batch, with one exception: batch norm uses the statistics of each chunk. The
    networks run forward twice. Dropout draws the same numbers in both passes, and batch norm updates its running
    statistics only once per chunk.

    Args:
        chunk: Number of samples in a chunk.
        automatic: `loss.backward()` also runs the backward of the networks. This is for trainers that call
            `loss.backward()` themselves. Otherwise call :meth:`backward` after it.

    Raises:
        TypeError: `chunk` is not a whole number.
        ValueError: It is below 1.

    Example:
        >>> class Doubled(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.tensor(2.0))
        ...     def embed(self, views):
        ...         return (self.weight * views[0],)
        >>> method, cache = Doubled(), GradientCache(chunk=2)
        >>> (z,) = cache.embed(method, (torch.arange(5.0),))
        >>> z.prod().add(z.sum()).backward()
        >>> cache.backward(method)
        >>> method.weight.grad
        tensor(10.)
    """

    def __init__(self, chunk: int, automatic: bool = False) -> None:
        given: object = chunk
        if not isinstance(given, Integral):
            raise TypeError(f"expected `chunk` to be a whole number, but got {chunk!r}")
        if chunk < 1:
            raise ValueError(f"expected `chunk` to be at least 1, but got {chunk}")
        self.chunk = chunk
        self.automatic = automatic
        self._pass: _Pass | None = None
        self._embeddings: list[Tensor] = []

    def embed(self, method: Embeds, views: Any) -> tuple[Tensor, ...]:
        """Embeds the whole batch. Unless `automatic`, the embeddings are leaves of the loss's graph.

        Args:
            method: The network.
            views: Tensors of N samples, [N, ...] each, in any nesting of tuples, lists and mappings, such as a
                tokenizer's dict of `input_ids` and `attention_mask`. None, booleans and numbers are passed on with each
                chunk.

        Returns:
            What `method.embed` returns, for all N samples. Embeddings that depend on parameters require a gradient.

        Raises:
            TypeError: `method` is not an nn.Module with a method `embed`, `views` hold something else, or
                `method.embed` does not return a tuple of tensors.
            ValueError: The tensors of `views` differ in N, or there are none.
        """
        if not isinstance(method, nn.Module):
            raise TypeError(f"expected `method` to be an nn.Module, but got {type(method).__name__}")
        if not hasattr(method, "embed"):
            kind = type(method).__name__
            raise TypeError(f"expected `method` to have a method embed(views), but got {kind}, which has none")
        parts, random = _split(views, self.chunk), []
        pieces, differentiable = [], []
        with _norms_at_rest(method):
            for index, part in enumerate(parts):
                random.append(_random_state(_device(part)))
                # Only the first chunk has a graph. It shows which embeddings depend on parameters.
                with torch.set_grad_enabled(index == 0):
                    piece = _embedded(method, part)
                if index == 0:
                    differentiable = [each.requires_grad for each in piece]
                pieces.append([each.detach() for each in piece])
        joined = [torch.cat(column) for column in zip(*pieces, strict=True)]
        first = _Pass(parts, random, _autocast_of(_device(parts[0])), self.chunk)
        if self.automatic:
            embeddings: tuple[Tensor, ...] = _Networks.apply(  # type: ignore[no-untyped-call]
                first, method, differentiable, torch.zeros((), requires_grad=True), *joined
            )
            return embeddings
        for each, needs in zip(joined, differentiable, strict=True):
            each.requires_grad_(needs)
        self._pass, self._embeddings = first, joined
        return tuple(joined)

    def backward(self, method: Embeds) -> None:
        """Runs the backward from the embeddings to the parameters. Call it after `loss.backward()`.

        Args:
            method: The network that was given to :meth:`embed`.

        Raises:
            RuntimeError: :meth:`embed` or `loss.backward()` was not called before, so there are no gradients. Or the
                cache is `automatic`.
        """
        assert isinstance(method, nn.Module)
        if self.automatic:
            raise RuntimeError(
                "expected no call of GradientCache.backward, because loss.backward() runs it with `automatic=True`"
            )
        if self._pass is None:
            raise RuntimeError("expected `embed` and loss.backward() before GradientCache.backward, but got no `embed`")
        if all(each.grad is None for each in self._embeddings):
            raise RuntimeError(
                "expected loss.backward() before GradientCache.backward, with a loss of what `embed` returned, "
                "but got embeddings without a gradient"
            )
        _second_pass(self._pass, method, [each.grad for each in self._embeddings])
        self._pass, self._embeddings = None, []


class _Pass(NamedTuple):
    """What the second pass of the networks repeats."""

    parts: list[Any]
    random: list[list[Tensor]]
    """The states of the random number generators before each part."""
    autocast: dict[str, Any] | None
    chunk: int


def _second_pass(first: _Pass, method: nn.Module, gradients: list[Tensor | None]) -> None:
    """Embeds each chunk again and runs its backward, from the gradients of the embeddings of the whole batch."""
    columns = [each.split(first.chunk) for each in gradients if each is not None]
    has_gradient = [each is not None for each in gradients]
    parameters = [each for each in method.parameters() if each.requires_grad]
    of_chunks = list(zip(*columns, strict=True))
    for index, part in enumerate(first.parts):
        with _random_state_restored(_device(part), first.random[index]), _forward_context(method, first.autocast):
            piece = _embedded(method, part)
        outputs = [each for each, needed in zip(piece, has_gradient, strict=True) if needed]
        if index == len(first.parts) - 1:
            # DDP's hooks run only in `backward`. They must run once for each parameter, with its whole gradient.
            torch.autograd.backward(outputs, of_chunks[index])
        else:
            _accumulate(parameters, outputs, of_chunks[index])


class _Networks(torch.autograd.Function):
    """The networks as one node of the loss's graph: its backward is the second pass."""

    @staticmethod
    def forward(
        ctx: Any, first: _Pass, method: nn.Module, differentiable: list[bool], anchor: Tensor, *joined: Tensor
    ) -> tuple[Tensor, ...]:
        # `anchor` requires a gradient, so that the embeddings do.
        ctx.first, ctx.method = first, method
        ctx.set_materialize_grads(False)
        embeddings = tuple(each.detach() for each in joined)
        ctx.mark_non_differentiable(
            *(each for each, needs in zip(embeddings, differentiable, strict=True) if not needs)
        )
        return embeddings

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, ...]:
        with torch.enable_grad():
            _second_pass(ctx.first, ctx.method, list(gradients))
        return (None,) * (4 + len(gradients))


def _embedded(method: Any, part: Any) -> tuple[Tensor, ...]:
    piece: tuple[Tensor, ...] = method.embed(part)
    if not isinstance(piece, (tuple, list)) or not all(isinstance(each, Tensor) for each in piece):
        raise TypeError(f"expected `embed` to return a tuple of tensors, but got {type(piece).__name__}")
    return piece


def _split(views: Any, chunk: int) -> list[Any]:
    """Splits the views into parts of `chunk` samples. Each part keeps the nesting."""
    shapes = [list(each.shape) for each in _tensors(views)]
    if not shapes or any(shape[:1] != shapes[0][:1] or not shape for shape in shapes):
        got = ", ".join(map(str, shapes)) or "no tensor"
        raise ValueError(f"expected `views` to hold tensors of the same number of samples, [N, ...], but got {got}")
    return [_narrowed(views, start, chunk) for start in range(0, max(shapes[0][0], 1), chunk)]


def _tensors(views: Any) -> Iterator[Tensor]:
    if isinstance(views, Tensor):
        yield views
    elif isinstance(views, (tuple, list, Mapping)):
        for each in views.values() if isinstance(views, Mapping) else views:
            yield from _tensors(each)
    elif not (views is None or isinstance(views, (bool, int, float))):
        raise TypeError(
            f"expected `views` to hold tensors in tuples, lists and mappings, but got {type(views).__name__}"
        )


def _narrowed(views: Any, start: int, chunk: int) -> Any:
    if isinstance(views, Tensor):
        return views[start : start + chunk]
    if isinstance(views, MutableMapping):
        # Keep the type of the mapping, as torch's default collation does.
        copied = copy.copy(views)
        copied.update({name: _narrowed(each, start, chunk) for name, each in views.items()})
        return copied
    if isinstance(views, Mapping):
        return {name: _narrowed(each, start, chunk) for name, each in views.items()}
    if isinstance(views, (tuple, list)):
        parts = [_narrowed(each, start, chunk) for each in views]
        return type(views)(*parts) if hasattr(views, "_fields") else type(views)(parts)
    return views


def _device(part: Any) -> torch.device:
    return next(_tensors(part)).device


def _accumulate(parameters: list[nn.Parameter], outputs: list[Tensor], gradients: tuple[Tensor, ...]) -> None:
    found = torch.autograd.grad(outputs, parameters, gradients, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


@contextmanager
def _norms_at_rest(method: Any) -> Iterator[None]:
    """Batch norm normalises as usual, but does not update its running statistics."""
    norms = [each for each in method.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def _forward_context(method: nn.Module, autocast: dict[str, Any] | None) -> Iterator[None]:
    """Autocast as in the first pass, and the trainer's context, which Lightning leaves before the backward."""
    trainer = getattr(method, "_trainer", None)
    of_trainer = nullcontext() if trainer is None else trainer.precision_plugin.train_step_context()
    with of_trainer, nullcontext() if autocast is None else torch.autocast(**autocast):
        yield


def _autocast_of(device: torch.device) -> dict[str, Any] | None:
    """The arguments of `torch.autocast` that say what is in force. None on a device without autocast."""
    if not has_autocast(device.type):
        return None
    enabled = torch.is_autocast_enabled(device.type)
    return {"device_type": device.type, "enabled": enabled, "dtype": torch.get_autocast_dtype(device.type)}


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


@contextmanager
def _random_state_restored(device: torch.device, states: list[Tensor]) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(states[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states[1], device)
        yield
