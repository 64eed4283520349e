"""The losses as torch operators, `hex_ssl::evaluate` and `hex_ssl::row_quantiles`, and their derivatives.

One evaluation computes the loss and its gradients together. The backward of autograd then only scales the gradients
that the forward saved. `evaluate_call` is the entry point for `hex_ssl.functional`. If nothing traces or transforms the
call, it skips the operator, because for a small batch the dispatch takes longer than everything else. The operators are
registered with torch.library, so that they work with torch.compile, autocast, fake tensors and opcheck.

16-bit rows are used as they are, also under autocast. The arithmetic on them is in float32.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from hex_ssl import dispatch
from hex_ssl.operands import Operands, quantile_operands

Evaluation = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""The outputs of the operator."""


def evaluate_call(operands: Operands) -> tuple[Tensor, Tensor]:
    """Computes loss and statistics [6] like the operator, on the fastest path that supports the call.

    Args:
        operands: The operands. `want_gradient` and the fields after it are set here, from what autograd records.

    Returns:
        The loss and the statistics.
    """
    if torch.compiler.is_compiling():
        return evaluate(*operands)[:2]
    if torch._C._are_functorch_transforms_active():
        # The transforms do not see an autograd function inside an operator.
        given = [each is not None for each in (operands.keys, operands.positives, operands.temperature)]
        return _recorded(_Evaluation, operands, given)[:2]
    views, keys, positives, temperature = operands.views, operands.keys, operands.positives, operands.temperature
    if not _is_plain(views, keys, positives, temperature):
        return evaluate(*operands)[:2]
    needed = (
        keys is not None and keys.requires_grad,
        positives is not None and positives.requires_grad,
        temperature is not None and temperature.requires_grad,
    )
    if not (torch.is_grad_enabled() and (True in needed or any(map(_requires_grad, views)))):
        return dispatch.evaluate(operands)[:2]
    if operands.one_loss_per_anchor:
        return _recorded(_DirectEvaluation, operands, needed)[:2]
    loss, statistics, for_anchors, *for_others = dispatch.evaluate(Operands._make((*operands[:WANTED], True, *needed)))
    inputs, gradients = list(views), [for_anchors]
    for other, gradient in zip((keys, positives, temperature), for_others, strict=True):
        if other is not None and gradient is not None:
            inputs.append(other)
            gradients.append(gradient)
    loss, *_ = known_gradients((loss, *gradients), *inputs)
    return loss, statistics


WANTED = Operands._fields.index("want_gradient")
_requires_grad = attrgetter("requires_grad")


def _is_plain(
    views: Sequence[Tensor], keys: Tensor | None, positives: Tensor | None, temperature: Tensor | None
) -> bool:
    """Whether nothing but autograd takes part: no mode, tracing, subclass, forward-mode AD or dtype promotion."""
    if forward_ad._current_level >= 0 or torch._C._len_torch_dispatch_stack() or torch._C._is_tracing():
        return False
    dtype = views[0].dtype
    if temperature is not None and (type(temperature) not in dispatch.PLAIN or _is_wrapped(temperature)):
        return False
    for each in views if keys is None else (*views, keys, positives):
        if each is not None and (type(each) not in dispatch.PLAIN or each.dtype != dtype or _is_wrapped(each)):
            return False
    return not views[0].is_meta


_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def _evaluate(*inputs: Any) -> Evaluation:
    return _as_of_operator(dispatch.evaluate(Operands(*inputs)))


def _evaluate_fake(*inputs: Any) -> Evaluation:
    return _as_of_operator(dispatch.allocate(Operands(*inputs)))


def _as_of_operator(found: dispatch.Evaluation) -> Evaluation:
    """Replaces None by empty tensors, because an operator can return only tensors."""
    loss, statistics, *gradients = found
    tensors = (loss.new_empty(0) if each is None else each for each in gradients)
    return cast(Evaluation, (loss, statistics, *tensors))


def _evaluate_autograd(*arguments: Any) -> Any:
    operands = Operands(*arguments)
    # Under `forward_ad.dual_level` each input may have a tangent.
    forward_mode = forward_ad._current_level >= 0
    inputs = (operands.keys, operands.positives, operands.temperature, *operands.views)
    needed = [each is not None and (forward_mode or each.requires_grad) for each in inputs]
    if forward_mode or (torch.is_grad_enabled() and any(needed)):
        if torch._C._are_functorch_transforms_active():
            raise NotImplementedError(
                "hex_ssl's operators do not support torch.func: call the losses of hex_ssl.functional, without "
                "torch.compile(fullgraph=True)"
            )
        loss, statistics, *gradients = _recorded(_Evaluation, operands, needed[:3])
        return loss, statistics, *(each.detach() if each.requires_grad else each for each in gradients)
    with torch._C._AutoDispatchBelowAutograd():
        return evaluate(*operands)


def _recorded(function: type["_Evaluation"], operands: Operands, needed: Sequence[bool]) -> Evaluation:
    """Applies an autograd function. `needed` tells whether keys, positives and temperature need a gradient."""
    keys, positives, temperature = needed
    settings = operands._replace(
        want_gradient=True,
        want_keys_gradient=keys,
        want_positives_gradient=positives,
        want_temperature_gradient=temperature,
    )
    if operands.one_loss_per_anchor:  # the backward keeps the settings; autograd keeps the tensors
        settings = settings._replace(views=(), keys=None, positives=None, temperature=None)
    inputs = (operands.keys, operands.positives, operands.temperature, *operands.views)
    return cast(Evaluation, _apply(function, settings, *inputs))


def _with(operands: Operands, inputs: Sequence[Any]) -> Operands:
    """Puts the inputs of an autograd function into the operands."""
    keys, positives, temperature, *views = inputs
    return operands._replace(views=views, keys=keys, positives=positives, temperature=temperature)


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    if torch._C._are_functorch_transforms_active():
        return function.apply(*inputs)
    return _apply_of(function)(*inputs)


def _apply_of(function: type[torch.autograd.Function]) -> Any:
    """`function.apply` without `Function.apply`, which inspects the signature of `forward` in each call.

    That takes as long as all the rest. It serves functorch's transforms.
    """
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


class _Evaluation(torch.autograd.Function):
    """`evaluate` for inputs that require a gradient or have a tangent.

    The gradients are outputs of this function too, so that autograd can differentiate the product in the backward. The
    derivative with respect to the upstream gradient is exact. The derivative with respect to the inputs leads back to
    this function, which raises an error.
    """

    @staticmethod
    def forward(operands: Operands, *inputs: Tensor | None) -> Evaluation:
        with torch._C._AutoDispatchBelowAutograd():
            found: Evaluation = evaluate(*_with(operands, inputs))
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        operands, *rows = inputs
        _, statistics, *gradients = output
        ctx.operands = operands if operands.one_loss_per_anchor else None
        ctx.wanted = (
            True,
            operands.want_keys_gradient,
            operands.want_positives_gradient,
            operands.want_temperature_gradient,
        )
        ctx.dtypes = [None if each is None else each.dtype for each in rows]
        ctx.in_forward_mode = False
        ctx.set_materialize_grads(False)
        if operands.one_loss_per_anchor:
            ctx.mark_non_differentiable(statistics, *gradients)
            saved = (statistics, *rows)
        else:
            # Do not save the inputs: the backward does not need them, and they may be changed in place meanwhile.
            saved = tuple(gradients)
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
        saved, factor = ctx.saved_tensors, grad_loss  # read once: a checkpoint unpacks saved tensors only once
        if forward_ad._current_level >= 0:
            _refuse_second_derivative(ctx.in_forward_mode or torch._C._are_functorch_transforms_active())
        if ctx.operands is not None:
            saved = _apply(_WeightedGradients, ctx.operands, saved[0], grad_loss, *saved[1:])
            factor = None
        # Multiply before the cast to the dtype of the inputs: the large factor of a GradScaler overflows only there.
        wanted = zip(saved, ctx.wanted, strict=True)
        scaled = [block * factor if needed and factor is not None else block for block, needed in wanted]
        blocks = _blocks(scaled, len(ctx.dtypes) - 3)
        needed = ctx.needs_input_grad[1:]
        columns = zip(blocks, ctx.dtypes, needed, strict=True)
        return None, *(block.to(dtype) if needed else None for block, dtype, needed in columns)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.operands is not None:
            raise NotImplementedError(
                'hex_ssl\'s losses have a forward-mode derivative with reduction "mean" or "sum", but not "none"'
            )
        ctx.in_forward_mode = True
        gradients = ctx.saved_tensors
        pairs = zip(_blocks(gradients, len(tangents) - 3), tangents, strict=True)
        products = [(block * tangent).sum() for block, tangent in pairs if tangent is not None]
        # torch needs a tangent for each differentiable output. The tangents of the gradients are unknown: NaN.
        columns = zip(gradients, ctx.wanted, strict=True)
        unknown = (torch.full_like(each, torch.nan) if wanted else None for each, wanted in columns)
        return sum(products[1:], products[0]), None, *unknown

    @staticmethod
    def vmap(*_: Any) -> Any:
        _refuse_vmap()


class _DirectEvaluation(_Evaluation):
    """`_Evaluation` without the operator, for plain tensors."""

    @staticmethod
    def forward(operands: Operands, *inputs: Tensor | None) -> Evaluation:
        return _evaluate(*_with(operands, inputs))


class _KnownGradients(torch.autograd.Function):
    """A scalar loss of plain tensors whose gradients are already known. The backward scales them.

    The gradients are outputs too, as in `_Evaluation`.
    """

    @staticmethod
    def forward(ctx: Any, found: tuple[Tensor, ...], *inputs: Tensor) -> tuple[Tensor, ...]:
        """`found` is the loss, the gradient for all views, and the gradient for each of the other inputs."""
        ctx.dtypes = [each.dtype for each in inputs[len(inputs) - len(found) + 1 :]]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*found[1:])
        return found

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *of_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        for each in of_gradients:
            _refuse_second_derivative(each is not None)
        if grad_loss is None:
            return (None,) * len(ctx.needs_input_grad)
        if forward_ad._current_level >= 0:
            _refuse_second_derivative(torch._C._are_functorch_transforms_active())
        columns = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        for_anchors, *others = (_scaled(gradient, grad_loss, dtype) for gradient, dtype in columns)
        return None, *for_anchors.chunk(len(ctx.needs_input_grad) - 1 - len(others)), *others


known_gradients = _apply_of(_KnownGradients)
"""Records a loss with its gradients. The arguments are those of `_KnownGradients.forward`, without the context."""


def _scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient * factor in the dtype of the input, which the large factor of a GradScaler may overflow."""
    if gradient.dtype == dtype:
        return gradient * factor
    observed = torch.is_grad_enabled() or torch.compiler.is_compiling() or type(factor) is not Tensor
    # `is_grads_batched` of torch.autograd.grad is an older vmap.
    if observed or _is_wrapped(factor) or torch._C._functorch.is_legacy_batchedtensor(factor):
        return (gradient * factor).to(dtype)
    # The same in one operation, which on a GPU is one kernel.
    return torch.mul(gradient, factor, out=torch.empty_like(gradient, dtype=dtype))


def _blocks(gradients: Sequence[Tensor], views: int) -> tuple[Tensor, ...]:
    """The gradients for keys, positives, temperature and each view."""
    for_anchors, for_keys, for_positives, for_temperature = gradients
    return for_keys, for_positives, for_temperature, *for_anchors.chunk(views)


class _WeightedGradients(torch.autograd.Function):
    """The gradients of the sum of weight * loss of the anchor: the backward for reduction "none"."""

    @staticmethod
    def forward(operands: Operands, statistics: Tensor, weights: Tensor, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        if operands.threshold_rule == "adaptive":
            # The forward has already found the threshold.
            operands = operands._replace(threshold_rule="given", threshold=statistics[0])
        weighted = _with(operands._replace(weights=weights.contiguous()), inputs)
        with torch._C._AutoDispatchBelowAutograd():
            _, _, *gradients = evaluate(*weighted)
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
    views: typing.Sequence[Tensor], keys: Tensor | None, positives: Tensor | None, offset: int, quantile: float
) -> Tensor:
    return dispatch.row_quantiles(quantile_operands(views, keys, positives, offset, quantile))


def _row_quantiles_fake(*inputs: Any) -> Tensor:
    return dispatch.allocate_quantiles(quantile_operands(*inputs))


def _row_quantiles_autograd(*inputs: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return row_quantiles(*inputs)


# torch.library.custom_op is not used: with lists and so many arguments, its generic autograd adds about 0.3 ms to a
# step. This matters for a few hundred rows, where the loss takes about 1 ms.
_library = torch.library.Library("hex_ssl", "DEF")


def _register(name: str, kernel: Callable[..., Any], fake: Callable[..., Any], autograd: Callable[..., Any]) -> Any:
    _library.define(name + torch.library.infer_schema(kernel, mutates_args=()), tags=torch.Tag.pt2_compliant_tag)
    operator = getattr(torch.ops.hex_ssl, name).default

    def autocast(views: Sequence[Tensor], keys: Tensor | None, positives: Tensor | None, *others: Any) -> Any:
        with torch.autocast(views[0].device.type, enabled=False):
            keys, positives, *promoted = _promoted((keys, positives, *views))
            return operator(promoted, keys, positives, *others)

    _library.impl(name, kernel, "CompositeExplicitAutograd")
    _library.impl(name, autograd, "Autograd")
    _library.impl(name, _refuse_vmap, "FuncTorchBatched")
    # torch.library.register_autocast is not used: if it is called for two device types, it casts for the second one
    # only in a compiled graph.
    _library.impl(name, autocast, "AutocastCPU")
    _library.impl(name, autocast, "AutocastCUDA")
    torch.library.register_fake(f"hex_ssl::{name}", fake, lib=_library)
    return operator


def _promoted(rows: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Converts rows to the widest of their dtypes, as autocast does for operations with several inputs."""
    dtypes = {each.dtype for each in rows if each is not None}
    widest = functools.reduce(torch.promote_types, dtypes)
    return [None if each is None else each.to(widest) for each in rows]


# The operator's schema is the list of operands.
_evaluate.__signature__ = inspect.signature(Operands).replace(return_annotation=Evaluation)  # type: ignore[attr-defined]

evaluate = _register("evaluate", _evaluate, _evaluate_fake, _evaluate_autograd)
"""Loss, statistics [6], and the gradients for anchors [M, D], keys [N, D], positives [M * R, D] and temperature, 0-d.

The arguments are those of `hex_ssl.operands.Operands`, in order. HEX_SSL_BACKEND selects the backend, and torch's
settings tell whether tf32 is allowed. Both are read at each call. If autograd records the call, `want_gradient` and the
arguments after it are set from the inputs that require a gradient. A gradient that is not wanted is empty, [0].

Only the loss is differentiable, and only once. For reduction "mean" or "sum" it is also differentiable in forward mode,
and its gradient is differentiable with respect to the upstream gradient.

For the rules "cosine" and "minmax", a `threshold` on the CPU may replace `threshold_value`: torch.compile recompiles
when a number changes, but not when the value of a tensor changes.
"""

row_quantiles = _register("row_quantiles", _row_quantiles, _row_quantiles_fake, _row_quantiles_autograd)
"""The quantile of each anchor's row of similarities, [M], in the dtype of the loss. It has no gradient.

The arguments are views, keys, positives and offset, as for `evaluate`, and the quantile, in [0, 1].
"""
