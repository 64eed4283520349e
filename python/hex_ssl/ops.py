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
from torch.autograd import forward_ad

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
    with torch._C.DisableTorchFunction():
        rows = [_plain(view) for view in views]
        if threshold != "given" and epsilon is not None:
            threshold_value, epsilon = float(_plain(epsilon)), None
        return _core.evaluate(
            rows,
            _requiring_gradient(keys, want_keys_gradient),
            _requiring_gradient(positives, want_positives_gradient),
            _plain_or_none(positive_index),
            _plain_or_none(ignored_index),
            _plain_or_none(anchor_labels),
            _plain_or_none(key_labels),
            _plain_or_none(epsilon),
            _plain_or_none(weights),
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
            _allow_tf32(rows[0]),
        )


_plain = torch._C.TensorBase.detach
"""A new torch.Tensor of the same memory, where torch's functions are disabled for subclasses and modes.

The extension reads shape, strides, dtype, device and address of what this returns: a subclass may answer anything, and
so may a method that somebody put on the tensor itself.
"""


def _plain_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _plain(tensor)


def _allow_tf32(rows: Tensor) -> bool:
    if rows.dtype != torch.float32:
        return False
    matmul = torch.backends.cuda.matmul
    # The setting that both `allow_tf32` and torch.set_float32_matmul_precision change, and, unlike these, one that may
    # always be read. torch before 2.9 has the two alone.
    return bool(matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32)


def _requiring_gradient(tensor: Tensor | None, wanted: bool) -> Tensor | None:
    # The extension reads this flag; that of the tensor itself is unset in a compiled graph.
    return None if tensor is None else _plain(tensor).requires_grad_(wanted)


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
    # Under `forward_ad.dual_level` each input may have a tangent.
    forward_mode = forward_ad._current_level >= 0
    rows = (arguments.keys, arguments.positives, *arguments.views)
    needed = [each is not None and (forward_mode or each.requires_grad) for each in rows]
    if forward_mode or (torch.is_grad_enabled() and any(needed)):
        if torch._C._are_functorch_transforms_active():
            raise NotImplementedError(
                "hex_ssl's operators do not support torch.func: call the losses of hex_ssl.functional, without "
                "torch.compile(fullgraph=True)"
            )
        loss, statistics, *gradients = _recorded(arguments, *needed[:2])
        return loss, statistics, *(each.detach() if each.requires_grad else each for each in gradients)
    with torch._C._AutoDispatchBelowAutograd():
        return evaluate(*arguments)


def evaluate_in_transforms(*inputs: Any) -> Any:
    """`evaluate` under the transforms of torch.func, which do not reach an autograd function inside an operator."""
    arguments = _Arguments(*inputs)
    return _recorded(arguments, arguments.keys is not None, arguments.positives is not None)


def _recorded(arguments: _Arguments, keys_needed: bool, positives_needed: bool) -> Any:
    settings = arguments._replace(
        views=(),
        keys=None,
        positives=None,
        want_gradient=True,
        want_keys_gradient=keys_needed,
        want_positives_gradient=positives_needed,
    )
    return _apply(_Evaluation, settings, arguments.keys, arguments.positives, *arguments.views)


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    if torch._C._are_functorch_transforms_active():
        return function.apply(*inputs)
    # Past `Function.apply`, which looks at the signature of `forward` in each call: that takes as long as all the rest.
    return super(torch.autograd.Function, function).apply(*inputs)  # type: ignore[misc]


class _Evaluation(torch.autograd.Function):
    """`evaluate` where an input requires a gradient or has a tangent.

    The gradients that it returns are outputs of this function to autograd, so that the product in the backward can be
    differentiated: exactly with respect to the upstream gradient; with respect to the inputs it comes back here, and is
    refused.
    """

    @staticmethod
    def forward(
        arguments: _Arguments, keys: Tensor | None, positives: Tensor | None, *views: Tensor
    ) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return tuple(evaluate(*arguments._replace(views=views, keys=keys, positives=positives)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        arguments, *rows = inputs
        _, statistics, for_anchors, for_keys, for_positives = output
        ctx.arguments = arguments if arguments.one_loss_per_anchor else None
        ctx.wanted = (True, arguments.want_keys_gradient, arguments.want_positives_gradient)
        ctx.dtypes = [None if each is None else each.dtype for each in rows]
        ctx.in_forward_mode = False
        ctx.set_materialize_grads(False)
        if arguments.one_loss_per_anchor:
            ctx.mark_non_differentiable(statistics, for_anchors, for_keys, for_positives)
            saved = (statistics, *rows)
        else:
            # Not the inputs: what they were written over with, or whether autograd may keep them, does not matter.
            saved = (for_anchors, for_keys, for_positives)
            unwanted = [each for each, wanted in zip(saved, ctx.wanted, strict=True) if not wanted]
            ctx.mark_non_differentiable(statistics, *unwanted)
        ctx.save_for_backward(*saved)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, grad_loss: Any, _: None, *of_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative(any(each is not None for each in of_gradients))
        if grad_loss is None:
            return (None,) * len(ctx.needs_input_grad)
        saved, factor = ctx.saved_tensors, grad_loss  # once: a checkpoint unpacks them once
        if forward_ad._current_level >= 0:
            _refuse_second_derivative(ctx.in_forward_mode or torch._C._are_functorch_transforms_active())
        if ctx.arguments is not None:
            saved = _apply(_WeightedGradients, ctx.arguments, saved[0], grad_loss, *saved[1:])
            factor = 1.0
        blocks = _blocks(saved, len(ctx.dtypes) - 2)
        # The factor before the cast to the inputs' dtype: that of a GradScaler overflows only there.
        return None, *(
            (block * factor).to(dtype) if needed else None
            for block, dtype, needed in zip(blocks, ctx.dtypes, ctx.needs_input_grad[1:], strict=True)
        )

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.arguments is not None:
            raise NotImplementedError(
                'hex_ssl\'s losses have a forward-mode derivative with reduction "mean" or "sum", but not "none"'
            )
        ctx.in_forward_mode = True
        gradients = ctx.saved_tensors
        pairs = zip(_blocks(gradients, len(tangents) - 2), tangents, strict=True)
        products = [(block * tangent).sum() for block, tangent in pairs if tangent is not None]
        # torch wants a tangent of each output that can be differentiated. Nobody reads those of the gradients.
        columns = zip(gradients, ctx.wanted, strict=True)
        unknown = (torch.full_like(each, torch.nan) if wanted else None for each, wanted in columns)
        return sum(products[1:], products[0]), None, *unknown

    @staticmethod
    def vmap(*_: Any) -> Any:
        _refuse_vmap()


def _blocks(gradients: Sequence[Tensor], views: int) -> tuple[Tensor, ...]:
    """The gradients of keys, positives and each view."""
    for_anchors, for_keys, for_positives = gradients
    return for_keys, for_positives, *for_anchors.chunk(views)


class _WeightedGradients(torch.autograd.Function):
    """The gradients of the sum of weight * loss of the anchor: the backward of a loss for each anchor."""

    @staticmethod
    def forward(
        arguments: _Arguments,
        statistics: Tensor,
        weights: Tensor,
        keys: Tensor | None,
        positives: Tensor | None,
        *views: Tensor,
    ) -> tuple[Tensor, ...]:
        if arguments.threshold == "adaptive":
            # The forward has found it: no second search.
            arguments = arguments._replace(threshold="given", epsilon=statistics[0])
        inputs = arguments._replace(weights=weights.contiguous(), views=views, keys=keys, positives=positives)
        with torch._C._AutoDispatchBelowAutograd():
            _, _, *gradients = evaluate(*inputs)
        return tuple(gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        _refuse_second_derivative(True)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> None:
        _refuse_second_derivative(True)

    @staticmethod
    def vmap(*_: Any) -> Any:
        _refuse_vmap()


def _refuse_vmap(*_: Any) -> Any:
    raise NotImplementedError(
        "hex_ssl's losses do not support torch.func.vmap: each compares a whole batch, so loop over the batches"
    )


def _refuse_second_derivative(asked_for: bool) -> None:
    if asked_for:
        raise NotImplementedError(
            "hex_ssl's losses have no second derivative with respect to their inputs: with create_graph=True their "
            'gradients have one with respect to a factor of the loss alone, for reduction "mean" or "sum"'
        )


def _row_quantiles(
    views: Sequence[Tensor], keys: Tensor | None, positives: Tensor | None, offset: int, quantile: float
) -> Tensor:
    with torch._C.DisableTorchFunction():
        rows = [_plain(view) for view in views]
        others = (_plain_or_none(keys), _plain_or_none(positives))
        return _core.row_quantiles(rows, *others, offset, quantile, backend(), _allow_tf32(rows[0]))


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
    _library.impl(name, _refuse_vmap, "FuncTorchBatched")
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
records, after what requires a gradient. A gradient not asked for is empty, [0]. Only the loss is differentiable: once,
and for one number also in forward mode. Its gradient is differentiable with respect to the upstream gradient alone.

For the thresholds "cosine" and "minmax", `epsilon` may hold the value in place of `threshold_value`, on the CPU:
torch.compile compiles anew for each value of a number, but not of a tensor.
"""

row_quantiles = _register("row_quantiles", _row_quantiles, _row_quantiles_fake, _row_quantiles_autograd)
"""The quantile of each anchor's row of similarities, [M], in the dtype of the loss; no gradient.

The arguments are those of `hex_ssl._core.row_quantiles`; backend and tf32 as for `evaluate`.
"""
