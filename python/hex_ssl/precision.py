"""The dtype that torch's operations compute in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half types as float32; float32 and float64 as they are.

    Variances, correlations and sums over a batch lose too much in 8 or 11 bits.
    """
    return tuple(each.float() if each.dtype in (torch.bfloat16, torch.float16) else each for each in tensors)


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Around operations that autocast would do in a half type, on devices that have it."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext()
