"""The extension's functions as torch operators: `evaluate`, `row_quantiles` and `scale_gradient` of `hex_ssl::`.

Registered with torch.library, so that autograd, autocast, torch.compile and opcheck know them. One evaluation
finds loss and gradients in one go; autograd's backward then only scales the gradients that the forward saved.
`hex_ssl.functional` is the way in for everybody but torch.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hex_ssl._extension import _core

BACKENDS = ("auto", "cpu", "composite")


def backend() -> str:
    """The backend asked for: the environment variable HEX_SSL_BACKEND, read at each call; "auto" where unset.

    Returns:
        "auto" (the fastest that fits the inputs), "cpu" (the fused kernel) or "composite" (libtorch operations).

    Raises:
        ValueError: The variable holds something else.

    Example:
        >>> backend() in BACKENDS
        True
    """
    choice = os.environ.get("HEX_SSL_BACKEND", "auto")
    if choice not in BACKENDS:
        choices = ", ".join(f'"{name}"' for name in BACKENDS)
        raise ValueError(f'expected HEX_SSL_BACKEND to be one of {choices}, but got "{choice}"')
    return choice


class _Arguments(NamedTuple):
    """The arguments of `evaluate`, in order."""

    views: Sequence[Tensor]
    keys: Tensor | None
    positives: Tensor | None
    positive_index: Tensor | None
    ignored_index: Tensor | None
    anchor_labels: Tensor | None
    key_labels: Tensor | None
    epsilon: Tensor | None
    weights: Tensor | None
    offset: int
    threshold: str
    threshold_value: float
    formulation: str
    beta: float
    tau_plus: float
    temperature: float
    reduction: str
    want_gradient: bool
    # torch leaves out what is equal to its default.
    want_keys_gradient: bool = True
    want_positives_gradient: bool = True

    @property
    def one_loss_per_anchor(self) -> bool:
        """Whether the loss is [M]: its gradient depends on `grad_output` and is found in the backward."""
        return self.reduction == "none" and self.weights is None


@torch.library.custom_op("hex_ssl::evaluate", mutates_args=())
def evaluate(
    views: Sequence[Tensor],
    keys: Tensor | None,
    positives: Tensor | None,
    positive_index: Tensor | None,
    ignored_index: Tensor | None,
    anchor_labels: Tensor | None,
    key_labels: Tensor | None,
    epsilon: Tensor | None,
    weights: Tensor | None,
    offset: int,
    threshold: str,
    threshold_value: float,
    formulation: str,
    beta: float,
    tau_plus: float,
    temperature: float,
    reduction: str,
    want_gradient: bool,
    want_keys_gradient: bool = True,
    want_positives_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, statistics [6], and the gradients for anchors [M, D], keys [N, D] and positives [M, D].

    The arguments are those of `hex_ssl._core.evaluate`; the backend comes from HEX_SSL_BACKEND. With
    `want_gradient`, the gradients for keys and positives can be left out (a queue that is not trained); a
    gradient not asked for is empty, [0]. Only the loss is differentiable, and only once.

    For the thresholds "cosine" and "minmax", `epsilon` may hold the value in place of `threshold_value`, on the
    CPU: torch.compile compiles anew for each value of a number, but not of a tensor.
    """
    if threshold != "given" and epsilon is not None:
        threshold_value, epsilon = float(epsilon), None
    return _core.evaluate(
        list(views),
        _requiring_gradient(keys, want_gradient and want_keys_gradient),
        _requiring_gradient(positives, want_gradient and want_positives_gradient),
        positive_index,
        ignored_index,
        anchor_labels,
        key_labels,
        epsilon,
        weights,
        offset,
        threshold,
        threshold_value,
        formulation,
        beta,
        tau_plus,
        temperature,
        reduction,
        want_gradient,
        backend(),
    )


def _requiring_gradient(tensor: Tensor | None, wanted: bool) -> Tensor | None:
    # The extension reads this flag; that of the tensor itself is unset in a compiled graph.
    return None if tensor is None else tensor.detach().requires_grad_(wanted)


@evaluate.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    arguments = _Arguments(*inputs)
    first = arguments.views[0]
    anchors = sum(view.shape[0] for view in arguments.views)
    dtype = _dtype_of_loss(first)

    def gradient(rows: int, wanted: bool) -> Tensor:
        computed = wanted and arguments.want_gradient and not arguments.one_loss_per_anchor
        return first.new_empty((rows, first.shape[1]) if computed else (0,), dtype=dtype)

    keys, positives = arguments.keys, arguments.positives
    return (
        first.new_empty((anchors,) if arguments.one_loss_per_anchor else (), dtype=dtype),
        first.new_empty((6,), dtype=dtype),
        gradient(anchors, True),
        gradient(0 if keys is None else keys.shape[0], keys is not None and arguments.want_keys_gradient),
        gradient(anchors, positives is not None and arguments.want_positives_gradient),
    )


def _dtype_of_loss(rows: Tensor) -> torch.dtype:
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> None:
    arguments = _Arguments(*inputs)
    _, statistics, *gradients = output
    ctx.mark_non_differentiable(statistics, *gradients)
    ctx.set_materialize_grads(False)
    views, *tensors = inputs[: _Arguments._fields.index("weights")]
    if not arguments.one_loss_per_anchor:
        # Only what the backward returns gradients for: a queue of keys may be written to before it runs.
        needed = (arguments.want_keys_gradient, arguments.want_positives_gradient, *[False] * (len(tensors) - 2))
        tensors = [tensor if kept else None for tensor, kept in zip(tensors, needed, strict=True)]
    ctx.one_loss_per_anchor = arguments.one_loss_per_anchor
    ctx.save_for_backward(*gradients, statistics, *tensors, *views)
    ctx.settings = inputs[_Arguments._fields.index("offset") :]


def _backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Any, ...]:
    views_needed, *others_needed = ctx.needs_input_grad
    nothing = [None] * len(views_needed), *[None] * len(others_needed)
    if grad_loss is None:
        return nothing
    for_anchors, for_keys, for_positives, statistics, *inputs = ctx.saved_tensors
    # Keys to epsilon are seven tensors; the views, of any number, come last.
    arguments = _Arguments(inputs[7:], *inputs[:7], None, *ctx.settings)
    if ctx.one_loss_per_anchor:
        for_anchors, for_keys, for_positives = _weighted_gradients(arguments, statistics, grad_loss)
        grad_loss = grad_loss.new_ones(())
    return (
        _scaled(for_anchors, grad_loss, arguments.views) if any(views_needed) else nothing[0],
        _scaled(for_keys, grad_loss, [arguments.keys])[0] if others_needed[0] else None,
        _scaled(for_positives, grad_loss, [arguments.positives])[0] if others_needed[1] else None,
        *nothing[3:],
    )


def _weighted_gradients(arguments: _Arguments, statistics: Tensor, weights: Tensor) -> Sequence[Tensor]:
    """The gradients of the sum of weight * loss of the anchor."""
    if arguments.threshold == "adaptive":
        # The forward has found it: no second search.
        arguments = arguments._replace(threshold="given", epsilon=statistics[0].detach())
    return evaluate(*arguments._replace(weights=weights, want_gradient=True))[2:]


def _scaled(gradient: Tensor, grad_loss: Tensor, inputs: Sequence[Tensor | None]) -> list[Tensor]:
    if gradient.dim() != 2:
        raise RuntimeError("expected `want_gradient` to be true for inputs that require a gradient, but got false")
    return scale_gradient(gradient, grad_loss, [rows for rows in inputs if rows is not None])


evaluate.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("hex_ssl::scale_gradient", mutates_args=())
def scale_gradient(gradient: Tensor, grad_output: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """gradient * grad_output, cut into the gradients of `inputs`.

    An operator of its own so that a second derivative, which the extension does not know, is refused.

    Args:
        gradient: Of a scalar for all the inputs' rows, [M, D], in the dtype of the loss.
        grad_output: 0-d. Multiplied before the cast to the input's dtype, so that the large factor of a
            GradScaler overflows where the gradient itself does.
        inputs: The tensors whose rows, one below the other, are `gradient`'s.

    Returns:
        One gradient for each input, in its shape and dtype.
    """
    blocks = gradient.split([rows.shape[0] for rows in inputs])
    return [(block * grad_output).to(rows.dtype) for block, rows in zip(blocks, inputs, strict=True)]


@scale_gradient.register_fake
def _(gradient: Tensor, grad_output: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [rows.new_empty(rows.shape) for rows in inputs]


def _refuse_second_derivative(ctx: Any, *_: Any) -> None:
    raise NotImplementedError(
        "hex_ssl's losses have no second derivative: their gradients cannot be differentiated (create_graph=True)"
    )


scale_gradient.register_autograd(_refuse_second_derivative)


@torch.library.custom_op("hex_ssl::row_quantiles", mutates_args=())
def row_quantiles(
    views: Sequence[Tensor], keys: Tensor | None, positives: Tensor | None, offset: int, quantile: float
) -> Tensor:
    """The quantile of each anchor's row of similarities, [M], in the dtype of the loss; no gradient.

    The arguments are those of `hex_ssl._core.row_quantiles`; the backend comes from HEX_SSL_BACKEND.
    """
    return _core.row_quantiles(list(views), keys, positives, offset, quantile, backend())


@row_quantiles.register_fake
def _(views: Sequence[Tensor], keys: Tensor | None, positives: Tensor | None, offset: int, quantile: float) -> Tensor:
    return views[0].new_empty((sum(view.shape[0] for view in views),), dtype=_dtype_of_loss(views[0]))


def _no_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)
    ctx.views = len(inputs[0])


row_quantiles.register_autograd(lambda ctx, _: ([None] * ctx.views, None, None, None, None), setup_context=_no_gradient)

# torch's own convention for losses: float32 under autocast. float64 stays float64.
for _operator in (evaluate, row_quantiles):
    for _device_type in ("cpu", "cuda"):
        _operator.register_autocast(_device_type, torch.float32)
