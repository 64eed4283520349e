"""Methods that add HEX to their own loss."""

from typing import Any, ClassVar, Unpack

from torch import Tensor, nn

from hex_ssl.train.config import LossConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Method, Shared, mean_statistics, projection_std


class SharedBeside(Shared, total=False):
    """Keyword arguments of these methods' constructors: see :class:`BesideHex`."""

    alpha: float


class BesideHex(Method):
    """A method that minimises alpha * `hex_factor` * HEX(z1, z2) + (1 - alpha) * own loss.

    Without HEX, and during its warm-up, the loss is the method's own.

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        alpha: HEX's share, in [0, 1].
        **shared: `hex_loss`, `optimizer` and `superclasses`, see :class:`Method`.

    Raises:
        ValueError: `alpha` is out of its range.
    """

    hex_factor: ClassVar[float] = 1.0

    def __init__(self, backbone: nn.Module, *, alpha: float = 0.1, **shared: Unpack[Shared]) -> None:
        super().__init__(backbone, **shared)
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"expected `alpha` to be in [0, 1], but got {alpha}")
        self.alpha = alpha

    @classmethod
    def loss_arguments(cls, config: LossConfig, epochs: int | None = None) -> dict[str, Any]:
        """`hex_loss` and `alpha`: see :meth:`Method.loss_arguments`."""
        return {**super().loss_arguments(config, epochs), "alpha": config.alpha}

    def beside_hex(self, own: Tensor, z1: Tensor, z2: Tensor, batch: Batch, **figures: Tensor) -> Tensor:
        """Combines both losses, and records the figures to log.

        Args:
            own: The method's own loss.
            z1: Projections of the first views.
            z2: Projections of the second views.
            batch: The batch, for its labels.
            **figures: Further figures to log.
        """
        self.figures = {"projection_std": projection_std(z1, z2), "own_loss": own.detach(), **figures}
        if self.hex_loss is None or self.hex_loss.warming_up:
            return own
        beside = self.hex_loss(z1, z2, labels=self.labels_for(batch))
        self.figures |= {"hex_loss": beside.detach(), **mean_statistics([self.hex_loss.statistics])}
        return self.alpha * self.hex_factor * beside + (1 - self.alpha) * own
