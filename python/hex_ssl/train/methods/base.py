"""The base of the methods: a backbone, the parts of a step, labels for HEX, the figures to log, and the optimizer."""

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
"""The inputs of a method's loss: tensors [N, ...]. Those that get a gradient come first."""

NO_LABEL = -1


class Shared(TypedDict, total=False):
    """Keyword arguments that all methods' constructors take: see :class:`Method`."""

    hex_loss: HexLoss | None
    optimizer: OptimizerConfig | None
    superclasses: Tensor | None


class Method(L.LightningModule):
    """Base class of the methods: a backbone, and a loss on the views of a batch.

    A subclass builds its heads and defines its loss in two parts: `embed` turns views into embeddings, each image by
    itself except for batch norm, and `compute_loss` turns the embeddings of the whole batch into the loss. Between the
    two, a large batch can be processed in parts (gradient caching). Neither changes the method's state, except for
    batch norm's statistics. `after_loss` changes it once per loss, and `after_optimizer_step` once per optimizer step.

    `from_config` builds a method as `Class(backbone, feature_dim, settings, **shared)`: `feature_dim` is F, `settings`
    is an instance of the class's `settings_class`, and `shared` are the keyword arguments below.

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        hex_loss: The HEX loss. None trains the method without HEX.
        optimizer: The optimizer and its schedule.
        superclasses: int64 [classes], each class's superclass, for the supervised threshold. None uses the classes
            themselves.

    Attributes:
        settings_class: The class of the method's settings, a frozen dataclass.
        view_count: Number of views of an image that the method takes. None: any number.
        figures: Figures to log, recorded by the last `compute_loss`, by name. Each is 0-d and without gradient.
        gradient_cache: If set, it processes the batch in parts, so that a large batch fits into the memory of a small
            one.
        logs_figures: Whether a step logs its loss and `statistics()` with Lightning's `log_dict`. A run of `hex-ssl
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
        """Builds the method of a configuration.

        Args:
            config: The run, whose `method` holds settings of `settings_class`.
            backbone: Network from images [N, C, H, W] to representations h [N, F].
            feature_dim: F.
            superclasses: int64 [classes], each class's superclass.

        Raises:
            ValueError: The method does not support `loss.base`, or a setting is out of its range.
        """
        make: Callable[..., Self] = cls
        losses = cls.loss_arguments(config.loss, config.run.epochs)
        return make(
            backbone, feature_dim, config.method, optimizer=config.optimizer, superclasses=superclasses, **losses
        )

    @classmethod
    def loss_arguments(cls, config: LossConfig, epochs: int | None = None) -> dict[str, Any]:
        """The arguments of the constructor that a configuration's loss decides: `hex_loss`.

        Args:
            config: The loss.
            epochs: Epochs of the run.

        Raises:
            ValueError: `loss.base` is not "own", or `loss.threshold_arguments` do not fit the threshold.
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
        """Computes the inputs of the loss from the views.

        Args:
            views: Each [N, C, H, W].

        Returns:
            Tensors of N rows. Those that get a gradient come first.
        """

    @abstractmethod
    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """The loss of a batch, 0-d. With several processes, it is this process's share of the joined batch's loss.

        Args:
            embeddings: The output of `embed` for the batch's views.
            batch: The batch. Only its labels are used.
        """

    def after_loss(self, embeddings: Embeddings, batch: Batch) -> None:
        """Updates state that changes with each loss, such as a queue. It is called once after each `compute_loss`."""

    def after_optimizer_step(self, step: int) -> None:
        """Updates state that changes with each optimizer step, such as a momentum encoder.

        Args:
            step: Number of optimizer steps before the one just done.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The groups of parameters to train, for `hex_ssl.train.optim.build_optimizer`."""
        own = self.own_groups()
        apart = {id(parameter) for group in own for parameter in group["params"]}
        rest = [each for each in self.parameters() if each.requires_grad and id(each) not in apart]
        return [{"params": rest}, *own]

    def own_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters with rules of their own: `learning_rate`, `decay` or `constant_learning_rate`."""
        return []

    def statistics(self) -> dict[str, Tensor]:
        """The figures to log about the last `compute_loss` besides the loss, by name. Each is 0-d and without gradient.

        Every method has `projection_std`: the standard deviation in the batch of the L2-normalised projections,
        averaged over the dimensions. It is 0 if all images have collapsed to one point, and 1 / sqrt(D) if they are
        spread evenly. HEX adds the figures of :class:`hex_ssl.statistics.Statistics`.
        """
        return dict(self.figures)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch. Afterwards `statistics` describes it.

        Raises:
            FloatingPointError: The loss is NaN or infinite. On a CPU, no weight has been updated with it. On a device
                that runs asynchronously, it may be the loss of an earlier step, see `look_at_losses`. Nothing is saved
                after that step.
        """
        cache = self.gradient_cache
        embeddings = self.embed(batch.views) if cache is None else cache.embed(self, batch.views)
        place = f"step {self.global_step + 1} (epoch {self.current_epoch + 1}, batch {batch_idx + 1} of it)"
        try:
            loss = self.compute_loss(embeddings, batch)
        except ValueError as error:
            if is_finite(*embeddings):
                raise
            raise not_finite("none", place, batch, embeddings) from error  # the CPU kernel refuses such rows
        if works_ahead(loss.device):
            self._late_look.note(loss, place, batch, embeddings)
        elif not is_finite(loss):
            raise not_finite(f"{loss.item()}", place, batch, embeddings)
        self.after_loss(embeddings, batch)
        if self.logs_figures and self._trainer is not None:
            figures = {"loss": loss.detach(), **self.statistics()}
            self.log_dict(
                figures, batch_size=len(batch.labels)
            )  # does not wait for the device: Lightning keeps tensors
        return loss

    def look_at_losses(self) -> None:
        """Checks the losses since the last check, on a device that runs asynchronously.

        It is called at the end of an epoch, before each checkpoint, and every ten seconds.

        Raises:
            FloatingPointError: A loss is NaN or infinite. The message names the first such step.
        """
        self._late_look.look()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks the losses, so that nothing is saved after one that is not finite."""
        self.look_at_losses()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Runs Lightning's backward pass, and continues through the networks if the batch was processed in parts."""
        super().backward(loss, *args, **kwargs)
        if self.gradient_cache is not None:
            self.gradient_cache.backward(self)

    def on_train_start(self) -> None:
        """Stores the number of steps of the run, for schedules over the run."""
        self._total_steps = float(self.trainer.estimated_stepping_batches)

    def on_train_epoch_start(self) -> None:
        """Sets HEX's epoch, for its warm-up and its schedules."""
        for module in self.modules():
            if isinstance(module, HexLoss):
                module.set_epoch(self.current_epoch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Runs Lightning's optimizer step, then the method's own part."""
        super().optimizer_step(*args, **kwargs)
        self.after_optimizer_step(self.global_step)  # Lightning increases it only after this returns

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clips gradients to the configuration's `clip_norm`, or as the trainer is set if that is None."""
        if self.optimizer_config.clip_norm is None:
            super().configure_gradient_clipping(optimizer, *args, **kwargs)
        else:
            self.clip_gradients(optimizer, self.optimizer_config.clip_norm, "norm")

    def configure_optimizers(self) -> Any:
        """The optimizer, and its schedule, which is stepped once per optimizer step."""
        return configure_optimizer(self.parameter_groups(), self.optimizer_config, self.trainer)

    def labels_for(self, batch: Batch) -> Tensor | None:
        """The superclass labels [N] if HEX's threshold is supervised, else None.

        An image without a label gets a unique one, so it has no hierarchical negatives and is none itself.

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
        """The superclasses of labels; -1 stays -1."""
        if self.superclasses is None:
            return labels
        return torch.where(labels >= 0, self.superclasses[labels.clamp(min=0)], NO_LABEL)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        # Queues are equal on all processes. DDP would send rank 0's queue, about 100 MB, before every forward pass.
        queues = [name for name, module in self.named_modules() if isinstance(module, Queue)]
        return [name for name, _ in self.named_buffers() if name.rpartition(".")[0] in queues]


def two_views(views: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Returns the views of a method that takes two.

    Raises:
        ValueError: There are more or fewer.
    """
    if len(views) != 2:
        raise ValueError(f"expected 2 views of each image, but got {len(views)}")
    return views[0], views[1]


@torch.no_grad()
def projection_std(*z: Tensor) -> Tensor:
    """The standard deviation of L2-normalised rows, averaged over the dimensions and the views, 0-d."""
    return torch.stack([F.normalize(rows.detach().float(), dim=1).std(dim=0, correction=0).mean() for rows in z]).mean()


def mean_statistics(statistics: Iterable[Statistics | None]) -> dict[str, Tensor]:
    """HEX's statistics by name, averaged over several evaluations. Empty if there are none."""
    seen = [each for each in statistics if each is not None]
    if not seen:
        return {}
    return Statistics(*(torch.stack(values).mean() for values in zip(*seen, strict=True)))._asdict()
