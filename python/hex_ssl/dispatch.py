"""Chooses what computes a call: the kernels of the extension or, if none fits, :mod:`hex_ssl.composite`.

torch allocates the results and the scratch memory of the CUDA kernels here. The extension allocates no torch memory.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from hex_ssl import composite
from hex_ssl._extension import _core
from hex_ssl.operands import Operands, quantile_operands
from hex_ssl.precision import without_autocast

BACKENDS = ("auto", "cpu", "cuda", "composite")
EMULATED = "emulated"
"""Runs the CUDA kernels on CPU tensors, for the tests. HEX_SSL_CUDA_EMULATOR names the emulator's library."""

Evaluation = composite.Evaluation
Results = TypeVar("Results")

TENSORS = Operands._fields.index("offset")
"""The number of operands that are tensors. They come first."""
PLAIN = (Tensor, torch.nn.Parameter)
"""The tensor types that do not override any operation."""

# These are the methods of torch's C type. A subclass, or code that patches `torch.Tensor`, cannot change them.
_detach, _is_neg = torch._C.TensorBase.detach, torch._C.TensorBase.is_neg
_resolve_neg, _contiguous = torch._C.TensorBase.resolve_neg, torch._C.TensorBase.contiguous
_new_empty = torch._C.TensorBase.new_empty

_fallbacks: list[str] = []


def backend() -> str:
    """The requested backend: the environment variable HEX_SSL_BACKEND, read at each call. "auto" if it is not set.

    Returns:
        "auto" (the fused kernels if they fit the inputs, else torch's operations), "cpu" or "cuda" (the fused kernels),
        or "composite" (torch's operations). The tests also use "emulated".

    Raises:
        ValueError: The variable has another value.

    Example:
        >>> backend() in BACKENDS
        True
    """
    choice = os.environ.get("HEX_SSL_BACKEND", "auto")
    if choice not in BACKENDS and choice != EMULATED:
        choices = ", ".join(f'"{name}"' for name in BACKENDS)
        raise ValueError(f'expected HEX_SSL_BACKEND to be one of {choices}, but got "{choice}"')
    return choice


def fallbacks() -> list[str]:
    """The reasons why calls with backend "auto" have used torch's operations so far, each once, in order."""
    return list(_fallbacks)


def evaluate(operands: Operands) -> Evaluation:
    """Loss, statistics and gradients, outside any autograd graph.

    Raises:
        TypeError, ValueError: An operand or a setting is not valid.
        RuntimeError: A device fails.
    """
    return _compute(operands, allocate, _core.evaluate, _by_torch)


def row_quantiles(operands: Operands) -> Tensor:
    """The quantile of each anchor's row of similarities, [M]. The operands come from `quantile_operands`.

    Raises:
        TypeError, ValueError, RuntimeError: As :func:`evaluate`.
    """
    return _compute(operands, allocate_quantiles, _core.row_quantiles, composite.row_quantiles)


def _by_torch(operands: Operands) -> Evaluation:
    """The evaluation by torch's operations. They compute two towers as two evaluations."""
    return _both_directions(operands) if operands.towers else composite.evaluate(operands)


def _both_directions(operands: Operands) -> Evaluation:
    """Computes the loss of two towers as two evaluations, one for each direction."""
    composite.check_rows(operands)  # here, so that errors use the caller's names
    first, second = operands.views
    rows = first.shape[0]
    if operands.threshold_rule == "adaptive":
        value = operands.threshold_value
        quantiles = [
            row_quantiles(quantile_operands([anchors], keys, None, 0, value))
            for anchors, keys in ((first, second), (second, first))
        ]
        operands = operands._replace(threshold_rule="given", threshold=torch.cat(quantiles).mean())
    share = operands if operands.reduction == "none" else operands._replace(reduction="sum")
    index = torch.arange(rows, device=first.device)[:, None]
    labels, weights = (
        (None, None) if each is None else each.split(rows) for each in (operands.anchor_labels, operands.weights)
    )
    found = [
        evaluate(
            share._replace(
                views=[anchors],
                keys=keys,
                positive_index=index,
                anchor_labels=labels[own],
                key_labels=labels[1 - own],
                weights=weights[own],
                towers=False,
                want_keys_gradient=operands.want_gradient,
            )
        )
        for own, (anchors, keys) in enumerate(((first, second), (second, first)))
    ]
    there, back = found
    joined = join_directions([there[1], back[1]])
    divisor: Tensor | float = 1.0
    if operands.reduction == "mean" and operands.weights is None:
        divisor = (2 * rows - joined[-1]).clamp(min=1.0)
    losses = [there[0], back[0]]
    loss = torch.cat(losses) if operands.one_loss_per_anchor else (losses[0] + losses[1]) / divisor
    if there[2] is None:
        return loss, joined, None, None, None, None
    gradient = torch.cat([there[2] + back[3], there[3] + back[2]]) / divisor  # type: ignore[operator]  # all are there
    temperature = None if there[5] is None else (there[5] + back[5]) / divisor  # type: ignore[operator]
    return loss, joined, gradient, None, None, temperature


def join_directions(statistics: Sequence[Tensor]) -> Tensor:
    """Joins the statistics [6] of evaluations that have the same number of anchors."""
    *means, undefined = torch.stack(list(statistics)).unbind(1)
    return torch.stack([*(each.mean() for each in means), undefined.sum()])


def _compute(
    operands: Operands,
    room: Callable[[Operands], Results],
    kernel: Callable[..., str | None],
    fallback: Callable[[Operands], Results],
) -> Results:
    with torch._C.DisableTorchFunction():
        operands = _readable(operands)
        choice = backend()
        if _has_kernel(operands, choice):
            results = room(operands)
            if _ran(kernel, operands, results, choice):
                return results
        else:
            _expect_composite(operands, choice)
        _core.check(operands)
        with without_autocast(operands.views[0]):
            return fallback(operands)


def allocate(operands: Operands) -> Evaluation:
    """Allocates the results on the device of the operands, in the dtype of the arithmetic. None for unwanted ones."""
    views, keys, positives = operands[:3]
    rows, dtype = views[0], operands.dtype
    length, dims = rows.shape
    anchors = len(views) * length
    each = operands.one_loss_per_anchor
    loss = _new_empty(rows, (anchors,) if each else (), dtype=dtype)
    statistics = _new_empty(rows, (6,), dtype=dtype)
    if each or not operands.want_gradient:
        return loss, statistics, None, None, None, None
    return (
        loss,
        statistics,
        _new_empty(rows, (anchors, dims), dtype=dtype),
        _new_empty(rows, (keys.shape[0], dims), dtype=dtype)
        if keys is not None and operands.want_keys_gradient
        else None,
        _new_empty(rows, (anchors, dims), dtype=dtype)
        if positives is not None and operands.want_positives_gradient
        else None,
        _new_empty(rows, (), dtype=dtype) if operands.want_temperature_gradient else None,
    )


def allocate_quantiles(operands: Operands) -> Tensor:
    """Allocates the row quantiles."""
    return _new_empty(operands.views[0], (operands.anchors,), dtype=operands.dtype)


def _readable(operands: Operands) -> Operands:
    """The operands as plain tensors whose memory the kernels can read directly."""
    if _is_readable(operands):
        return operands
    threshold, value = _vector(operands.threshold), operands.threshold_value
    if threshold is not None and operands.threshold_rule != "given":
        value, threshold = float(threshold), None
    return operands._replace(
        views=[_plain(view) for view in operands.views],
        keys=None if operands.keys is None else _plain(operands.keys),
        positives=None if operands.positives is None else _plain(operands.positives),
        positive_index=_vector(operands.positive_index),
        ignored_index=_vector(operands.ignored_index),
        anchor_labels=_vector(operands.anchor_labels),
        key_labels=_vector(operands.key_labels),
        threshold=_number(threshold),
        weights=_vector(operands.weights),
        temperature=_number(_vector(operands.temperature)),
        threshold_value=value,
    )


def _is_readable(operands: Operands) -> bool:
    """Whether the operands are plain rows without other tensors, which is the common case."""
    for each in operands[3:TENSORS]:
        if each is not None:
            return False
    for each in (operands.keys, operands.positives, *operands.views):
        if each is not None and (type(each) not in PLAIN or _is_neg(each)):
            return False
    return True


def _vector(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _contiguous(_plain(tensor))


def _number(tensor: Tensor | None) -> Tensor | None:
    return tensor.float() if tensor is not None and tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _plain(tensor: Tensor) -> Tensor:
    # The imaginary part of a conjugate tensor holds the negated values in memory, marked by a flag.
    tensor = tensor if type(tensor) in PLAIN else _detach(tensor)
    return _resolve_neg(tensor) if _is_neg(tensor) else tensor


def _has_kernel(operands: Operands, choice: str) -> bool:
    """Whether to try the extension. It may still report that it has no kernel for the call."""
    rows = operands.views[0]
    kind = rows.device.type
    if choice == "auto" and kind == "cuda" and rows.dtype == torch.float64:
        return False  # there are no CUDA kernels for float64, which is documented: fall back without a warning
    return choice != "composite" and kind in ("cpu", "cuda")


def _ran(kernel: Callable[..., str | None], operands: Operands, outputs: object, choice: str) -> bool:
    """Runs a kernel of the extension. Returns False if there is none for the call."""
    rows = operands.views[0]

    def scratch(size: int) -> Tensor:
        return torch.empty((size,), dtype=torch.uint8, device=rows.device)

    tf32 = (choice == EMULATED or rows.device.type != "cpu") and _allows_tf32(rows)
    reason = kernel(operands, outputs, scratch, choice, tf32, torch.get_num_threads())
    if reason is not None:
        _note(reason)
    return reason is None


def _expect_composite(operands: Operands, choice: str) -> None:
    """Notes why torch's operations are used, unless the user asked for them or the docs say so.

    Raises:
        ValueError: `choice` does not run on the device.
    """
    rows = operands.views[0]
    _, reason = _core.backend_for(str(rows.device), str(rows.dtype), choice)
    if choice == "auto" and rows.device.type != "cuda":
        _note(reason.partition(": ")[2])


def _note(reason: str) -> None:
    if reason not in _fallbacks:
        _fallbacks.append(reason)
        warnings.warn(f"hex_ssl computes with torch's operations, in chunks: {reason}", RuntimeWarning, stacklevel=2)


def _allows_tf32(rows: Tensor) -> bool:
    if rows.dtype != torch.float32:
        return False
    matmul = torch.backends.cuda.matmul
    # Both `allow_tf32` and torch.set_float32_matmul_precision change `fp32_precision`. Unlike these two, it can always
    # be read. Releases before torch 2.9 do not have it.
    return bool(matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32)
