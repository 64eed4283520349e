"""The momentum encoder: a slowly following copy that gives targets and keys."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def cosine_momentum(step: int, total_steps: float, start: float, final: float) -> float:
    """The momentum of an update.

        final - (final - start) * (1 + cos(pi * step / total_steps)) / 2

    Args:
        step: Optimizer steps done before it, from 0.
        total_steps: Those of the whole run; infinite where there is no end, so that the momentum stays `start`.
        start: The momentum of the first update.
        final: That after the last.

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

    The weights alone: the buffers, such as batch norm's statistics, are the copy's own, from the batches that it saw.
    It gets no gradient. The momentum follows from the step; the state dict holds that of the last update, to be logged.

    Args:
        online: The network to follow; not kept.
        start: Momentum of the first update, in [0, 1].
        final: Momentum at the end of the run, in [0, 1], reached on half a cosine.

    Attributes:
        momentum: That of the last update; `start` before the first.

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
        """What the copy makes of the images."""
        return self.encoder(images)

    @torch.no_grad()
    def update(self, online: nn.Module, step: int, total_steps: float) -> None:
        """One step after the network.

        Args:
            online: The network to follow, with the parameters of the one that was copied.
            step: Optimizer steps done before the one just done.
            total_steps: Those of the whole run.
        """
        self.momentum = cosine_momentum(step, total_steps, self.start, self.final)
        average = get_ema_multi_avg_fn(self.momentum)
        average(list(self.encoder.parameters()), list(online.parameters()), step)

    def get_extra_state(self) -> dict[str, float]:
        """For the state dict: the momentum of the last update, which a resumed run logs before its first."""
        return {"momentum": self.momentum}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """From the state dict."""
        self.momentum = state["momentum"]
