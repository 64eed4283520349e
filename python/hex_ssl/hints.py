"""Ends of error messages that say what to write instead. Each is empty if no mistake is likely.

Only calls that fail come here, so nothing in this module needs to be fast.
"""

import inspect
from numbers import Number
from typing import Any

import torch
from torch import Tensor, nn


def hint_for_object(name: str, found: Any) -> str:
    """What to write if an argument should be a tensor, but is something else."""
    if isinstance(found, Number):
        return "; write numbers by name, such as temperature=0.1"
    if isinstance(found, (list, tuple)) and found and isinstance(found[0], Tensor):
        if name in ("z1", "z2"):
            return f"; write *{name}"
        return f"; write torch.{'cat' if name == 'keys' else 'stack'}({name})"
    if isinstance(found, (list, tuple)) or type(found).__module__ == "numpy":
        return f"; write torch.as_tensor({name})"
    return ""


def hint_for_shape(name: str, found: Tensor) -> str:
    """What to write if an argument should be a matrix, but has another shape."""
    if found.dim() == 1 and not (found.is_floating_point() or found.is_complex()):
        return "; write labels by name, labels=..., and with one view to hex_ssl.SupConLoss"
    if found.dim() == 1:
        return f"; for a batch of one, write {name}[None]"
    if found.dim() == 3:
        return f"; for stacked views, write *{name}.unbind(1), or for one view {name}.flatten(1)"
    return f"; write {name}.flatten(1)" if found.dim() > 3 else ""


def hint_for_rows(found: Tensor, model: Tensor) -> str:
    """What to write if two arguments should have the same rows, but have others."""
    return "; row i of each is sample i" if found.shape[1] == model.shape[1] else ""


def hint_for_numbers(name: str, found: Tensor) -> str:
    """What to write if an argument should have floating-point numbers, but has others."""
    if found.is_complex() or found.is_floating_point():
        return ""
    return f"; write {name}.dequantize()" if found.is_quantized else f"; write {name}.float()"


def hint_for_integers(name: str, found: Tensor) -> str:
    """What to write if an argument should have integers, but has others."""
    if found.dtype == torch.bool and name == "ignored_index":
        return f"; for a mask, write torch.where({name}, torch.arange({name}.shape[1]), -1)"
    if found.dtype == torch.bool and name == "positive_index":
        return f"; for a mask with one True in each row, write {name}.int().argmax(1)"
    return f"; for one-hot labels, write {name}.argmax(1)" if found.dim() == 2 else f"; write {name}.long()"


def hint_for_length(name: str, found: Tensor, rows: int) -> str:
    """What to write if an argument should have one number for each of `rows`, but has another shape."""
    if found.dim() == 2 and found.shape[0] == rows:
        return f"; write {name}.squeeze(1)" if found.shape[1] == 1 else f"; for one-hot labels, write {name}.argmax(1)"
    if rows and found.dim() == 1 and found.shape[0] > rows and found.shape[0] % rows == 0:
        return f"; one for each sample, not for each view: write {name}[:{rows}]"
    return ""


def hint_for_temperature(found: Tensor, loss: type[nn.Module] | None) -> str:
    """What to write if the temperature should be a number, but is a tensor of another shape.

    `loss` is the class of the loss, if one is being made.
    """
    if found.numel() == 1 and found.is_floating_point():
        return "; write temperature.squeeze()"
    if found.dim() < 2 or loss is None:
        return ""
    _, *parameters = inspect.signature(loss.forward).parameters.values()
    needed = [each for each in parameters if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]
    named = (f"{each.name}={each.name}" if each.kind is each.KEYWORD_ONLY else each.name for each in needed)
    return f"; the loss is made before it is called: write {loss.__name__}()({', '.join(named)})"
