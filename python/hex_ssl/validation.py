"""Checks of tensors and numbers before anything runs: what was expected, what came, in the caller's names."""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available

FORMULATIONS = ("importance", "official", "decoupled")
REDUCTIONS = ("mean", "sum", "none")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_settings(
    *, temperature: float, reduction: str, formulation: str = "importance", beta: float = 0.0, tau_plus: float = 0.0
) -> None:
    """Checks the loss's numbers and choices.

    Raises:
        TypeError: A number is none.
        ValueError: One is out of its range.
    """
    for name, value in (("temperature", temperature), ("beta", beta), ("tau_plus", tau_plus)):
        _check_number(name, value)
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"expected `temperature` to be a positive number, but got {temperature}")
    _check_choice("formulation", formulation, FORMULATIONS)
    if not 0.0 <= beta < math.inf:
        raise ValueError(f"expected `beta` to be at least 0, but got {beta}")
    if not 0.0 <= tau_plus < 1.0:
        raise ValueError(f"expected `tau_plus` to be in [0, 1), but got {tau_plus}")
    _check_choice("reduction", reduction, REDUCTIONS)


def check_at_least(name: str, value: float, lowest: float) -> float:
    """Checks a finite number from below.

    Returns:
        `value`.

    Raises:
        TypeError: It is no number.
        ValueError: It is below `lowest`, or not finite.
    """
    _check_number(name, value)
    if not lowest <= value < math.inf:
        raise ValueError(f"expected `{name}` to be at least {lowest:g}, but got {value}")
    return value


def check_views(views: Sequence[Tensor]) -> None:
    """Checks that the views are matrices of one shape, dtype and device.

    Raises:
        TypeError: One is not a tensor.
        ValueError: One does not fit.
    """
    z1, z2, *more_views = views
    check_rows("z1", z1)
    check_like("z2", z2, "z1", z1, same_rows=True)
    for number, view in enumerate(more_views):
        check_like(f"more_views[{number}]", view, "z1", z1, same_rows=True)


def check_rows(name: str, rows: Tensor) -> None:
    """Checks that `rows` is a matrix of floating point numbers.

    Raises:
        TypeError: It is not a tensor.
        ValueError: It has another number of dimensions or another dtype.
    """
    _check_tensor(name, rows)
    if rows.dim() != 2:
        raise ValueError(f"expected `{name}` to have shape [rows, dimensions], but got {list(rows.shape)}")
    if rows.dtype not in DTYPES:
        choices = ", ".join(_dtype(dtype) for dtype in DTYPES)
        raise ValueError(f"expected `{name}` to have one of the dtypes {choices}, but got {_dtype(rows.dtype)}")


def check_like(name: str, rows: Tensor, model_name: str, model: Tensor, *, same_rows: bool = False) -> None:
    """Checks that `rows` is a matrix with the columns (and rows, if `same_rows`), dtype and device of `model`.

    Raises:
        TypeError: It is not a tensor.
        ValueError: It is another.
    """
    check_rows(name, rows)
    if same_rows and rows.shape != model.shape:
        raise ValueError(
            f"expected `{name}` to have shape {list(model.shape)} like `{model_name}`, but got {list(rows.shape)}"
        )
    if rows.shape[1] != model.shape[1]:
        raise ValueError(
            f"expected `{name}` to have {model.shape[1]} columns like `{model_name}`, but got shape {list(rows.shape)}"
        )
    if rows.device != model.device:
        raise ValueError(f"expected `{name}` on {model.device} like `{model_name}`, but got it on {rows.device}")
    if rows.dtype != model.dtype and _computed_dtype(rows) != _computed_dtype(model):
        raise ValueError(
            f"expected `{name}` to have dtype {_dtype(model.dtype)} like `{model_name}`, but got {_dtype(rows.dtype)}"
        )


def check_integers(name: str, integers: Tensor, rows: int, like: Tensor, *, columns: bool = False) -> Tensor:
    """Checks labels or row numbers.

    Args:
        name: The caller's name for them.
        integers: Any integer dtype.
        rows: The length expected.
        like: Whose device is expected.
        columns: Whether there may be a second dimension.

    Returns:
        `integers` in int64.

    Raises:
        TypeError: They are not a tensor.
        ValueError: They do not fit.
    """
    _check_tensor(name, integers)
    if integers.dtype not in INTEGERS:
        raise ValueError(f"expected `{name}` to have an integer dtype, but got {_dtype(integers.dtype)}")
    expected = [rows, *integers.shape[1:]] if columns and integers.dim() == 2 else [rows]
    if list(integers.shape) != expected:
        raise ValueError(f"expected `{name}` to have shape {expected}, but got {list(integers.shape)}")
    if integers.device != like.device:
        raise ValueError(f"expected `{name}` on {like.device}, but got it on {integers.device}")
    return integers.to(torch.int64)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected `{name}` to be a tensor, but got {type(tensor).__name__}")
    # Before its shape is asked for, which a nested tensor does not have.
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "a nested one" if tensor.is_nested else f"one of layout {tensor.layout}"
        raise ValueError(f"expected `{name}` to be a dense tensor, but got {kind}")


def _check_number(name: str, value: float) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"expected `{name}` to be a number, but got {value!r}")


def _check_choice(name: str, choice: str, choices: tuple[str, ...]) -> None:
    if choice not in choices:
        listed = ", ".join(f'"{each}"' for each in choices)
        raise ValueError(f'expected `{name}` to be one of {listed}, but got "{choice}"')


def _computed_dtype(rows: Tensor) -> torch.dtype:
    # Under autocast the op casts its inputs to float32, all but float64 ones: views may differ there.
    device = rows.device.type
    if rows.dtype != torch.float64 and is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.float32
    return rows.dtype


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
