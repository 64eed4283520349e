"""A pretraining run as typed data: what a recipe, the command line and `config.yaml` in a run folder hold.

Plain dataclasses, without torch: each part is turned into an object where that object lives
(`hex_ssl.backbones`, `hex_ssl.data`, `hex_ssl.methods`, `hex_ssl.optim`).
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal


@dataclass(frozen=True)
class MethodConfig:
    """The method and its projector.

    Args:
        name: The method.
        hidden_dim: Width of the projector's hidden layer.
        output_dim: D, the width of the projections that the loss sees.
    """

    name: Literal["simclr"] = "simclr"
    hidden_dim: int = 128
    output_dim: int = 64

    def __post_init__(self) -> None:
        _at_least("method.hidden_dim", self.hidden_dim, 1)
        _at_least("method.output_dim", self.output_dim, 1)


@dataclass(frozen=True)
class LossConfig:
    """The loss on the projections. What a loss has no use for is left out of it.

    Args:
        name: "hex" (HEX), "ntxent" (SimCLR's own), "hcl" (hard negatives) or "dcl" (decoupled).
        temperature: Divides the similarities, in [0.005, 10].
        threshold: HEX: the strategy that picks the hierarchical negatives.
        threshold_arguments: HEX: the strategy's arguments, such as {quantile: 0.95}; "fixed" needs {value: ...}.
        formulation: HEX: "importance" or "official".
        beta: HEX, HCL: concentration on the hardest negatives.
        tau_plus: HEX, HCL: the assumed share of false negatives.
        warmup_epochs: HEX: epochs of plain NT-Xent at the start.
    """

    name: Literal["hex", "ntxent", "hcl", "dcl"] = "ntxent"
    temperature: float = 0.1
    threshold: Literal["adaptive", "fixed", "step", "cosine", "supervised"] = "adaptive"
    threshold_arguments: dict[str, float | int | str] = field(default_factory=dict)
    formulation: Literal["importance", "official"] = "importance"
    beta: float = 1.0
    tau_plus: float = 0.1
    warmup_epochs: int = 0


@dataclass(frozen=True)
class BackboneConfig:
    """The network that is pretrained.

    Args:
        name: "small_resnet" (three blocks, for images of 8 to 32 pixels) or "resnet18".
        width: Channels of the first stage of "small_resnet"; the features have four times as many.
        stem: First layers of "resnet18": "small" (3x3, stride 1, no pooling), "large" (7x7, stride 2, pooling),
            or "auto", small for images of up to 64 pixels.
    """

    name: Literal["small_resnet", "resnet18"] = "small_resnet"
    width: int = 16
    stem: Literal["auto", "small", "large"] = "auto"

    def __post_init__(self) -> None:
        _at_least("backbone.width", self.width, 1)


@dataclass(frozen=True)
class DataConfig:
    """The images and how they reach the method.

    Args:
        name: The dataset.
        image_size: Side of the square images in pixels.
        batch_size: Images per step and process; each gives two views.
        num_workers: Processes that load images. The digits lie in memory: workers would only cost.
    """

    name: Literal["digits"] = "digits"
    image_size: int = 8
    batch_size: int = 256
    num_workers: int = 0

    def __post_init__(self) -> None:
        _at_least("data.image_size", self.image_size, 4)
        _at_least("data.batch_size", self.batch_size, 2)
        _at_least("data.num_workers", self.num_workers, 0)


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer. The learning rate rises linearly from 0, then falls to 0 on half a cosine, changing at each step.

    Args:
        name: "sgd" or "adamw".
        learning_rate: The highest learning rate.
        weight_decay: Decay of the weight matrices and kernels; biases and norms have none.
        momentum: Of "sgd".
        warmup_epochs: Epochs until the highest learning rate.
    """

    name: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    warmup_epochs: float = 3.0

    def __post_init__(self) -> None:
        _at_least("optimizer.learning_rate", self.learning_rate, 0.0)
        _at_least("optimizer.weight_decay", self.weight_decay, 0.0)
        _at_least("optimizer.warmup_epochs", self.warmup_epochs, 0.0)


@dataclass(frozen=True)
class RunConfig:
    """The run and its folder, `root`/`name`.

    Args:
        name: Name of the run.
        root: Folder of the runs.
        existing: What to do with a run folder that is not empty: "error", "resume" after its last checkpoint,
            or "overwrite".
        seed: Decides weights, order of the images and augmentations.
        epochs: Epochs to train.
        knn_every: Epochs between two k-NN evaluations; the first is before the training, one more at its end.
        accelerator: Lightning's: "auto", "cpu", "gpu", ...
        devices: Processes, one per device.
        precision: Lightning's: "32-true", "bf16-mixed", "16-mixed", ...
        progress: Whether to show a progress bar.
    """

    name: str = "pretrain"
    root: str = "runs"
    existing: Literal["error", "resume", "overwrite"] = "error"
    seed: int = 0
    epochs: int = 40
    knn_every: int = 5
    accelerator: str = "auto"
    devices: int = 1
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "64-true"] = "32-true"
    progress: bool = True

    def __post_init__(self) -> None:
        _at_least("run.seed", self.seed, 0)
        _at_least("run.epochs", self.epochs, 1)
        _at_least("run.knn_every", self.knn_every, 1)
        _at_least("run.devices", self.devices, 1)


@dataclass(frozen=True)
class Config:
    """A whole pretraining run.

    Args:
        method: The method and its projector.
        loss: The loss on the projections.
        backbone: The network that is pretrained.
        data: The images.
        optimizer: The optimizer and its schedule.
        run: The run and its folder.
    """

    method: MethodConfig = field(default_factory=MethodConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @classmethod
    def from_dict(cls, groups: dict[str, dict[str, Any]]) -> "Config":
        """A run from nested dictionaries, such as a recipe; what they leave out has its default.

        Values are taken as they are: the command line also checks their types.

        Raises:
            ValueError: A group or a setting is unknown.

        Example:
            >>> Config.from_dict({"loss": {"name": "hex"}}).loss.temperature
            0.1
        """
        known = {group.name: group.type for group in fields(cls)}
        unknown = [name for name in groups if name not in known]
        for name, settings in groups.items():
            allowed = {setting.name for setting in fields(known[name])} if name in known else set()  # type: ignore[arg-type]
            unknown += [f"{name}.{setting}" for setting in settings if name in known and setting not in allowed]
        if unknown:
            raise ValueError(f"expected settings of a run, but got {', '.join(unknown)}")
        return cls(**{name: known[name](**settings) for name, settings in groups.items()})  # type: ignore[operator]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The same as nested dictionaries, ready for YAML or JSON."""
        return asdict(self)


def _at_least(name: str, value: float, lowest: float) -> None:
    if not value >= lowest:
        raise ValueError(f"expected `{name}` to be at least {lowest}, but got {value}")
