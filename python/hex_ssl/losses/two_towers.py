"""The base class of the losses for two towers."""

from torch import Tensor

from hex_ssl.choices import Formulation, Reduction, ThresholdName
from hex_ssl.contrast import Settings
from hex_ssl.losses.baseline import LossWithStatistics, SimpleLoss
from hex_ssl.thresholds import NO_HIERARCHY, Threshold, check_eliminates, threshold_from


class TwoTowerLoss(SimpleLoss, LossWithStatistics):
    """A loss for two towers, with a threshold and a formulation. All settings may be changed between two forwards."""

    formulation: Formulation
    beta: float
    tau_plus: float

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        gather_distributed: bool = False,
        reduction: Reduction = "mean",
        *,
        threshold: Threshold | ThresholdName = NO_HIERARCHY,
        formulation: Formulation = "importance",
        beta: float = 1.0,
        tau_plus: float = 0.1,
    ) -> None:
        super().__init__(
            temperature, gather_distributed, reduction, formulation=formulation, beta=beta, tau_plus=tau_plus
        )
        self.threshold = threshold
        check_eliminates(self.threshold, formulation)

    @property
    def threshold(self) -> Threshold:
        """The strategy. It may be changed between two forwards, also by name."""
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: Threshold | ThresholdName) -> None:
        strategy = threshold_from(threshold)
        if strategy.scheduled:
            raise ValueError(
                f"expected a `threshold` that does not change with the epoch, but got {type(strategy).__name__}; "
                f"the function of {type(self).__name__} in hex_ssl.functional takes an `epoch`"
            )
        self._threshold = strategy

    def _settings(self, temperature: float | Tensor | None) -> Settings:
        temperature = self.temperature if temperature is None else temperature
        return Settings.of(self.threshold, 0, self.formulation, self.beta, self.tau_plus, temperature, self.reduction)

    def extra_repr(self) -> str:
        """The settings, for `repr`: those of the hierarchical negatives only if there may be any."""
        settings = super().extra_repr()
        if self.threshold == NO_HIERARCHY:
            return settings
        names = ("threshold", "formulation", "beta", "tau_plus")
        return ", ".join([settings, *(f"{name}={getattr(self, name)!r}" for name in names)])
