"""The settings of the evaluation commands: what to evaluate, and by which protocol."""

from dataclasses import dataclass, field
from typing import Literal

from hex_ssl.train.paths import expand_path, expand_paths
from hex_ssl.train.ranges import above, at_least


@dataclass(frozen=True)
class KNNSettings:
    """The protocol of the k-NN: all training images, without augmentation, classify the test images.

    Args:
        k: Numbers of neighbours that vote. Each is measured.
        temperature: Temperatures of the cosine votes exp(cos / temperature). Each is measured.
        distance: "cosine", or "euclidean" with votes 1 / (distance + 1e-5) and no temperature.
    """

    k: list[int] = field(default_factory=lambda: [20])
    temperature: list[float] = field(default_factory=lambda: [0.07])
    distance: Literal["cosine", "euclidean"] = "cosine"

    def __post_init__(self) -> None:
        for name in ("k", "temperature"):
            _each_above_0(name, getattr(self, name))

    def describe(self) -> str:
        """In words."""
        if self.distance == "euclidean":
            return f"k-NN: Euclidean distance, k = {_listed(self.k)}, votes 1 / (distance + 1e-5)"
        return f"k-NN: cosine, k = {_listed(self.k)}, votes exp(cos / T), T = {_listed(self.temperature)}"


@dataclass(frozen=True)
class ProbeSettings:
    """The protocol of the linear probe: one linear layer on the frozen network.

    Args:
        solver: "logistic" for logistic regression on standardised features with an L2 penalty, by L-BFGS until it
            converges, or "sgd" for solo-learn's linear evaluation, which uses the settings from `learning_rate` to
            `augment`.
        learning_rate: Learning rate of SGD. None uses solo-learn's for the run's method, or 1.0 if no method is known.
        probe_epochs: Epochs of SGD. The learning rate is divided by 10 after 60 % and after 80 % of them.
        probe_batch_size: Maximum number of images per step of SGD.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        augment: Whether SGD uses new crops and flips in each epoch, as solo-learn does. The network then runs in each
            epoch. Otherwise SGD uses the images without augmentation, and the network runs once.
        regularisation: C of "logistic", the inverse weight of the penalty.
    """

    solver: Literal["logistic", "sgd"] = "logistic"
    learning_rate: float | None = None
    probe_epochs: int = 100
    probe_batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0
    augment: bool = False
    regularisation: float = 1.0

    def __post_init__(self) -> None:
        for name in ("probe_epochs", "probe_batch_size"):
            at_least(name, getattr(self, name), 1)
        for name in ("momentum", "weight_decay"):
            at_least(name, getattr(self, name), 0.0)
        above("regularisation", self.regularisation, 0)
        above("learning_rate", self.learning_rate, 0)
        if self.solver == "logistic" and self.augment:
            raise ValueError('expected `solver` to be "sgd" with `augment`, but got "logistic"')

    def describe(self) -> str:
        """In words."""
        if self.solver == "logistic":
            return f"linear probe: logistic regression on standardised features, C = {self.regularisation:g}, L-BFGS"
        images = "random crops and flips" if self.augment else "the images as they are"
        return (
            f"linear probe: SGD on {images}, learning rate {self.learning_rate:g}, tenths after 60 % and 80 % of "
            f"{self.probe_epochs} epochs, momentum {self.momentum:g}, weight decay {self.weight_decay:g}, "
            f"batches of {self.probe_batch_size}, accuracy after the last epoch"
        )


@dataclass(frozen=True)
class FinetuneSettings:
    """The protocol of fine-tuning: the whole network and a linear layer, trained with labels on crops and flips.

    Args:
        optimizer: "sgd" with momentum, or "adamw" for transformers.
        learning_rate: Learning rate of the network. It decays to 0 along half a cosine, updated at each step.
        head_learning_rate: Learning rate of the linear layer, with the same schedule.
        finetune_epochs: Number of epochs.
        finetune_batch_size: Maximum number of images per step, at least 2.
        momentum: Momentum of "sgd".
        weight_decay: Weight decay. Norms and biases do not decay.
        label_smoothing: Label smoothing, in [0, 1).
        mixup: Alpha of mixup (Zhang et al. 2018). 0 disables it.
        cutmix: Alpha of CutMix (Yun et al. 2019). 0 disables it. With both, each batch gets one of them at random.
        layer_decay: Factor of the learning rate from each layer to the layer before it, for timm models.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.02
    head_learning_rate: float = 0.2
    finetune_epochs: int = 50
    finetune_batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "head_learning_rate"):
            above(name, getattr(self, name), 0)
        for name in ("momentum", "weight_decay", "mixup", "cutmix"):
            at_least(name, getattr(self, name), 0.0)
        at_least("finetune_epochs", self.finetune_epochs, 1)
        at_least("finetune_batch_size", self.finetune_batch_size, 2)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"expected `label_smoothing` to be in [0, 1), but got {self.label_smoothing}")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"expected `layer_decay` to be in (0, 1], but got {self.layer_decay}")

    def describe(self) -> str:
        """In words."""
        extras = {"label smoothing": self.label_smoothing, "mixup": self.mixup, "cutmix": self.cutmix}
        also = "".join(f", {name} {value:g}" for name, value in extras.items() if value)
        also += f", layer decay {self.layer_decay:g}" if self.layer_decay != 1.0 else ""
        momentum = f", momentum {self.momentum:g}" if self.optimizer == "sgd" else ""
        return (
            f"fine-tuning: {self.optimizer}{momentum} on random crops and flips, learning rate {self.learning_rate:g} "
            f"(linear layer {self.head_learning_rate:g}) on half a cosine, {self.finetune_epochs} epochs, "
            f"batches of {self.finetune_batch_size}, weight decay {self.weight_decay:g}{also}, "
            f"accuracy after the last epoch"
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """What to evaluate, and on which images.

    Args:
        source: A run folder, a checkpoint in one, or an exported backbone (.safetensors).
        epochs: Checkpoints of a run: "last", "all" (those that were kept, and the last), "untrained", or epochs such as
            "0,10,20".
        space: Evaluate the representations of the "backbone", or their "projection", which needs a checkpoint.
        fractions: Fractions of the training labels to use, stratified by class.
        draws: Number of draws of each fraction below 1. The mean accuracy and the standard deviation are reported.
        holdout: Fraction of the training images to hold out and to test on instead of the test images, for choosing
            settings. 0 tests on the test images.
        seed: Seed of draws, held-out images, initial weights and order.
        device: Device of the networks: "auto", "cpu", "cuda", ...
        batch_size: Images per batch of the frozen network. It does not affect the results.
        num_workers: Number of DataLoader workers. None uses one per core, and none for images in memory (except for
            augmenting more than 5,000 of them).
        output: JSON file of the results. None uses a file in the folder `evaluation` of the run, named by the protocol.
        again: Whether to repeat the measurements that the file already has.
    """

    source: str
    epochs: str = "last"
    space: Literal["backbone", "projection"] = "backbone"
    fractions: list[float] = field(default_factory=lambda: [1.0])
    draws: int = 1
    holdout: float = 0.0
    seed: int = 0
    device: str = "auto"
    batch_size: int = 512
    num_workers: int | None = None
    output: str | None = None
    again: bool = False

    def __post_init__(self) -> None:
        expand_paths(self, "source", "output")
        if not self.fractions or not all(0.0 < each <= 1.0 for each in self.fractions):
            raise ValueError(f"expected `fractions` to be in (0, 1], but got {self.fractions}")
        if not 0.0 <= self.holdout < 1.0:
            raise ValueError(f"expected `holdout` to be in [0, 1), but got {self.holdout}")
        for name in ("draws", "batch_size"):
            at_least(name, getattr(self, name), 1)
        for name in ("seed", "num_workers"):
            at_least(name, getattr(self, name), 0)


@dataclass(frozen=True)
class OneDatasetConfig(EvaluationConfig):
    """What to evaluate, and on which dataset.

    Args:
        dataset: One of the datasets that `hex-ssl datasets` lists, or NAME=ROOT. None uses the run's dataset.
        root: The folder that contains the dataset, directly or in a folder of its name. None uses the run's.
    """

    dataset: str | None = None
    root: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_paths(self, "root")
        if self.dataset is not None:
            object.__setattr__(self, "dataset", _with_root_expanded(self.dataset))


@dataclass(frozen=True)
class KNNConfig(KNNSettings, OneDatasetConfig):
    """k-NN accuracy of the representations."""

    def __post_init__(self) -> None:
        KNNSettings.__post_init__(self)
        OneDatasetConfig.__post_init__(self)


@dataclass(frozen=True)
class ProbeConfig(ProbeSettings, OneDatasetConfig):
    """Accuracy of a linear layer on the representations."""

    def __post_init__(self) -> None:
        ProbeSettings.__post_init__(self)
        OneDatasetConfig.__post_init__(self)


@dataclass(frozen=True)
class FinetuneConfig(FinetuneSettings, OneDatasetConfig):
    """Accuracy of the whole network after training with labels."""

    def __post_init__(self) -> None:
        FinetuneSettings.__post_init__(self)
        OneDatasetConfig.__post_init__(self)


@dataclass(frozen=True)
class TransferConfig(EvaluationConfig):
    """k-NN, linear probe or fine-tuning on many datasets.

    Args:
        datasets: Names that `hex-ssl datasets` lists, or NAME=ROOT, such as "folder=/data/birds".
        root: The folder that contains the datasets, each directly or in a folder of its name. None uses the run's.
        by: Evaluations to run: "knn", "probe", "finetune", or several.
        knn: Protocol of the k-NN.
        probe: Protocol of the linear probe.
        finetune: Protocol of fine-tuning.
    """

    datasets: list[str] = field(default_factory=list)
    root: str | None = None
    by: list[Literal["knn", "probe", "finetune"]] = field(default_factory=lambda: ["knn", "probe"])
    knn: KNNSettings = field(default_factory=KNNSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_paths(self, "root")
        object.__setattr__(self, "datasets", [_with_root_expanded(each) for each in self.datasets])
        for name in ("datasets", "by"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"expected `{name}` to name at least one, each once, but got {given}")


COMMANDS: dict[str, type[KNNConfig | ProbeConfig | FinetuneConfig | TransferConfig]] = {
    "knn": KNNConfig,
    "probe": ProbeConfig,
    "finetune": FinetuneConfig,
    "transfer": TransferConfig,
}
"""The commands by name. The first line of each docstring says what it measures."""


def _with_root_expanded(dataset: str) -> str:
    """A dataset, "NAME" or "NAME=ROOT"."""
    name, given, root = dataset.partition("=")
    return f"{name}{given}{expand_path('datasets', root)}"


def _each_above_0(name: str, values: list[int] | list[float]) -> None:
    if not values or not all(value > 0 for value in values):
        raise ValueError(f"expected `{name}` to be above 0, but got {values}")


def _listed(values: list[int] | list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
