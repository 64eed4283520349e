"""The extension's functions as torch operators, `hex_ssl::evaluate` and `hex_ssl::row_quantiles`.

Registered with torch.library, so that autograd, autocast, torch.compile and opcheck know them. One evaluation
finds loss and gradients in one go; autograd's backward then only scales the gradients that the forward saved.
`hex_ssl.functional` is the way in for everybody but torch.
"""

import os
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hex_ssl._extension import _core

# Not that of collections.abc: torch 2.6 infers no schema from it.
Sequence = typing.Sequence

BACKENDS = ("auto", "cpu", "cuda", "composite", "emulated")


def backend() -> str:
    """The backend asked for: the environment variable HEX_SSL_BACKEND, read at each call; "auto" where unset.

    Returns:
        "auto" (the fastest that fits the inputs), "cpu" or "cuda" (the fused kernels), "composite" (libtorch
        operations), or "emulated", for tests: the CUDA kernels on CPU tensors, slowly, from the library that
        HEX_SSL_CUDA_EMULATOR names.

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
    want_keys_gradient: bool = False
    want_positives_gradient: bool = False

    @property
    def one_loss_per_anchor(self) -> bool:
        """Whether the loss is [M]: its gradient depends on `grad_output` and is found in the backward."""
        return self.reduction == "none" and self.weights is None


def _evaluate(
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
    want_keys_gradient: bool = False,
    want_positives_gradient: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if threshold != "given" and epsilon is not None:
        threshold_value, epsilon = float(epsilon), None
    return _core.evaluate(
        list(views),
        _requiring_gradient(keys, want_keys_gradient),
        _requiring_gradient(positives, want_positives_gradient),
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
        _allow_tf32(views[0]),
    )


def _allow_tf32(rows: Tensor) -> bool:
    if rows.dtype != torch.float32:
        return False
    matmul = torch.backends.cuda.matmul
    # The setting that both `allow_tf32` and torch.set_float32_matmul_precision change, and, unlike these, one that may
    # always be read. torch before 2.9 has the two alone.
    return bool(matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32)


def _requiring_gradient(tensor: Tensor | None, wanted: bool) -> Tensor | None:
    # The extension reads this flag; that of the tensor itself is unset in a compiled graph.
    return None if tensor is None else tensor.detach().requires_grad_(wanted)


def _evaluate_fake(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
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


def _evaluate_autograd(*inputs: Any) -> Any:
    arguments = _Arguments(*inputs)
    differentiable = (arguments.keys, arguments.positives, *arguments.views)
    if torch.is_grad_enabled() and any(rows is not None and rows.requires_grad for rows in differentiable):
        settings = arguments._replace(views=(), keys=None, positives=None)
        return _Evaluation.apply(settings, *differentiable)  # type: ignore[no-untyped-call]
    with torch._C._AutoDispatchBelowAutograd():
        return evaluate(*arguments)


class _Evaluation(torch.autograd.Function):
    """`evaluate` where an input requires a gradient. Arguments: keys, positives and views apart, then the others."""

    @staticmethod
    def forward(
        ctx: Any, arguments: _Arguments, keys: Tensor | None, positives: Tensor | None, *views: Tensor
    ) -> tuple[Tensor, ...]:
        _, keys_needed, positives_needed, *_ = ctx.needs_input_grad
        arguments = arguments._replace(
            want_gradient=True, want_keys_gradient=keys_needed, want_positives_gradient=positives_needed
        )
        with torch._C._AutoDispatchBelowAutograd():
            loss, statistics, *gradients = evaluate(*arguments._replace(views=views, keys=keys, positives=positives))
        ctx.mark_non_differentiable(statistics, *gradients)
        ctx.set_materialize_grads(False)
        ctx.arguments = None
        if arguments.one_loss_per_anchor:
            ctx.arguments = arguments
        else:
            # Keys without a gradient are not kept: a queue may be written to before the backward.
            keys, positives = keys if keys_needed else None, positives if positives_needed else None
        ctx.save_for_backward(statistics, *gradients, keys, positives, *views)
        return loss, statistics, *gradients

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            return (None,) * len(ctx.needs_input_grad)
        statistics, *gradients, keys, positives = ctx.saved_tensors[:6]
        views = ctx.saved_tensors[6:]
        inputs = (keys, positives, *views)
        factor: Tensor | float = grad_loss
        with torch.no_grad():
            if ctx.arguments is not None:
                arguments = ctx.arguments._replace(views=views, keys=keys, positives=positives)
                gradients, factor = _weighted_gradients(arguments, statistics, grad_loss), 1.0
            for_anchors, for_keys, for_positives = gradients
            blocks = (for_keys, for_positives, *for_anchors.split([view.shape[0] for view in views]))
            # The factor before the cast to the inputs' dtype: that of a GradScaler overflows only there.
            scaled = [
                (block * factor).to(rows.dtype) if needed else None
                for block, rows, needed in zip(blocks, inputs, ctx.needs_input_grad[1:], strict=True)
            ]
        if torch.is_grad_enabled():
            return None, *_OnlyOnce.apply(len(scaled), *scaled, *inputs)  # type: ignore[no-untyped-call]
        return None, *scaled


def _weighted_gradients(arguments: _Arguments, statistics: Tensor, weights: Tensor) -> list[Tensor]:
    """The gradients of the sum of weight * loss of the anchor."""
    if arguments.threshold == "adaptive":
        # The forward has found it: no second search.
        arguments = arguments._replace(threshold="given", epsilon=statistics[0])
    _, _, *gradients = evaluate(*arguments._replace(weights=weights.contiguous()))
    return gradients


class _OnlyOnce(torch.autograd.Function):
    """Hands on the first `count` tensors, and refuses their derivative with respect to all: it would be wrong."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tensors[:count]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise NotImplementedError(
            "hex_ssl's losses have no second derivative: their gradients cannot be differentiated (create_graph=True)"
        )


def _row_quantiles(
    views: Sequence[Tensor], keys: Tensor | None, positives: Tensor | None, offset: int, quantile: float
) -> Tensor:
    return _core.row_quantiles(list(views), keys, positives, offset, quantile, backend(), _allow_tf32(views[0]))


def _row_quantiles_fake(
    views: Sequence[Tensor], keys: Tensor | None, positives: Tensor | None, offset: int, quantile: float
) -> Tensor:
    return views[0].new_empty((sum(view.shape[0] for view in views),), dtype=_dtype_of_loss(views[0]))


def _row_quantiles_autograd(*inputs: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return row_quantiles(*inputs)


# Not torch.library.custom_op: with lists and so many arguments its generic autograd adds some 0.3 ms to a step,
# which counts where the loss of a few hundred rows takes one.
_library = torch.library.Library("hex_ssl", "DEF")


def _register(name: str, kernel: Callable[..., Any], fake: Callable[..., Any], autograd: Callable[..., Any]) -> Any:
    _library.define(name + torch.library.infer_schema(kernel, mutates_args=()), tags=torch.Tag.pt2_compliant_tag)
    operator = getattr(torch.ops.hex_ssl, name).default

    def autocast(*inputs: Any) -> Any:
        with torch.autocast(inputs[0][0].device.type, enabled=False):
            return operator(*(_float32(each) for each in inputs))

    _library.impl(name, kernel, "CompositeExplicitAutograd")
    _library.impl(name, autograd, "Autograd")
    # Not torch.library.register_autocast: called for two device types, it casts for the second one only in a
    # compiled graph.
    _library.impl(name, autocast, "AutocastCPU")
    _library.impl(name, autocast, "AutocastCUDA")
    torch.library.register_fake(f"hex_ssl::{name}", fake, lib=_library)
    return operator


def _float32(value: Any) -> Any:
    """torch's own convention for losses under autocast; float64 stays."""
    if isinstance(value, (list, tuple)):
        return [_float32(each) for each in value]
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
        return value.float()
    return value


evaluate = _register("evaluate", _evaluate, _evaluate_fake, _evaluate_autograd)
"""Loss, statistics [6], and the gradients for anchors [M, D], keys [N, D] and positives [M, D].

The arguments are those of `hex_ssl._core.evaluate`, but for these: the backend comes from HEX_SSL_BACKEND and
whether tf32 is allowed from torch's settings, both read at each call; `want_keys_gradient` and
`want_positives_gradient` tell which gradients to compute with `want_gradient`. All three are set where autograd
records, after what requires a gradient. A gradient not asked for is empty, [0]. Only the loss is differentiable, and
only once.

For the thresholds "cosine" and "minmax", `epsilon` may hold the value in place of `threshold_value`, on the CPU:
torch.compile compiles anew for each value of a number, but not of a tensor.
"""

row_quantiles = _register("row_quantiles", _row_quantiles, _row_quantiles_fake, _row_quantiles_autograd)
"""The quantile of each anchor's row of similarities, [M], in the dtype of the loss; no gradient.

The arguments are those of `hex_ssl._core.row_quantiles`; backend and tf32 as for `evaluate`.
"""
