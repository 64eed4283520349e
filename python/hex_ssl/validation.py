"""Checks of the types, shapes, dtypes and devices that a user passes, before anything is converted, gathered or traced.

Each error names the argument, what was expected and what came. The operators can be called without these checks. So
each evaluation checks that its operands fit together, in `src/operands/checks.rs`, and the ranges of the numbers, in
`src/problem.rs`.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from hex_ssl._extension import _core
from hex_ssl.hints import (
    hint_for_integers,
    hint_for_length,
    hint_for_numbers,
    hint_for_object,
    hint_for_rows,
    hint_for_shape,
    hint_for_temperature,
)
from hex_ssl.precision import has_autocast

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_settings(
    *,
    temperature: float | Tensor,
    reduction: str,
    formulation: str = "importance",
    beta: float = 0.0,
    tau_plus: float = 0.0,
    loss: type[nn.Module] | None = None,
) -> None:
    """Checks the numbers and names of a loss before the first evaluation. `loss` is its class, if one is being made.

    Raises:
        TypeError: A number is not a number, or a name is not a string.
        ValueError: One is out of its range, or is unknown.
    """
    check_types(temperature, formulation, beta, tau_plus, reduction, loss)
    check_ranges(temperature, formulation, beta, tau_plus, reduction)


def check_ranges(temperature: float | Tensor, formulation: str, beta: float, tau_plus: float, reduction: str) -> None:
    """Checks the ranges of numbers and the names of a loss whose types :func:`check_types` has checked.

    Raises:
        ValueError: One is out of its range, or is unknown.
    """
    # The CPU kernel checks the value of a tensor. On a GPU nothing checks it, because that would wait for the device.
    number = 1.0 if isinstance(temperature, Tensor) else temperature
    _core.check_settings(number, formulation, beta, tau_plus, reduction)


def check_types(
    temperature: float | Tensor,
    formulation: str,
    beta: float,
    tau_plus: float,
    reduction: str,
    loss: type[nn.Module] | None = None,
) -> None:
    """Checks the types of the numbers and names of a loss. The temperature may also be a tensor.

    `loss` is the class of the loss, if one is being made, for the error's hint.

    Raises:
        TypeError: One has the wrong type.
        ValueError: The temperature is a tensor of the wrong shape or dtype, or the formulation is that of another loss.
    """
    numbers_alone = type(temperature) is type(beta) is type(tau_plus) is float
    if numbers_alone and type(formulation) is type(reduction) is str and formulation != "supervised":
        return  # the common case
    if isinstance(temperature, Tensor):
        _check_tensor("temperature", temperature)
        if temperature.dim() != 0 or temperature.dtype not in DTYPES:
            raise ValueError(
                "expected `temperature` to be a number, or a tensor of shape [] and a floating-point dtype, but got "
                f"shape {list(temperature.shape)}, {_dtype(temperature.dtype)}{hint_for_temperature(temperature, loss)}"
            )
    else:
        check_number("temperature", temperature)
    check_number("beta", beta)
    check_number("tau_plus", tau_plus)
    check_name("formulation", formulation)
    if formulation == "supervised":
        raise ValueError(
            'expected `formulation` to be one of "importance", "official", "decoupled", "elimination", but got '
            '"supervised": '
            "SupCon is hex_ssl.SupConLoss"
        )
    check_name("reduction", reduction)


def check_number(name: str, value: float) -> None:
    """Checks that an argument is a number. Tensors are not accepted, because their gradient would be lost.

    Raises:
        TypeError: It is not a number.
    """
    # The first check is fast. `isinstance` with an abstract class is slow. A bool is an Integral, but not meant as one.
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"expected `{name}` to be a number, but got {value!r}")


def check_whole(name: str, value: int) -> None:
    """Checks that an argument is a whole number of at least 0.

    Raises:
        TypeError: It is not a whole number.
        ValueError: It is negative.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"expected `{name}` to be a whole number, but got {value!r}")
    if value < 0:
        raise ValueError(f"expected `{name}` to be at least 0, but got {value}")


def check_name(name: str, value: str) -> None:
    """Checks that an argument is a string.

    Raises:
        TypeError: It is not a string.
    """
    if not isinstance(value, str):
        raise TypeError(f"expected `{name}` to be a string, but got {value!r}")


def check_at_least(name: str, value: float, lowest: float) -> float:
    """Checks that an argument is a finite number of at least `lowest`.

    Returns:
        `value`.

    Raises:
        TypeError: It is not a number.
        ValueError: It is below `lowest`, or not finite.
    """
    check_number(name, value)
    if not lowest <= value < math.inf:
        raise ValueError(f"expected `{name}` to be at least {lowest:g}, but got {value}")
    return value


def check_views(views: Sequence[Tensor]) -> None:
    """Checks that the views are matrices of the same shape, dtype and device. Under autocast the dtypes may differ.

    Raises:
        TypeError: A view is not a tensor.
        ValueError: A view has a different shape, dtype or device.
    """
    z1, z2, *more_views = views
    check_rows("z1", z1)
    check_like("z2", z2, "z1", z1, same_rows=True)
    for number, view in enumerate(more_views):
        check_like(f"more_views[{number}]", view, "z1", z1, same_rows=True)


def check_rows(name: str, rows: Tensor) -> None:
    """Checks that `rows` is a matrix of floating-point numbers.

    Raises:
        TypeError: It is not a tensor.
        ValueError: It is not a dense matrix, or its dtype is not one of `DTYPES`.
    """
    _check_tensor(name, rows)
    if rows.dim() != 2:
        shape = f"{list(rows.shape)}{hint_for_shape(name, rows)}"
        raise ValueError(f"expected `{name}` to have shape [rows, dimensions], but got {shape}")
    if rows.dtype not in DTYPES:
        choices = ", ".join(_dtype(dtype) for dtype in DTYPES)
        dtype = f"{_dtype(rows.dtype)}{hint_for_numbers(name, rows)}"
        raise ValueError(f"expected `{name}` to have one of the dtypes {choices}, but got {dtype}")


def check_like(name: str, rows: Tensor, model_name: str, model: Tensor, *, same_rows: bool = False) -> None:
    """Checks that `rows` is a matrix like `model`: same columns, dtype and device, and same rows if `same_rows`.

    `model` must have passed :func:`check_rows`.

    Raises:
        TypeError: It is not a tensor.
        ValueError: It differs from `model`.
    """
    _check_tensor(name, rows)
    if rows.shape == model.shape and rows.dtype == model.dtype and rows.device == model.device:
        return  # the common case
    check_rows(name, rows)
    if same_rows and rows.shape != model.shape:
        raise ValueError(
            f"expected `{name}` to have shape {list(model.shape)} like `{model_name}`, but got {list(rows.shape)}"
            f"{hint_for_rows(rows, model)}"
        )
    if rows.shape[1] != model.shape[1]:
        raise ValueError(
            f"expected `{name}` to have {model.shape[1]} columns like `{model_name}`, but got shape {list(rows.shape)}"
        )
    if rows.device != model.device:
        raise ValueError(
            f"expected `{name}` on {model.device} like `{model_name}`, but got it on {rows.device}; "
            f"write {name}.to({model_name}.device)"
        )
    if rows.dtype != model.dtype and _computed_dtype(rows) != _computed_dtype(model):
        raise ValueError(
            f"expected `{name}` to have dtype {_dtype(model.dtype)} like `{model_name}`, but got {_dtype(rows.dtype)}; "
            f"write {name}.to({model_name}.dtype)"
        )


def check_integers(name: str, integers: Tensor, rows: int, like: Tensor, *, columns: bool = False) -> Tensor:
    """Checks labels or row numbers, and converts them to int64.

    Args:
        name: The name of the argument.
        integers: The labels or row numbers, of any integer dtype.
        rows: The expected length.
        like: A tensor on the expected device.
        columns: Whether a second dimension is allowed.

    Returns:
        `integers` as int64.

    Raises:
        TypeError: `integers` is not a tensor.
        ValueError: The dtype, shape or device is wrong.
    """
    _check_tensor(name, integers)
    if integers.dtype not in INTEGERS:
        dtype = f"{_dtype(integers.dtype)}{hint_for_integers(name, integers)}"
        raise ValueError(f"expected `{name}` to have an integer dtype, but got {dtype}")
    expected = [rows, *integers.shape[1:]] if columns and integers.dim() == 2 else [rows]
    if list(integers.shape) != expected:
        shape = f"{list(integers.shape)}{hint_for_length(name, integers, rows)}"
        raise ValueError(f"expected `{name}` to have shape {expected}, but got {shape}")
    if integers.device != like.device:
        device = f"{integers.device}; write {name}.to({str(like.device)!r})"
        raise ValueError(f"expected `{name}` on {like.device}, but got it on {device}")
    return integers.to(torch.int64)


def check_index(name: str, index: Tensor, anchors: Tensor) -> Tensor:
    """Checks row numbers of keys, [M] or [M, P], and converts them to int64.

    Returns:
        `index` as int64 [M, P].

    Raises:
        TypeError, ValueError: As :func:`check_integers`.
    """
    index = check_integers(name, index, anchors.shape[0], anchors, columns=True)
    return index.unsqueeze(1) if index.dim() == 1 else index


def check_own_negatives(rows: Tensor, anchors: Tensor) -> None:
    """Checks the own negatives of each anchor, [M, H, D].

    Raises:
        TypeError: They are not a tensor.
        ValueError: They have a different shape, dtype or device.
    """
    _check_tensor("own_negatives", rows)
    count, dims = anchors.shape
    if rows.dim() != 3 or (rows.shape[0], rows.shape[2]) != (count, dims):
        raise ValueError(
            f"expected `own_negatives` to have shape [{count}, H, {dims}], H for each of the `anchors`, but got "
            f"{list(rows.shape)}"
        )
    check_like("own_negatives", rows[:1].flatten(0, 1), "anchors", anchors)  # the first: all would be a copy


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        kind = f"{type(tensor).__name__}{hint_for_object(name, tensor)}"
        raise TypeError(f"expected `{name}` to be a tensor, but got {kind}")
    # Check this before any code reads the shape, which a nested tensor does not have.
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "a nested one" if tensor.is_nested else f"one of layout {tensor.layout}"
        raise ValueError(f"expected `{name}` to be a dense tensor, but got {kind}")


def _computed_dtype(rows: Tensor) -> torch.dtype:
    # Under autocast, rows of different dtypes are converted to the widest one. float64 is excepted.
    device = rows.device.type
    if rows.dtype != torch.float64 and has_autocast(device) and torch.is_autocast_enabled(device):
        return torch.float32
    return rows.dtype


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
