"""A large batch in the memory of a small one: gradient caching for losses that look at a whole batch.

Accumulating gradients of small batches is no substitute under a contrastive loss: negatives and threshold would come
from the small batch. Here the loss sees all embeddings at once, and only the networks run in chunks:

1. embed the chunks, without a graph;
2. the loss of all embeddings, and its gradient with respect to them;
3. embed each chunk again, with a graph, and go backward from that gradient.

Source: Gao et al. 2021 (arXiv 2101.06983), section 3.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Views = tuple[Tensor, ...]


class Embeds(Protocol):
    """A network that embeds views, such as `hex_ssl.methods.Method`."""

    def embed(self, views: Views) -> tuple[Tensor, ...]:
        """Views, each [n, C, S, S], to what the loss needs, each [n, ...]."""
        ...


class GradientCache:
    """Runs a method's `embed` in chunks around one loss of the whole batch.

    The gradient is that of the whole batch, but for batch norm, which takes its statistics from the chunk. The networks
    run forward twice. Dropout draws the same in both passes, and batch norm's running statistics move once.

    Args:
        chunk: Images at a time.

    Raises:
        ValueError: `chunk` is below 1.

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

    def __init__(self, chunk: int) -> None:
        if chunk < 1:
            raise ValueError(f"expected `chunk` to be at least 1, but got {chunk}")
        self.chunk = chunk
        self._views: Views = ()
        self._random: list[list[Tensor]] = []
        self._embeddings: list[Tensor] = []

    def embed(self, method: Embeds, views: Views) -> tuple[Tensor, ...]:
        """The embeddings of the whole batch, as leaves of the loss's graph.

        Args:
            method: The network.
            views: Each [N, C, S, S].

        Returns:
            What `method.embed` returns, for all N images; those that depend on parameters gather gradients.
        """
        self._views, self._random = views, []
        pieces, differentiable = [], []
        with _norms_at_rest(method):
            for index, part in enumerate(self._parts()):
                self._random.append(_random_state(part[0].device))
                # With a graph in the first chunk alone: it tells which embeddings depend on parameters.
                with torch.set_grad_enabled(index == 0):
                    piece = method.embed(part)
                if index == 0:
                    differentiable = [each.requires_grad for each in piece]
                pieces.append([each.detach() for each in piece])
        joined = [torch.cat(column) for column in zip(*pieces, strict=True)]
        for each, needs in zip(joined, differentiable, strict=True):
            each.requires_grad_(needs)
        self._embeddings = joined
        return tuple(joined)

    def backward(self, method: Embeds) -> None:
        """Goes on backward from the embeddings to the parameters; after the loss's own backward.

        Args:
            method: The same network as in :meth:`embed`.
        """
        assert isinstance(method, nn.Module)
        columns = [each.grad.split(self.chunk) for each in self._embeddings if each.grad is not None]
        has_gradient = [each.grad is not None for each in self._embeddings]
        parameters = [each for each in method.parameters() if each.requires_grad]
        parts = list(self._parts())
        gradients = list(zip(*columns, strict=True)) or [()] * len(parts)
        for index, part in enumerate(parts):
            with _random_state_restored(part[0].device, self._random[index]), _forward_context(method):
                piece = method.embed(part)
            outputs = [each for each, needed in zip(piece, has_gradient, strict=True) if needed]
            if index == len(parts) - 1:
                # DDP's hooks fire in `backward` alone: once for each parameter, when all its gradient is there.
                torch.autograd.backward(outputs, gradients[index])
            else:
                _accumulate(parameters, outputs, gradients[index])
        self._views, self._random, self._embeddings = (), [], []

    def _parts(self) -> Iterator[Views]:
        return zip(*(view.split(self.chunk) for view in self._views), strict=True)


def _accumulate(parameters: list[nn.Parameter], outputs: list[Tensor], gradients: tuple[Tensor, ...]) -> None:
    found = torch.autograd.grad(outputs, parameters, gradients, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


@contextmanager
def _norms_at_rest(method: Any) -> Iterator[None]:
    """Batch norm normalises as ever, but leaves its running statistics alone."""
    norms = [each for each in method.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _forward_context(method: nn.Module) -> Any:
    """The trainer's autocast, which Lightning leaves before it goes backward."""
    trainer = getattr(method, "_trainer", None)
    return nullcontext() if trainer is None else trainer.precision_plugin.train_step_context()


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
