"""The momentum encoder: a copy of a network that follows it slowly and computes targets and keys."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def cosine_momentum(step: int, total_steps: float, start: float, final: float) -> float:
    """The momentum of an update, on a half cosine from `start` to `final`::

        final - (final - start) * (1 + cos(pi * step / total_steps)) / 2

    Args:
        step: Number of optimizer steps before this update, from 0.
        total_steps: Number of optimizer steps of the whole run. Infinite for a run without end: the momentum then stays
            at `start`.
        start: The momentum of the first update.
        final: The momentum at the end of the run.

    Returns:
        The momentum. It stays at `final` after `total_steps`.

    Source:
        BYOL (Grill et al. 2020, arXiv 2006.07733), section 3.3.

    Example:
        >>> [round(cosine_momentum(step, 4, 0.9, 1.0), 3) for step in range(5)]
        [0.9, 0.915, 0.95, 0.985, 1.0]
    """
    progress = min(step / total_steps, 1.0) if total_steps > 0 else 1.0
    return final - (final - start) * (1 + math.cos(math.pi * progress)) / 2


class MomentumEncoder(nn.Module):
    """A copy of a network whose weights follow it: copy = momentum * copy + (1 - momentum) * network.

    Only the parameters follow. The copy has its own buffers, such as batch norm's statistics, from the batches that it
    has seen. The copy gets no gradient. The momentum is computed from the step. The state dict holds the momentum of
    the last update, for logging.

    Args:
        online: The network to follow. It is copied, and no reference to it is kept.
        start: Momentum of the first update, in [0, 1].
        final: Momentum at the end of the run, in [0, 1]. It is reached along a half cosine.

    Attributes:
        momentum: The momentum of the last update. `start` before the first update.

    Raises:
        ValueError: A momentum is out of its range.

    Source:
        MoCo (He et al. 2020, arXiv 1911.05722), equation 2; BYOL (Grill et al. 2020, arXiv 2006.07733), section 3.1.

    Example:
        >>> online = nn.Linear(2, 2)
        >>> follower = MomentumEncoder(online, start=0.75, final=1.0)
        >>> before = online.weight.detach().clone()
        >>> online.weight.data += 1.0
        >>> follower.update(online, step=0, total_steps=10)
        >>> bool((follower.encoder.weight - before).allclose(torch.tensor(0.25)))
        True
    """

    def __init__(self, online: nn.Module, start: float = 0.99, final: float = 1.0) -> None:
        super().__init__()
        for name, value in (("start", start), ("final", final)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"expected `{name}` to be in [0, 1], but got {value}")
        self.encoder = copy.deepcopy(online).requires_grad_(False)
        self.start = start
        self.final = final
        self.momentum = start

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The output of the copy for the images."""
        return self.encoder(images)

    @torch.no_grad()
    def update(self, online: nn.Module, step: int, total_steps: float) -> None:
        """Moves the weights towards those of the network. Call it after each optimizer step.

        Args:
            online: The network to follow, with the same parameters as the network that was copied.
            step: Number of optimizer steps before the last one, from 0.
            total_steps: Number of optimizer steps of the whole run.
        """
        self.momentum = cosine_momentum(step, total_steps, self.start, self.final)
        average = get_ema_multi_avg_fn(self.momentum)
        average(list(self.encoder.parameters()), list(online.parameters()), step)

    def get_extra_state(self) -> dict[str, float]:
        """The momentum of the last update, for the state dict. A resumed run logs it before its first update."""
        return {"momentum": self.momentum}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Takes the momentum from a state dict."""
        self.momentum = state["momentum"]
