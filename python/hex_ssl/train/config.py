"""The configuration of a pretraining run as dataclasses, for recipes, the command line and run folders (`config.yaml`).

This module does not import torch. `hex_ssl.train.backbones`, `hex_ssl.train.data`, `hex_ssl.train.methods` and
`hex_ssl.train.optim` build the objects.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from functools import partial
from itertools import pairwise
from reprlib import repr as shortened
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hex_ssl.choices import Formulation
from hex_ssl.train.methods.settings import MethodSettings, SimCLRSettings, UncheckedSettings, settings_class
from hex_ssl.train.paths import expand_paths
from hex_ssl.train.ranges import above as _above
from hex_ssl.train.ranges import at_least as _at_least
from hex_ssl.train.ranges import between as _between
from hex_ssl.train.suggestions import suggest

HIGHEST_SEED = 2**32 - 1
"""The highest seed that NumPy's legacy generator accepts."""


@dataclass(frozen=True)
class LossConfig:
    """The loss and its use of HEX.

    `hex_ssl.train.methods` describes how each method uses HEX. A method ignores the settings that it does not use.

    Args:
        hex: How HEX selects hierarchical negatives: by an "adaptive", "fixed", "step" or "cosine" threshold, by a
            "margin" over the positive's similarity, or by superclass labels ("supervised"). "off" trains the method
            without HEX.
        base: Loss of the method without HEX: its "own" loss. SimCLR also accepts "hcl" (hard negatives) and "dcl"
            (decoupled).
        temperature: Temperature that divides the similarities, in [0.005, 10]. In Barlow Twins, VICReg, BYOL and
            SimSiam only HEX uses it.
        threshold_arguments: Arguments of the threshold, such as {quantile: 0.95}. "fixed" needs {value: ...}, "margin"
            takes {margin: 0.1, relative: true}. They need `hex`.
        formulation: Formulation of HEX: "importance", "official", "decoupled", or "elimination", which leaves out the
            hierarchical negatives and needs `hex`.
        beta: Concentration on the hardest negatives, in HEX and HCL.
        tau_plus: Assumed fraction of false negatives in HEX and HCL, in [0, 1).
        alpha: Weight of HEX in the loss of Barlow Twins, VICReg, BYOL and SimSiam, in [0, 1].
        warmup_epochs: Number of epochs without HEX at the start.
    """

    hex: Literal["off", "adaptive", "fixed", "step", "cosine", "margin", "supervised"] = "off"
    base: Literal["own", "hcl", "dcl"] = "own"
    temperature: float = 0.1
    threshold_arguments: dict[str, bool | int | float | str] = field(default_factory=dict)
    formulation: Formulation = "importance"
    beta: float = 1.0
    tau_plus: float = 0.1
    alpha: float = 0.1
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        _between("loss.temperature", self.temperature, 0.005, 10.0)
        _at_least("loss.beta", self.beta, 0.0)
        if not 0.0 <= self.tau_plus < 1.0:
            raise ValueError(f"expected `loss.tau_plus` to be in [0, 1), but got {self.tau_plus}")
        _between("loss.alpha", self.alpha, 0.0, 1.0)
        _at_least("loss.warmup_epochs", self.warmup_epochs, 0)
        if self.formulation == "elimination" and self.hex == "off":
            raise ValueError(
                'expected `loss.hex` to tell which negatives `loss.formulation` "elimination" leaves out, such as '
                '"margin", but got "off"'
            )
        if self.threshold_arguments and self.hex == "off":
            raise ValueError(
                "expected `loss.hex` to name the threshold that `loss.threshold_arguments` are for, such as "
                '"adaptive", but got "off"'
            )


@dataclass(frozen=True)
class BackboneConfig:
    """The network that is pretrained.

    Args:
        name: "small_resnet" (three blocks, for images of 8 to 32 pixels), "resnet18", "resnet50", "vit_small" or
            "swin_small" (also in the sizes tiny and base), "timm/NAME" for any timm model, or "module:function" for
            your own function that returns a network.
        width: Number of channels of the first stage of "small_resnet". The representations have four times as many.
        stem: First layers of the ResNets: "small" (3x3, stride 1, no pooling), "large" (7x7, stride 2, pooling), or
            "auto" (small for images of up to 64 pixels).
        stem_padding: Padding of the small stem's convolution. solo-learn uses 2, which gives 34x34 maps for images of
            32x32 pixels.
        arguments: Further arguments of the timm model or of your function, such as {patch_size: 4}.
    """

    name: str = "small_resnet"
    width: int = 16
    stem: Literal["auto", "small", "large"] = "auto"
    stem_padding: int = 1
    arguments: dict[str, bool | int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _at_least("backbone.width", self.width, 1)
        _at_least("backbone.stem_padding", self.stem_padding, 0)


@dataclass(frozen=True)
class DataConfig:
    """The images and how they reach the method.

    Args:
        name: One of the datasets that `hex-ssl datasets` lists, or "module:function" for your own function that returns
            a torch Dataset, see `hex_ssl.train.data.own_dataset`.
        root: Folder of the dataset. `~` and variables such as `$HOME` are replaced. Generated data, digits and your own
            function do not need it.
        level: Level of the tree of classes that gives the superclasses, such as "family" of inaturalist2021, if the
            dataset's card has several. None uses the card's default.
        image_size: Side of the square views in pixels. None uses the size of the dataset's images, at most 224.
        batch_size: Number of images per step and process. Each image gives all views.
        num_workers: Number of DataLoader workers per process. None uses 0 for images in memory whose views are made on
            the device, otherwise the machine's cores, divided among the processes.
        augmentation: A policy of `hex_ssl.train.data.POLICIES`, or "auto" for the dataset's own policy.
        views: Your own views instead of a policy: a list of mappings, each with settings of
            `hex_ssl.train.data.PhotoView`, such as {crop_scale: [0.2, 1.0], blur: 0.5}, and optionally `count`, the
            number of such views (default 1). They need `augmentation` "auto".
        augment_on: Where the views are made: in the "workers", one image at a time, or on the "device", one batch at a
            time. "auto" is the device for images in memory and on machines with a GPU, otherwise the workers.
        arguments: Further arguments of your function, such as {year: 2024}.
        fraction: Fraction of the training images to use, in (0, 1], stratified by label and drawn with the run's seed.
    """

    name: str = "digits"
    root: str | None = None
    level: str | None = None
    image_size: int | None = None
    batch_size: int = 256
    num_workers: int | None = None
    augmentation: str = "auto"
    views: list[dict[str, int | float | list[float]]] = field(default_factory=list)
    augment_on: Literal["auto", "workers", "device"] = "auto"
    arguments: dict[str, bool | int | float | str] = field(default_factory=dict)
    fraction: float = 1.0

    def __post_init__(self) -> None:
        expand_paths(self, "root", group="data.")
        _at_least("data.image_size", self.image_size, 4)
        _at_least("data.batch_size", self.batch_size, 2)
        _at_least("data.num_workers", self.num_workers, 0)
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"expected `data.fraction` to be in (0, 1], but got {self.fraction}")
        if self.views and self.augmentation != "auto":
            raise ValueError(
                f'expected `data.augmentation` to be "auto" with `data.views`, but got "{self.augmentation}"'
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule. The learning rate has a linear warm-up, then follows the schedule.

    Args:
        name: "sgd", "lars" or "adamw".
        learning_rate: The highest learning rate.
        scale_learning_rate: Whether to multiply `learning_rate`, `warmup_start` and `final_learning_rate` by the
            number of images per optimizer step over all processes, divided by 256.
        weight_decay: Weight decay.
        momentum: Momentum of "sgd" and "lars".
        decay_norms_and_biases: Whether weight decay, and the trust ratio of "lars", also apply to one-dimensional
            parameters (norms and biases).
        trust_coefficient: Trust coefficient eta of "lars".
        clip_trust: Whether "lars" limits the learning rate of each layer to the global one.
        warmup_epochs: Number of warm-up epochs.
        warmup_start: Learning rate of the first step.
        schedule: Schedule after the warm-up: "cosine" (half a cosine, updated at each step), "step" (a decay at each
            milestone), "exponential" (the same factor in each epoch, updated at each step) or "constant".
        final_learning_rate: Final learning rate of "cosine".
        milestones: Epochs at which "step" decays, counted from the start of the run, such as [60, 80].
        decay_factor: Factor of "step" at each milestone and of "exponential" per epoch, in (0, 1].
        clip_norm: Maximum norm of the gradient of all parameters. Larger gradients are scaled down. None disables it.
    """

    name: Literal["sgd", "lars", "adamw"] = "adamw"
    learning_rate: float = 2e-3
    scale_learning_rate: bool = False
    weight_decay: float = 1e-4
    momentum: float = 0.9
    decay_norms_and_biases: bool = False
    trust_coefficient: float = 0.02
    clip_trust: bool = True
    warmup_epochs: float = 3.0
    warmup_start: float = 0.0
    schedule: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    final_learning_rate: float = 0.0
    milestones: list[float] = field(default_factory=list)
    decay_factor: float = 0.1
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        lowest_is_0 = (
            "learning_rate",
            "weight_decay",
            "momentum",
            "trust_coefficient",
            "warmup_epochs",
            "warmup_start",
            "final_learning_rate",
        )
        for name in lowest_is_0:
            _at_least(f"optimizer.{name}", getattr(self, name), 0.0)
        _above("optimizer.clip_norm", self.clip_norm, 0.0)
        if not 0.0 < self.decay_factor <= 1.0:
            raise ValueError(f"expected `optimizer.decay_factor` to be in (0, 1], but got {self.decay_factor}")
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.schedule != "cosine" and self.final_learning_rate:
            raise ValueError(
                f'expected `optimizer.final_learning_rate` to be 0 if `optimizer.schedule` is "{self.schedule}", '
                f"but got {self.final_learning_rate}"
            )
        rising = all(before < after for before, after in pairwise([0.0, *self.milestones]))
        if (self.schedule == "step") != bool(self.milestones) or not rising:
            wanted = "increasing epochs above 0" if self.schedule == "step" else f'empty for "{self.schedule}"'
            raise ValueError(f"expected `optimizer.milestones` to be {wanted}, but got {self.milestones}")


@dataclass(frozen=True)
class RunConfig:
    """The run and its folder, `root`/`name`.

    Args:
        name: Name of the run.
        root: Folder of the runs. `~` and variables such as `$HOME` are replaced.
        existing: What to do with a run folder that is not empty: "error", "resume" from its last checkpoint, or
            "overwrite".
        seed: Seed of the weights, the order of the images and the augmentations, in [0, 2^32 - 1].
        weights: File with the initial weights of the backbone: a checkpoint, an exported backbone, or a file of
            torchvision or timm. None initialises from the seed. A resumed run continues from its checkpoint instead.
        epochs: Number of epochs to train. A resumed run may have more than before.
        knn_every: Number of epochs between k-NN evaluations. There is also one before training and one at the end.
        classifier: Whether to train a linear classifier on the backbone's detached representations during pretraining.
        checkpoint_minutes: Maximum number of minutes between checkpoints. 0 saves after each optimizer step.
        checkpoint_epochs: Number of epochs between checkpoints at the end of an epoch. The last epoch always ends with
            one.
        keep_every: Number of epochs between checkpoints that are kept for analysis, starting with the untrained
            backbone. 0 keeps only the last checkpoint.
        virtual_batch_size: Number of images per loss and process with gradient caching, a multiple of the batch size.
            The memory is about that of the batch size. None uses the batch size.
        accumulate: Number of batches per optimizer step, each with a separate loss.
        accelerator: Lightning's `accelerator`: "auto", "cpu", "gpu", ...
        devices: Number of processes per node, one per device.
        nodes: Lightning's `num_nodes`.
        strategy: Lightning's `strategy`: "auto", "ddp", ...
        precision: Lightning's `precision`: "32-true", "bf16-mixed", "16-mixed" or "64-true". "auto" is "bf16-mixed" on
            a GPU ("16-mixed" if it has no bfloat16), otherwise "32-true". `config.yaml` in the run folder has the
            value that "auto" stood for.
        channels_last: Whether images and convolutions use the channels-last memory format. Results are the same up to
            rounding. It is faster on most CPUs, and on GPUs with 16-bit precision. "auto" enables it on a GPU.
        compile: Whether to compile the networks, and the views made on the device, with torch.compile. Results are the
            same up to rounding. It is faster on a GPU after a first step that takes up to minutes. "auto" enables it
            on a GPU if Triton and a C compiler are available. "graphs" also replays what was compiled as CUDA graphs
            (`mode="reduce-overhead"`), which saves the time of the launches. It needs a GPU and no
            `virtual_batch_size`.
        sync_batchnorm: Whether batch norm uses the statistics of all processes. Needs GPUs.
        deterministic: Whether to use deterministic kernels if they exist.
        loggers: Loggers besides the metrics files: "tensorboard", "wandb".
        profiler: Lightning's profiler: "simple", "advanced" or "pytorch".
        progress: Whether to show a progress bar, or one line per epoch if the output is a file or a pipe.
    """

    name: str = "pretrain"
    root: str = "runs"
    existing: Literal["error", "resume", "overwrite"] = "error"
    seed: int = 0
    weights: str | None = None
    epochs: int = 40
    knn_every: int = 5
    classifier: bool = True
    checkpoint_minutes: float = 10.0
    checkpoint_epochs: int = 1
    keep_every: int = 0
    virtual_batch_size: int | None = None
    accumulate: int = 1
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "64-true"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool | Literal["auto", "graphs"] = False
    sync_batchnorm: bool = True
    deterministic: bool = True
    loggers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        expand_paths(self, "root", "weights", group="run.")
        for name in ("epochs", "knn_every", "checkpoint_epochs", "accumulate", "devices", "nodes"):
            _at_least(f"run.{name}", getattr(self, name), 1)
        for name in ("keep_every", "checkpoint_minutes"):
            _at_least(f"run.{name}", getattr(self, name), 0)
        _between("run.seed", self.seed, 0, HIGHEST_SEED)


@dataclass(frozen=True)
class Config:
    """A whole pretraining run.

    Args:
        method: The method's name and its settings.
        loss: The loss and its use of HEX.
        backbone: The network that is pretrained.
        data: The images.
        optimizer: The optimizer and its schedule.
        run: The run and its folder.
    """

    method: MethodSettings = field(default_factory=SimCLRSettings)
    loss: LossConfig = field(default_factory=LossConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        virtual, batch = self.run.virtual_batch_size, self.data.batch_size
        if virtual is not None and (virtual < batch or virtual % batch):
            raise ValueError(
                f"expected `run.virtual_batch_size` to be a multiple of `data.batch_size` ({batch}), but got {virtual}"
            )
        if virtual is not None and self.run.accumulate > 1:
            raise ValueError("expected `run.virtual_batch_size` or `run.accumulate`, but got both")

    @classmethod
    def from_dict(cls, groups: dict[str, dict[str, Any]]) -> "Config":
        """Creates a configuration from nested dictionaries, such as a recipe. Missing settings have their defaults.

        The settings of the user's own method are not checked (`UncheckedSettings`), because nothing is imported.

        Args:
            groups: For each group of settings, a dictionary.

        Raises:
            ValueError: A group or a setting is unknown, or a value has another type or is out of range. The message
                names it.

        Example:
            >>> Config.from_dict({"loss": {"hex": "adaptive"}}).loss.temperature
            0.1
            >>> Config.from_dict({"loss": {"temperature": "0.1"}})
            Traceback (most recent call last):
            ValueError: expected `loss.temperature` to be a number, but got '0.1'
        """
        cls.check(groups)
        known = cls._groups(groups)
        if known["method"] is not UncheckedSettings:
            return cls(**{name: known[name](**settings) for name, settings in groups.items()})
        rest = cls.from_dict({name: settings for name, settings in groups.items() if name != "method"})
        settings = dict(groups["method"])
        return replace(rest, method=UncheckedSettings(name=settings.pop("name"), settings=settings))

    @classmethod
    def check(cls, groups: dict[str, dict[str, Any]]) -> None:
        """Checks the names and types of settings, but not their ranges.

        Args:
            groups: Nested dictionaries, as for `from_dict`.

        Raises:
            ValueError: A group or a setting is unknown, or a value has another type. The message names it.
        """
        _check_mapping("the configuration", groups)
        for each in fields(cls):
            _check_mapping(f"`{each.name}`", groups.get(each.name, {}))
        known = cls._groups(groups)
        names = [*known, *(f"{group}.{each.name}" for group, config in known.items() for each in fields(config))]
        given = [name for name in groups if name not in known]
        given += [f"{name}.{setting}" for name in groups if name in known for setting in groups[name]]
        if known["method"] is UncheckedSettings:
            names += [name for name in given if name.startswith("method.")]
        if unknown := [name for name in given if name not in names]:
            if all(name.startswith("method.") for name in unknown):
                raise ValueError(unknown_of_method(cls._method(groups), unknown, names))
            raise ValueError(f"expected settings of a run, but got {', '.join(unknown)}{suggest(unknown, names)}")
        for name, settings in groups.items():
            if known[name] is not UncheckedSettings:
                check_types(name, known[name], settings)

    @classmethod
    def of_method(cls, name: str, settings: type[MethodSettings]) -> type["Config"]:
        """The configuration class for one method, for the parser of the command line.

        Args:
            name: Name of the method.
            settings: Class of the method's settings.
        """
        method = ("method", settings, field(default_factory=partial(settings, name=name)))
        return make_dataclass("Config", [method], bases=(cls,), frozen=True, namespace={"__doc__": cls.__doc__})

    @classmethod
    def _groups(cls, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The class of each group."""
        return {**types_of(cls), "method": type(cls._method(groups))}

    @classmethod
    def _method(cls, groups: Mapping[str, Mapping[str, Any]]) -> MethodSettings:
        """The default settings of the method: that of `of_method`, or else the one that the groups name."""
        if types_of(cls)["method"] is not MethodSettings:
            return cls().method
        return settings_class(groups.get("method", {}).get("name", SimCLRSettings.name))()

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The configuration as nested dictionaries that YAML and JSON can represent."""
        return {**asdict(self), "method": self.method.as_dict()}


def unknown_of_method(method: MethodSettings, unknown: Sequence[str], known: Iterable[str]) -> str:
    """The message of an error about settings that a method does not have.

    Args:
        method: Settings of the method.
        unknown: Dotted names of the unknown settings.
        known: Dotted names of all settings.
    """
    own = [each.name for each in fields(method) if each.name != "name"]
    expected = f"settings of {method.name}, {', '.join(own)}" if own else f"{method.name} to have no settings"
    return f"expected {expected}, but got {', '.join(f'`{name}`' for name in unknown)}{suggest(unknown, known)}"


def _check_mapping(what: str, found: Any) -> None:
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"expected {what} to hold names and values, but got {shortened(found)}")


def check_types(group: str, config: type[Any], settings: Mapping[str, Any]) -> None:
    """Checks settings against the annotations of their dataclass.

    Args:
        group: Name of the group in a run's configuration.
        config: The dataclass.
        settings: Values of fields of the dataclass, by name.

    Raises:
        ValueError: A value has another type. The message names it.
    """
    for name, annotation in types_of(config).items():
        if name in settings and not _fits(settings[name], annotation):
            expected, found = described(annotation), shortened(settings[name])
            raise ValueError(f"expected `{group}.{name}` to be {expected}, but got {found}")


def types_of(config: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's settings, by name."""
    hints = get_type_hints(config)
    return {each.name: hints[each.name] for each in fields(config)}


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value read from a file has a type. An int is also a float, but a bool is not a number.

    jsonargparse, which checks the command line, would accept the text "3" as a number, which is wrong in a file.
    """
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if kind is Literal:
        return isinstance(value, str) and value in arguments
    if kind is list:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if kind is dict:
        return isinstance(value, dict) and all(
            _fits(each, annotated) for item in value.items() for each, annotated in zip(item, arguments, strict=True)
        )
    if annotation in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if annotation is float else annotation)


PLAIN = (bool, float, int, str, NoneType)
"""Types of the values in a file."""


def is_plain(annotation: Any) -> bool:
    """Whether values of a type can be written in a file and on the command line, and can be checked.

    Example:
        >>> is_plain(dict[str, int | None]), is_plain(tuple[int, int])
        (True, False)
    """
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return all(isinstance(each, str) for each in arguments)
    if kind in (Union, UnionType, list, dict):
        return all(is_plain(each) for each in arguments)
    return annotation in PLAIN


def choices(annotation: Any) -> Iterator[str]:
    """The values that a Literal allows, also inside a list or a union."""
    for argument in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield argument
        else:
            yield from choices(argument)


def described(annotation: Any) -> str:
    """The type of a setting as text for an error.

    Example:
        >>> described(int | None), described(list[float])
        ('a whole number or null', 'a list, each a number')
    """
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return "one of " + ", ".join(f'"{each}"' for each in arguments)
    if kind in (Union, UnionType):
        return " or ".join(described(each) for each in arguments)
    if kind is list:
        return f"a list, each {described(arguments[0])}"
    if kind is dict:
        return f"names, each with {described(arguments[1])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
    return words[annotation]
