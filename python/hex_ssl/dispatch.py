"""Who computes a call: the kernels of the extension, or :mod:`hex_ssl.composite` where there is none.

All memory is allocated here, by torch: the extension allocates none.
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
"""The CUDA kernels on CPU tensors, for the tests, from the library that HEX_SSL_CUDA_EMULATOR names."""

Evaluation = composite.Evaluation
Results = TypeVar("Results")

TENSORS = Operands._fields.index("offset")
"""So many of the operands are tensors, and come first."""
PLAIN = (Tensor, torch.nn.Parameter)
"""The types of tensors without code of their own."""

# The methods of torch's own type in C: a subclass, or code that patches `torch.Tensor`, cannot change them.
_detach, _is_neg = torch._C.TensorBase.detach, torch._C.TensorBase.is_neg
_resolve_neg, _contiguous = torch._C.TensorBase.resolve_neg, torch._C.TensorBase.contiguous
_new_empty = torch._C.TensorBase.new_empty

_fallbacks: list[str] = []


def backend() -> str:
    """The backend asked for: the environment variable HEX_SSL_BACKEND, read at each call; "auto" where unset.

    Returns:
        "auto" (the fastest that fits the inputs), "cpu" or "cuda" (the fused kernels), or "composite" (torch's own
        operations).

    Raises:
        ValueError: The variable holds something else.

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
    """Why calls with backend "auto" fell back on torch's operations so far, each reason once, in order."""
    return list(_fallbacks)


def evaluate(operands: Operands) -> Evaluation:
    """Loss, statistics and gradients, outside of any autograd graph.

    Raises:
        TypeError, ValueError: An operand or a setting does not fit.
        RuntimeError: A device fails.
    """
    if operands.towers and not _has_kernel_of_towers(operands):
        return _both_directions(operands)
    return _compute(operands, allocate, _core.evaluate, composite.evaluate)


def row_quantiles(operands: Operands) -> Tensor:
    """Each anchor's quantile of its row of similarities, [M]; the operands as of `quantile_operands`.

    Raises:
        TypeError, ValueError, RuntimeError: As :func:`evaluate`.
    """
    return _compute(operands, allocate_quantiles, _core.row_quantiles, composite.row_quantiles)


def _has_kernel_of_towers(operands: Operands) -> bool:
    """The CPU kernel alone looks at each pair once for both directions."""
    return operands.views[0].device.type == "cpu" and backend() in ("auto", "cpu")


def _both_directions(operands: Operands) -> Evaluation:
    """Two towers as two evaluations, each of one tower's rows against the other's."""
    composite.check_rows(operands)  # in the caller's names
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
    """The statistics [6] of two evaluations of as many anchors each."""
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
    """Room for the results, beside the operands and in the dtype of the arithmetic. None where not wanted."""
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
    """Room for the row quantiles."""
    return _new_empty(operands.views[0], (operands.anchors,), dtype=operands.dtype)


def _readable(operands: Operands) -> Operands:
    """The operands as plain tensors whose memory can be read as it stands."""
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
    """Whether they are rows alone, as they stand: most calls."""
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
    # The memory of the imaginary part of a conjugate is to be negated when it is read.
    tensor = tensor if type(tensor) in PLAIN else _detach(tensor)
    return _resolve_neg(tensor) if _is_neg(tensor) else tensor


def _has_kernel(operands: Operands, choice: str) -> bool:
    """Whether the extension is asked: it says itself where it has no kernel for a call."""
    rows = operands.views[0]
    kind = rows.device.type
    if choice == "auto" and kind == "cuda" and rows.dtype == torch.float64:
        return False  # tensor cores are slow in float64: documented, and no surprise
    return choice != "composite" and kind in ("cpu", "cuda")


def _ran(kernel: Callable[..., str | None], operands: Operands, outputs: object, choice: str) -> bool:
    """Runs a kernel of the extension. False where there is none for the call."""
    rows = operands.views[0]

    def scratch(size: int) -> Tensor:
        return torch.empty((size,), dtype=torch.uint8, device=rows.device)

    tf32 = (choice == EMULATED or rows.device.type != "cpu") and _allows_tf32(rows)
    reason = kernel(operands, outputs, scratch, choice, tf32, torch.get_num_threads())
    if reason is not None:
        _note(reason)
    return reason is None


def _expect_composite(operands: Operands, choice: str) -> None:
    """Notes why torch's operations compute, unless that was asked for or is documented.

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
    # The setting that both `allow_tf32` and torch.set_float32_matmul_precision change, and, unlike these, one that may
    # always be read. torch before 2.9 has the two alone.
    return bool(matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32)
