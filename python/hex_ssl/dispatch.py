"""Chooses what computes a call: the kernels of the extension or, if none fits, :mod:`hex_ssl.composite`.

torch allocates the results and the scratch memory of the CUDA kernels here. The extension allocates no torch memory.
"""

import warnings
from collections.abc import Callable
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
FIRST_VECTOR = Operands._fields.index("positive_index")
"""The operands before this one are matrices."""
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
    return _core.requested_backend()


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
    loss, statistics = join_directions(there[:2], back[:2], operands.one_loss_per_anchor)
    divisor: Tensor | float = 1.0
    if operands.reduction == "mean" and operands.weights is None:
        divisor = (2 * rows - statistics[-1]).clamp(min=1.0)
    loss = loss / divisor
    if there[2] is None:
        return loss, statistics, None, None, None, None
    gradient = torch.cat([there[2] + back[3], there[3] + back[2]]) / divisor  # type: ignore[operator]  # all are there
    temperature = None if there[5] is None else (there[5] + back[5]) / divisor  # type: ignore[operator]
    return loss, statistics, gradient, None, None, temperature


def join_directions(
    there: tuple[Tensor, Tensor], back: tuple[Tensor, Tensor], one_loss_per_anchor: bool
) -> tuple[Tensor, Tensor]:
    """Joins the losses (one for each anchor, or sums) and the statistics [6] of both directions of two towers."""
    loss = torch.cat([there[0], back[0]]) if one_loss_per_anchor else there[0] + back[0]
    *means, undefined = torch.stack([there[1], back[1]]).unbind(1)
    return loss, torch.stack([*(each.mean() for each in means), undefined.sum()])


def _compute(
    operands: Operands,
    room: Callable[[Operands], Results],
    kernel: Callable[..., str | None],
    fallback: Callable[[Operands], Results],
) -> Results:
    with torch._C.DisableTorchFunction():
        operands = operands if _is_readable(operands) else _readable(operands)
        choice, rows = _core.requested_backend(), operands.views[0]
        if choice != "composite" and (rows.is_cpu or _has_cuda_kernels(rows, choice)):

            def scratch(size: int) -> Tensor:
                return torch.empty((size,), dtype=torch.uint8, device=rows.device)

            results, tf32 = room(operands), allows_tf32(rows, choice)
            reason = kernel(operands, results, scratch, choice, tf32, torch.get_num_threads())
            if reason is None:
                return results
            _note(reason)
        else:
            _expect_composite(rows, choice)
        _core.check(operands)
        with without_autocast(rows):
            return fallback(operands)


def allocate(operands: Operands) -> Evaluation:
    """Allocates the results on the device of the operands, in the dtype of the arithmetic. None for unwanted ones."""
    views, keys, positives = operands[:3]
    rows, dtype, each = views[0], operands.dtype, operands.one_loss_per_anchor
    length, dims = rows.shape
    anchors = len(views) * length
    loss = _new_empty(rows, (anchors,) if each else (), dtype=dtype)
    statistics = _new_empty(rows, 6, dtype=dtype)
    if each or not operands.want_gradient:
        return loss, statistics, None, None, None, None
    for_anchors = _new_empty(rows, anchors, dims, dtype=dtype)
    for_keys = for_positives = for_temperature = None
    if keys is not None and operands.want_keys_gradient:
        for_keys = _new_empty(rows, keys.shape[0], dims, dtype=dtype)
    if positives is not None and operands.want_positives_gradient:
        for_positives = _new_empty(rows, positives.shape[0], dims, dtype=dtype)
    if operands.want_temperature_gradient:
        for_temperature = _new_empty(rows, (), dtype=dtype)
    return loss, statistics, for_anchors, for_keys, for_positives, for_temperature


def allocate_quantiles(operands: Operands) -> Tensor:
    """Allocates the row quantiles."""
    return _new_empty(operands.views[0], (operands.anchors,), dtype=operands.dtype)


def _readable(operands: Operands) -> Operands:
    """The operands as plain tensors whose memory the kernels can read directly."""
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
    for other in operands[FIRST_VECTOR:TENSORS]:
        if other is not None:
            return False
    keys, positives = operands.keys, operands.positives
    for rows in operands.views if keys is None else (*operands.views, keys, positives):
        if rows is not None and (type(rows) not in PLAIN or _is_neg(rows)):
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


def _has_cuda_kernels(rows: Tensor, choice: str) -> bool:
    """Whether to try the CUDA kernels. The extension may still report that it has none for the call."""
    # There are none for float64, which is documented: "auto" falls back without a warning.
    return rows.is_cuda and not (choice == "auto" and rows.dtype == torch.float64)


def _expect_composite(rows: Tensor, choice: str) -> None:
    """Notes why torch's operations are used, unless the user asked for them or the docs say so.

    Raises:
        ValueError: `choice` does not run on the device.
    """
    _, reason = _core.backend_for(str(rows.device), str(rows.dtype), choice)
    if choice == "auto" and rows.device.type != "cuda":
        _note(reason.partition(": ")[2])


def _note(reason: str) -> None:
    if reason not in _fallbacks:
        _fallbacks.append(reason)
        warnings.warn(f"hex_ssl computes with torch's operations, in chunks: {reason}", RuntimeWarning, stacklevel=2)


def allows_tf32(rows: Tensor, backend: str) -> bool:
    """Whether CUDA kernels compute, and torch's settings allow them to round these rows to tf32 for products."""
    if rows.dtype != torch.float32 or (rows.is_cpu and backend != EMULATED):
        return False
    matmul = torch.backends.cuda.matmul
    # Both `allow_tf32` and torch.set_float32_matmul_precision change `fp32_precision`. Unlike these two, it can always
    # be read. Releases before torch 2.9 do not have it.
    return bool(matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32)
