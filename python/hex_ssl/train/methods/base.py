"""What the methods share: a backbone, the parts of a step, labels for HEX, the figures to log, the optimizer."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self, TypedDict, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.gradient_cache import GradientCache
from hex_ssl.losses import HexLoss
from hex_ssl.queue import Queue
from hex_ssl.statistics import Statistics
from hex_ssl.thresholds import SupervisedThreshold
from hex_ssl.train.config import Config, LossConfig, OptimizerConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.finite import LateLook, is_finite, not_finite, works_ahead
from hex_ssl.train.methods.losses import build_hex_loss
from hex_ssl.train.methods.settings import MethodSettings
from hex_ssl.train.optim import configure_optimizer

Embeddings = tuple[Tensor, ...]
"""What a method's loss sees of the images: tensors [N, ...], those that get a gradient first."""

NO_LABEL = -1


class Shared(TypedDict, total=False):
    """What each method's constructor takes by name besides its own: see :class:`Method`."""

    hex_loss: HexLoss | None
    optimizer: OptimizerConfig | None
    superclasses: Tensor | None


class Method(L.LightningModule):
    """A method: a loss on views of a batch, around a backbone.

    A subclass makes its heads and its loss, and says in two parts what it minimises: `embed` turns views into
    embeddings, an image at a time but for batch norm; `compute_loss` turns those of the whole batch into the loss.
    Between the two a large batch can be taken in parts (gradient caching). Neither changes the method's state, but for
    batch norm's statistics: that is done once per loss, in `after_loss`, and once per optimizer step, in
    `after_optimizer_step`.

    A configuration builds it by `from_config`, as `Class(backbone, feature_dim, settings, **shared)`: `feature_dim` is
    F, `settings` are of the class's `settings_class`, and `shared` are the arguments below that have names.

    Args:
        backbone: Images [N, C, H, W] to representations h [N, F].
        hex_loss: HEX, or None for the method alone.
        optimizer: The optimizer and its schedule.
        superclasses: int64 [classes], each class's superclass: what the supervised threshold goes by. None: the classes
            themselves.

    Attributes:
        settings_class: The class of the method's settings, a frozen dataclass.
        view_count: The number of views of an image that the method takes. None: any.
        figures: What the last `compute_loss` noted to be logged, by name; each 0-d, without gradient.
        gradient_cache: Takes the batch in parts where set, for a large batch in the memory of a small one.
        logs_figures: Whether a step logs its loss and `statistics()` by Lightning's `log_dict`. A run of `hex-ssl
            pretrain` logs their means over each epoch instead.
    """

    settings_class: ClassVar[type[MethodSettings]] = MethodSettings
    view_count: ClassVar[int | None] = 2

    superclasses: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        *,
        hex_loss: HexLoss | None = None,
        optimizer: OptimizerConfig | None = None,
        superclasses: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.hex_loss = hex_loss
        self.optimizer_config = optimizer or OptimizerConfig()
        self.register_buffer("superclasses", superclasses, persistent=False)
        self.gradient_cache: GradientCache | None = None
        self.logs_figures = True
        self.figures: dict[str, Tensor] = {}
        self._late_look = LateLook()
        self._labels_seen = False
        self._total_steps = float("inf")

    @classmethod
    def from_config(
        cls, config: Config, backbone: nn.Module, feature_dim: int, superclasses: Tensor | None = None
    ) -> Self:
        """The method of a configuration.

        Args:
            config: The run, whose `method` holds settings of `settings_class`.
            backbone: Images [N, C, H, W] to representations h [N, F].
            feature_dim: F.
            superclasses: int64 [classes], each class's superclass.

        Raises:
            ValueError: The method has no use for `loss.base`, or a setting is out of its range.
        """
        make: Callable[..., Self] = cls
        losses = cls.loss_arguments(config.loss, config.run.epochs)
        return make(
            backbone, feature_dim, config.method, optimizer=config.optimizer, superclasses=superclasses, **losses
        )

    @classmethod
    def loss_arguments(cls, config: LossConfig, epochs: int | None = None) -> dict[str, Any]:
        """The constructor's arguments that come from a configuration's loss: `hex_loss`.

        Args:
            config: The loss.
            epochs: Those of the run.

        Raises:
            ValueError: `loss.base` is not "own", or `loss.threshold_arguments` are not the threshold's.
        """
        if config.base != "own":
            name = cls.settings_class.name or cls.__name__
            raise ValueError(f'expected `loss.base` to be "own" for {name}, but got "{config.base}"')
        return {"hex_loss": build_hex_loss(config, epochs)}

    def forward(self, images: Tensor) -> Tensor:
        """The backbone's representations h [N, F]."""
        return cast(Tensor, self.backbone(images))

    @abstractmethod
    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """What the loss sees of the images.

        Args:
            views: Each [N, C, H, W].

        Returns:
            Tensors of N rows, those that get a gradient first.
        """

    @abstractmethod
    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """The loss of a batch, 0-d; over several processes this process's share of the joined batch's.

        Args:
            embeddings: What `embed` made of the batch's views.
            batch: The batch, for its labels; its views are not looked at.
        """

    def after_loss(self, embeddings: Embeddings, batch: Batch) -> None:
        """Changes the state that each loss changes, such as a queue. Once after each `compute_loss`."""

    def after_optimizer_step(self, step: int) -> None:
        """Changes the state that each optimizer step changes, such as a momentum encoder.

        Args:
            step: Optimizer steps done before the one just done.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters to train, for `hex_ssl.train.optim.build_optimizer`: those with rules of their own apart."""
        own = self.own_groups()
        apart = {id(parameter) for group in own for parameter in group["params"]}
        rest = [each for each in self.parameters() if each.requires_grad and id(each) not in apart]
        return [{"params": rest}, *own]

    def own_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters with a rule of their own: `learning_rate`, `decay` or `constant_learning_rate`."""
        return []

    def statistics(self) -> dict[str, Tensor]:
        """What to log about the last `compute_loss` besides the loss, by name; each 0-d, without gradient.

        `projection_std` of each method is the mean over the dimensions of the L2-normalised projections' standard
        deviation in the batch: 0 where all images have collapsed to one, 1 / sqrt(D) where they are spread evenly.
        Those of HEX are of :class:`hex_ssl.statistics.Statistics`.
        """
        return dict(self.figures)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch; what it saw is in `statistics`.

        Raises:
            FloatingPointError: The loss is NaN or infinite. On a CPU, nothing has learned from it. On a device that
                works ahead it may be that of an earlier step, see `look_at_losses`; nothing is saved after that step.
        """
        cache = self.gradient_cache
        embeddings = self.embed(batch.views) if cache is None else cache.embed(self, batch.views)
        place = f"step {self.global_step + 1} (epoch {self.current_epoch + 1}, batch {batch_idx + 1} of it)"
        try:
            loss = self.compute_loss(embeddings, batch)
        except ValueError as error:
            if is_finite(*embeddings):
                raise
            raise not_finite("none", place, batch, embeddings) from error  # the kernel on the CPU refuses such rows
        if works_ahead(loss.device):
            self._late_look.note(loss, place, batch, embeddings)
        elif not is_finite(loss):
            raise not_finite(f"{loss.item()}", place, batch, embeddings)
        self.after_loss(embeddings, batch)
        if self.logs_figures and self._trainer is not None:
            figures = {"loss": loss.detach(), **self.statistics()}
            self.log_dict(figures, batch_size=len(batch.labels))  # waits for no device: Lightning keeps the tensors
        return loss

    def look_at_losses(self) -> None:
        """Looks at the losses since the last look, where the device works ahead: at an epoch's end, before each
        checkpoint, and every ten seconds.

        Raises:
            FloatingPointError: One is NaN or infinite; the message has the first such step.
        """
        self._late_look.look()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Nothing is saved after a loss that is not finite."""
        self.look_at_losses()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's, and on through the networks where the batch was taken in parts."""
        super().backward(loss, *args, **kwargs)
        if self.gradient_cache is not None:
            self.gradient_cache.backward(self)

    def on_train_start(self) -> None:
        """Asks how long the run is, for what follows it."""
        self._total_steps = float(self.trainer.estimated_stepping_batches)

    def on_train_epoch_start(self) -> None:
        """Tells HEX the epoch, for its warm-up and its schedules."""
        for module in self.modules():
            if isinstance(module, HexLoss):
                module.set_epoch(self.current_epoch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's, then the method's own part."""
        super().optimizer_step(*args, **kwargs)
        self.after_optimizer_step(self.global_step)  # which Lightning raises only when this has returned

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clips by the configuration's norm where there is one, else as the trainer says."""
        if self.optimizer_config.clip_norm is None:
            super().configure_gradient_clipping(optimizer, *args, **kwargs)
        else:
            self.clip_gradients(optimizer, self.optimizer_config.clip_norm, "norm")

    def configure_optimizers(self) -> Any:
        """The optimizer, and its schedule stepped once per optimizer step."""
        return configure_optimizer(self.parameter_groups(), self.optimizer_config, self.trainer)

    def labels_for(self, batch: Batch) -> Tensor | None:
        """The superclass labels [N] where HEX's threshold is supervised, else None.

        An image without a label gets one of its own: it has no hierarchical negatives and is none.

        Raises:
            ValueError: No image of the first batch has a label.
        """
        if self.hex_loss is None or not isinstance(self.hex_loss.threshold, SupervisedThreshold):
            return None
        if not self._labels_seen and not bool((batch.labels >= 0).any()):
            raise ValueError("expected images with labels for HEX's supervised threshold, but got none in a batch")
        self._labels_seen = True
        return torch.where(batch.labels >= 0, self.superclass_of(batch.labels), NO_LABEL - 1 - batch.indices)

    def superclass_of(self, labels: Tensor) -> Tensor:
        """The superclasses of labels; -1 for -1."""
        if self.superclasses is None:
            return labels
        return torch.where(labels >= 0, self.superclasses[labels.clamp(min=0)], NO_LABEL)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        # Queues are the same on each process; DDP would send rank 0's, 100 MB of it, before every forward.
        queues = [name for name, module in self.named_modules() if isinstance(module, Queue)]
        return [name for name, _ in self.named_buffers() if name.rpartition(".")[0] in queues]


def two_views(views: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The views of a method that takes two.

    Raises:
        ValueError: There are more or fewer.
    """
    if len(views) != 2:
        raise ValueError(f"expected 2 views of each image, but got {len(views)}")
    return views[0], views[1]


@torch.no_grad()
def projection_std(*z: Tensor) -> Tensor:
    """The mean over the dimensions of the standard deviation of L2-normalised rows, averaged over the views; 0-d."""
    return torch.stack([F.normalize(rows.detach().float(), dim=1).std(dim=0, correction=0).mean() for rows in z]).mean()


def mean_statistics(statistics: Iterable[Statistics | None]) -> dict[str, Tensor]:
    """HEX's statistics by name, their means where there are several evaluations; empty where there is none."""
    seen = [each for each in statistics if each is not None]
    if not seen:
        return {}
    return Statistics(*(torch.stack(values).mean() for values in zip(*seen, strict=True)))._asdict()
