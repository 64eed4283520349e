"""Control over the dtype in which torch's operations compute."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Converts bfloat16 and float16 to float32. float32 and float64 stay as they are.

    The 8 or 11 significant bits of 16-bit types are too few for variances, correlations and sums over a batch.
    """
    return tuple(each.float() if each.dtype in (torch.bfloat16, torch.float16) else each for each in tensors)


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """A context that turns autocast off for the tensor's device. It does nothing on devices without autocast."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if has_autocast(device) else nullcontext()


def has_autocast(device: str) -> bool:
    """Whether there is autocast for a type of device. torch.compile traces it, unlike torch's function."""
    return is_autocast_available(device)


# torch.compile cannot trace torch's function. With this mark, it runs the function while tracing.
has_autocast._dynamo_marked_constant = True  # type: ignore[attr-defined]
