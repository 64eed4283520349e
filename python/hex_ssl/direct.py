"""The usual call of a loss on the shortest way to the kernels: two or more views, and nothing else.

:mod:`hex_ssl.ops` computes the same for every call. Each of its steps is short. But for a few rows, all of them
together take as long as the CPU kernel and autograd, and longer than a GPU takes.
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from hex_ssl._extension import _core
from hex_ssl.contrast import Settings
from hex_ssl.dispatch import EMULATED, allows_tf32
from hex_ssl.operands import Operands
from hex_ssl.ops import known_gradients

_new_empty = torch._C.TensorBase.new_empty

NO_OTHERS = (None,) * (Operands._fields.index("offset") - 1)
"""The operands that are tensors, without the views."""


def evaluate_directly(views: list[Tensor], settings: Settings) -> tuple[Tensor, Tensor] | None:
    """Loss and statistics [6], if the call is the usual one: plain tensors, and only autograd observes them.

    Args:
        views: The views as the user passed them. They need no checks before.
        settings: The settings. Labels are not given.

    Returns:
        The loss and the statistics. None for any other call, also for wrong views, and if no fused kernel computes it.

    Raises:
        ValueError: A number is out of its range or, on the CPU, a row is all zeros or not finite.
    """
    if torch.compiler.is_compiling() or _is_observed():
        return None
    rule, value, *_, temperature, reduction = settings
    if rule == "labels" or reduction == "none" or isinstance(value, Tensor) or isinstance(temperature, Tensor):
        return None
    backend, usual = _core.requested_backend(), _core.usual_views(views)
    if usual is None:
        return None
    anchors, dims, needs_gradient = usual
    first, recorded = views[0], needs_gradient and torch.is_grad_enabled()
    if backend not in ("auto", EMULATED, "cpu" if first.is_cpu else "cuda"):
        return None
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    loss, statistics = _new_empty(first, (), dtype=dtype), _new_empty(first, 6, dtype=dtype)
    gradient = _new_empty(first, anchors, dims, dtype=dtype) if recorded else None
    operands, outputs = (views, *NO_OTHERS, 0, *settings, False), (loss, statistics, gradient, None, None, None)

    def scratch(size: int) -> Tensor:
        return _new_empty(first, size, dtype=torch.uint8)

    tf32 = allows_tf32(first, backend)
    if _core.evaluate(operands, outputs, scratch, backend, tf32, torch.get_num_threads()) is not None:
        return None
    if gradient is not None:
        loss, _ = known_gradients((loss, gradient), *views)
    return loss, statistics


def _is_observed() -> bool:
    """Whether a mode, a transform, forward-mode AD or a trace takes part."""
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._is_tracing()
    )
