"""What the modules of the baseline losses share."""

from typing import ClassVar

from torch import Tensor, nn

from hex_ssl.functional import NO_HIERARCHY, hex_loss
from hex_ssl.statistics import Statistics
from hex_ssl.thresholds import FixedThreshold
from hex_ssl.validation import check_settings


class BaselineLoss(nn.Module):
    """A point of :func:`hex_ssl.functional.hex_loss`: a subclass says which, and documents its arguments.

    Attributes:
        statistics: The :class:`Statistics` of the last forward; None before the first.
    """

    threshold: ClassVar[FixedThreshold] = NO_HIERARCHY
    formulation: ClassVar[str] = "importance"

    def __init__(self, temperature: float, gather_distributed: bool, reduction: str, **weighting: float) -> None:
        super().__init__()
        check_settings(temperature=temperature, reduction=reduction, **weighting)  # type: ignore[arg-type]  # names of numbers
        self.temperature = temperature
        self.gather_distributed = gather_distributed
        self.reduction = reduction
        self._weighting = tuple(weighting)
        for name, value in weighting.items():
            setattr(self, name, value)
        self.statistics: Statistics | None = None

    def forward(self, z1: Tensor, z2: Tensor, *more_views: Tensor) -> Tensor:
        """The loss of projections of the views, each [n, D]; see :func:`hex_ssl.functional.hex_loss`."""
        loss, self.statistics = hex_loss(
            z1,
            z2,
            *more_views,
            temperature=self.temperature,
            threshold=self.threshold,
            formulation=self.formulation,
            reduction=self.reduction,
            gather_distributed=self.gather_distributed,
            return_statistics=True,
            **{name: getattr(self, name) for name in self._weighting},
        )
        return loss

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        names = ("temperature", *self._weighting, "gather_distributed", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
