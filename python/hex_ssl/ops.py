"""The losses as torch operators, `hex_ssl::evaluate` and `hex_ssl::row_quantiles`, and their derivatives.

One evaluation finds loss and gradients in one go; autograd's backward then only scales the gradients that the forward
saved. `evaluate_call` is the way in for `hex_ssl.functional`. Where nothing traces or transforms it, it runs without
the operator, whose dispatch takes longer than everything else in a small batch. The operators are registered with
torch.library, so that torch.compile, autocast, fake tensors and opcheck know them.

Rows of 16 bits are computed with as they are, under autocast too: the arithmetic on them is in float32.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from hex_ssl import dispatch
from hex_ssl.operands import Operands, quantile_operands

Evaluation = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""What the operator returns."""


def evaluate_call(operands: Operands) -> tuple[Tensor, Tensor]:
    """Loss and statistics [6]: those of the operator, by the shortest way there is.

    Args:
        operands: `want_gradient` and what follows are set here, by what autograd records.
    """
    if torch.compiler.is_compiling():
        return evaluate(*operands)[:2]
    if torch._C._are_functorch_transforms_active():
        # They do not reach an autograd function inside an operator.
        given = [each is not None for each in (operands.keys, operands.positives, operands.temperature)]
        return _recorded(_Evaluation, operands, given)[:2]
    rows = (operands.keys, operands.positives, operands.temperature, *operands.views)
    if not _is_plain(rows):
        return evaluate(*operands)[:2]
    needed = [each is not None and each.requires_grad for each in rows]
    if not (torch.is_grad_enabled() and True in needed):
        return dispatch.evaluate(operands)[:2]
    if operands.one_loss_per_anchor:
        return _recorded(_DirectEvaluation, operands, needed[:3])[:2]
    found = dispatch.evaluate(Operands._make((*operands[:WANTED], True, *needed[:3])))
    loss, *_ = _apply(_KnownGradients, found, *rows)
    return loss, found[1]


WANTED = Operands._fields.index("want_gradient")


def _is_plain(inputs: Sequence[Tensor | None]) -> bool:
    """Nothing but autograd has a part in a call: no mode, no tracing, no subclass, no forward mode, no promotion."""
    if forward_ad._current_level >= 0 or torch._C._len_torch_dispatch_stack() or torch._C._is_tracing():
        return False
    keys, positives, temperature, *views = inputs
    first = views[0]
    assert first is not None
    if temperature is not None and (type(temperature) not in dispatch.PLAIN or _is_wrapped(temperature)):
        return False
    dtype = first.dtype
    for each in (keys, positives, *views):
        if each is None:
            continue
        if type(each) not in dispatch.PLAIN or each.dtype != dtype or _is_wrapped(each):
            return False
    return not first.is_meta


_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def _evaluate(*inputs: Any) -> Evaluation:
    return _as_of_operator(dispatch.evaluate(Operands(*inputs)))


def _evaluate_fake(*inputs: Any) -> Evaluation:
    return _as_of_operator(dispatch.allocate(Operands(*inputs)))


def _as_of_operator(found: dispatch.Evaluation) -> Evaluation:
    """An operator returns tensors: empty ones in place of None."""
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
    """`needed` is of keys, positives and temperature."""
    keys, positives, temperature = needed
    settings = operands._replace(
        want_gradient=True,
        want_keys_gradient=keys,
        want_positives_gradient=positives,
        want_temperature_gradient=temperature,
    )
    if operands.one_loss_per_anchor:  # kept for the backward: tensors stay with autograd alone
        settings = settings._replace(views=(), keys=None, positives=None, temperature=None)
    inputs = (operands.keys, operands.positives, operands.temperature, *operands.views)
    return cast(Evaluation, _apply(function, settings, *inputs))


def _with(operands: Operands, inputs: Sequence[Any]) -> Operands:
    """The operands with the inputs of an autograd function."""
    keys, positives, temperature, *views = inputs
    return operands._replace(views=views, keys=keys, positives=positives, temperature=temperature)


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
            # Not the inputs: what they were written over with, or whether autograd may keep them, does not matter.
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
        saved, factor = ctx.saved_tensors, grad_loss  # once: a checkpoint unpacks them once
        if forward_ad._current_level >= 0:
            _refuse_second_derivative(ctx.in_forward_mode or torch._C._are_functorch_transforms_active())
        if ctx.operands is not None:
            saved = _apply(_WeightedGradients, ctx.operands, saved[0], grad_loss, *saved[1:])
            factor = None
        # The factor before the cast to the inputs' dtype: that of a GradScaler overflows only there.
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
        # torch wants a tangent of each output that can be differentiated. Nobody reads those of the gradients.
        columns = zip(gradients, ctx.wanted, strict=True)
        unknown = (torch.full_like(each, torch.nan) if wanted else None for each, wanted in columns)
        return sum(products[1:], products[0]), None, *unknown

    @staticmethod
    def vmap(*_: Any) -> Any:
        _refuse_vmap()


class _DirectEvaluation(_Evaluation):
    """The same without the operator, for plain tensors."""

    @staticmethod
    def forward(operands: Operands, *inputs: Tensor | None) -> Evaluation:
        return _evaluate(*_with(operands, inputs))


class _KnownGradients(torch.autograd.Function):
    """A loss that is one number, of plain tensors, whose gradients were found with it: the backward scales them.

    As in `_Evaluation` they are outputs, too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        found: dispatch.Evaluation,
        keys: Tensor | None,
        positives: Tensor | None,
        temperature: Tensor | None,
        *views: Tensor,
    ) -> tuple[Tensor | None, ...]:
        loss, _, *gradients = found
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*gradients)
        ctx.views, ctx.dtype = len(views), views[0].dtype
        ctx.temperature_dtype = None if temperature is None else temperature.dtype
        return loss, *gradients

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *of_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative(any(each is not None for each in of_gradients))
        if grad_loss is None:
            return (None,) * len(ctx.needs_input_grad)
        if forward_ad._current_level >= 0:
            _refuse_second_derivative(torch._C._are_functorch_transforms_active())
        # The factor before the cast to the inputs' dtype: that of a GradScaler overflows only there.
        scaled: list[Any] = [None if each is None else each * grad_loss for each in ctx.saved_tensors]
        for_anchors, for_keys, for_positives, for_temperature = scaled
        if for_temperature is not None:
            for_temperature = for_temperature.to(ctx.temperature_dtype)
        if ctx.dtype == for_anchors.dtype:
            return None, for_keys, for_positives, for_temperature, *for_anchors.chunk(ctx.views)
        rows = (for_keys, for_positives, *for_anchors.chunk(ctx.views))
        keys, positives, *views = [None if each is None else each.to(ctx.dtype) for each in rows]
        return None, keys, positives, for_temperature, *views


def _blocks(gradients: Sequence[Tensor], views: int) -> tuple[Tensor, ...]:
    """The gradients of keys, positives, temperature and each view."""
    for_anchors, for_keys, for_positives, for_temperature = gradients
    return for_keys, for_positives, for_temperature, *for_anchors.chunk(views)


class _WeightedGradients(torch.autograd.Function):
    """The gradients of the sum of weight * loss of the anchor: the backward of a loss for each anchor."""

    @staticmethod
    def forward(operands: Operands, statistics: Tensor, weights: Tensor, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        if operands.threshold_rule == "adaptive":
            # The forward has found it: no second search.
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


# Not torch.library.custom_op: with lists and so many arguments its generic autograd adds some 0.3 ms to a step,
# which counts where the loss of a few hundred rows takes one.
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
    # Not torch.library.register_autocast: called for two device types, it casts for the second one only in a
    # compiled graph.
    _library.impl(name, autocast, "AutocastCPU")
    _library.impl(name, autocast, "AutocastCUDA")
    torch.library.register_fake(f"hex_ssl::{name}", fake, lib=_library)
    return operator


def _promoted(rows: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Rows of several dtypes in the widest of them, as torch's own operations that take several under autocast."""
    dtypes = {each.dtype for each in rows if each is not None}
    widest = functools.reduce(torch.promote_types, dtypes)
    return [None if each is None else each.to(widest) for each in rows]


# The operator's schema is the list of operands.
_evaluate.__signature__ = inspect.signature(Operands).replace(return_annotation=Evaluation)  # type: ignore[attr-defined]

evaluate = _register("evaluate", _evaluate, _evaluate_fake, _evaluate_autograd)
"""Loss, statistics [6], the gradients for anchors [M, D], keys [N, D] and positives [M, D], and the temperature's, 0-d.

The arguments are those of `hex_ssl.operands.Operands`, in order. The backend comes from HEX_SSL_BACKEND, and whether
tf32 is allowed from torch's settings, both read at each call. `want_gradient` and what follows are set where autograd
records, after what requires a gradient. A gradient not asked for is empty, [0]. Only the loss is differentiable: once,
and for one number also in forward mode. Its gradient is differentiable with respect to the upstream gradient alone.

For the rules "cosine" and "minmax", `threshold` may hold the value in place of `threshold_value`, on the CPU:
torch.compile compiles anew for each value of a number, but not of a tensor.
"""

row_quantiles = _register("row_quantiles", _row_quantiles, _row_quantiles_fake, _row_quantiles_autograd)
"""The quantile of each anchor's row of similarities, [M], in the dtype of the loss; no gradient.

Views, keys, positives and offset as for `evaluate`, and the quantile, in [0, 1].
"""
