"""Base classes of the loss modules."""

from typing import Any, ClassVar

from torch import Tensor, nn

from hex_ssl.choices import Formulation, Reduction
from hex_ssl.contrast import Settings
from hex_ssl.distributed import check_gathering
from hex_ssl.functional import NO_HIERARCHY, loss_of_views
from hex_ssl.statistics import Statistics
from hex_ssl.thresholds import FixedThreshold
from hex_ssl.validation import check_settings


class LossWithStatistics(nn.Module):
    """A loss that keeps the statistics of its last forward."""

    def __init__(self) -> None:
        super().__init__()
        self._last = LastForward()

    @property
    def statistics(self) -> Statistics | None:
        """The :class:`Statistics` of the last forward. None before the first forward."""
        found = self._last.statistics
        return None if found is None else Statistics(*found.unbind())


class LastForward:
    """Holds the statistics of a forward. Setting an attribute of an `nn.Module` instead would be slow."""

    def __init__(self) -> None:
        self.statistics: Tensor | None = None


class SimpleLoss(nn.Module):
    """A loss with a temperature, a reduction and a choice of the processes. All may be changed between two forwards."""

    shown: ClassVar[tuple[str, ...]] = ("temperature", "gather_distributed", "reduction")
    """The settings that `repr` shows."""

    def __init__(
        self, temperature: float | Tensor, gather_distributed: bool, reduction: Reduction, **others: Any
    ) -> None:
        """Checks and sets the settings. `others` are further ones that :func:`check_settings` knows."""
        super().__init__()
        check_settings(temperature=temperature, reduction=reduction, loss=type(self), **others)
        check_gathering(gather_distributed)
        self.temperature = temperature
        self.gather_distributed = gather_distributed
        self.reduction = reduction
        for name, value in others.items():
            setattr(self, name, value)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.shown)


class BaselineLoss(SimpleLoss, LossWithStatistics):
    """A special case of :func:`hex_ssl.functional.hex_loss`. Subclasses set the threshold and the formulation.

    Attributes:
        statistics: The :class:`Statistics` of the last forward. None before the first forward.
    """

    threshold: ClassVar[FixedThreshold] = NO_HIERARCHY
    formulation: ClassVar[Formulation] = "importance"
    beta: float = 1.0
    tau_plus: float = 0.1

    def forward(self, z1: Tensor, z2: Tensor, *more_views: Tensor) -> Tensor:
        """The loss of projections of the views, each [n, D]; see :func:`hex_ssl.functional.hex_loss`."""
        settings = Settings.of(
            self.threshold, 0, self.formulation, self.beta, self.tau_plus, self.temperature, self.reduction
        )
        views = [z1, z2, *more_views]
        loss, self._last.statistics = loss_of_views(views, self.threshold, settings, None, self.gather_distributed)
        return loss
