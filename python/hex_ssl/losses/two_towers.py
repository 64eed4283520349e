"""The base class of the losses for two towers."""

from torch import Tensor

from hex_ssl.choices import Formulation, Reduction, ThresholdName
from hex_ssl.contrast import Settings
from hex_ssl.losses.baseline import LossWithStatistics, SimpleLoss
from hex_ssl.thresholds import NO_HIERARCHY, Threshold, check_eliminates, threshold_from
from hex_ssl.validation import check_settings


class TwoTowerLoss(SimpleLoss, LossWithStatistics):
    """A loss for two towers, with a threshold and a formulation. All settings may be changed between two forwards."""

    def __init__(
        self,
        temperature: float | Tensor,
        gather_distributed: bool,
        reduction: Reduction,
        threshold: Threshold | ThresholdName,
        formulation: Formulation,
        beta: float,
        tau_plus: float,
    ) -> None:
        super().__init__(temperature, gather_distributed, reduction)
        check_settings(
            temperature=temperature, formulation=formulation, beta=beta, tau_plus=tau_plus, reduction=reduction
        )
        self.threshold = threshold
        check_eliminates(self.threshold, formulation)
        self.formulation = formulation
        self.beta = beta
        self.tau_plus = tau_plus

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
