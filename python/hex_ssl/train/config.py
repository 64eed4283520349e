"""A pretraining run as typed data: what a recipe, the command line and `config.yaml` in a run folder hold.

Plain dataclasses, without torch: each part is turned into an object where that object lives
(`hex_ssl.train.backbones`, `hex_ssl.train.data`, `hex_ssl.train.methods`, `hex_ssl.train.optim`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from functools import partial
from itertools import pairwise
from reprlib import repr as shortened
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hex_ssl.train.methods.settings import MethodSettings, SimCLRSettings, UncheckedSettings, settings_class
from hex_ssl.train.paths import expand_paths
from hex_ssl.train.ranges import above as _above
from hex_ssl.train.ranges import at_least as _at_least
from hex_ssl.train.ranges import between as _between
from hex_ssl.train.suggestions import suggest

HIGHEST_SEED = 2**32 - 1
"""NumPy's generators take no higher one."""


@dataclass(frozen=True)
class LossConfig:
    """The loss and HEX's part in it.

    `hex_ssl.train.methods` describes how each method uses HEX. A method ignores the settings that it has no use for.

    Args:
        hex: How HEX selects hierarchical negatives: by an "adaptive", "fixed", "step" or "cosine" threshold, or by
            superclass labels ("supervised"). "off": the method without HEX.
        base: The method's "own" loss. SimCLR without HEX also takes "hcl" (hard negatives) and "dcl" (decoupled).
        temperature: Temperature that divides the similarities, in [0.005, 10]. In Barlow Twins, VICReg, BYOL and
            SimSiam it is that of HEX.
        threshold_arguments: Arguments of the threshold, such as {quantile: 0.95}; "fixed" needs {value: ...}.
        formulation: Formulation of HEX: "importance", "official" or "decoupled".
        beta: Concentration on the hardest negatives, in HEX and HCL.
        tau_plus: Assumed share of false negatives, in HEX and HCL.
        alpha: HEX's share of the loss in Barlow Twins, VICReg, BYOL and SimSiam, in [0, 1].
        warmup_epochs: Number of epochs without HEX at the start.
    """

    hex: Literal["off", "adaptive", "fixed", "step", "cosine", "supervised"] = "off"
    base: Literal["own", "hcl", "dcl"] = "own"
    temperature: float = 0.1
    threshold_arguments: dict[str, int | float | str] = field(default_factory=dict)
    formulation: Literal["importance", "official", "decoupled"] = "importance"
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


@dataclass(frozen=True)
class BackboneConfig:
    """The network that is pretrained.

    Args:
        name: "small_resnet" (three blocks, for images of 8 to 32 pixels), "resnet18", "resnet50", "vit_small" or
            "swin_small" (also in the sizes tiny and base), "timm/NAME" for any model of timm, or "module:function" for
            a function of yours that returns a network.
        width: Channels of the first stage of "small_resnet"; the features have four times as many.
        stem: First layers of the ResNets: "small" (3x3, stride 1, no pooling), "large" (7x7, stride 2, pooling), or
            "auto" (small for images of up to 64 pixels).
        stem_padding: Padding of the small stem's convolution; solo-learn uses 2, which gives 34x34 maps for images of
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
        name: The dataset, as `hex-ssl datasets` lists them, or "module:function" for a function of yours that returns a
            torch Dataset, see `hex_ssl.train.data.own_dataset`.
        root: Folder that holds it, `~` and variables such as `$HOME` replaced; None where it comes with a package.
        level: Which level of the classes' tree the superclasses are, where the dataset's card names several, such as
            "family" of inaturalist2021; None: the card's default.
        image_size: Side of the square views in pixels; None: the dataset's own, at most 224.
        batch_size: Images per step and process; each gives the views.
        num_workers: Processes that load images. None: none for datasets in memory whose views are made on the device,
            else the cores there are.
        augmentation: Policy of the views, as `hex_ssl.train.data.POLICIES` lists them; "auto": the dataset's own.
        views: Views of your own in place of a policy's: a list of mappings, each with settings of
            `hex_ssl.train.data.PhotoView`, such as {crop_scale: [0.2, 1.0], blur: 0.5}, and `count`, how many such
            views to draw (1).
        augment_on: Make the views in the "workers", an image at a time, or on the "device", a batch at a time, where
            images in memory stay, and for which workers decode and crop the others. "auto": on the device for images in
            memory, and wherever there is a GPU.
        arguments: Further arguments of your function, such as {year: 2024}.
        fraction: Share of the training images, drawn with the run's seed and stratified where there are labels.
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
            raise ValueError(f'expected `data.augmentation` or `data.views`, but got "{self.augmentation}" and views')


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule. The learning rate rises linearly, then falls as the schedule says.

    Args:
        name: "sgd", "lars" or "adamw".
        learning_rate: The highest learning rate.
        scale_learning_rate: Multiply it by images per optimizer step, over all processes, / 256.
        weight_decay: Decay of the weights.
        momentum: Of "sgd" and "lars".
        decay_norms_and_biases: Whether parameters of one dimension decay too, and are scaled by "lars".
        trust_coefficient: "lars": eta.
        clip_trust: "lars": keep each layer's rate at or below the learning rate.
        warmup_epochs: Epochs until the highest learning rate.
        warmup_start: Learning rate of the first step.
        schedule: After the warm-up: "cosine", half of one, changing at each step; "step", a fall at each milestone;
            "exponential", a steady fall; "constant".
        final_learning_rate: "cosine": learning rate at the end.
        milestones: "step": epochs, counted from the start, at which the rate falls, such as [60, 80].
        decay_factor: "step": factor at each milestone; "exponential": factor of an epoch. In (0, 1].
        clip_norm: Largest norm of the gradient of all parameters together: a longer one is shortened to it. None: as
            long as it is.
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
                f'expected `optimizer.final_learning_rate` to be 0 where `optimizer.schedule` is "{self.schedule}", '
                f"but got {self.final_learning_rate}"
            )
        rising = all(before < after for before, after in pairwise([0.0, *self.milestones]))
        if (self.schedule == "step") != bool(self.milestones) or not rising:
            wanted = "epochs above 0 that rise" if self.schedule == "step" else f'empty for "{self.schedule}"'
            raise ValueError(f"expected `optimizer.milestones` to be {wanted}, but got {self.milestones}")


@dataclass(frozen=True)
class RunConfig:
    """The run and its folder, `root`/`name`.

    Args:
        name: Name of the run.
        root: Folder of the runs, `~` and variables such as `$HOME` replaced.
        existing: What to do with a run folder that is not empty: "error", "resume" after its last checkpoint,
            or "overwrite".
        seed: Decides weights, order of the images and augmentations; in [0, 2^32 - 1].
        weights: File that the backbone's weights start from: a checkpoint, an exported backbone, or a file of
            torchvision or timm. None: from the seed. A resumed run goes on from its checkpoint and does not read it.
        epochs: Epochs to train. A resumed run may have more than before.
        knn_every: Epochs between two k-NN evaluations; the first is before the training, one more at its end.
        classifier: Train a linear classifier on the backbone's detached representations beside the method.
        checkpoint_minutes: Minutes between two checkpoints within an epoch; one more at the end of each.
        keep_every: Epochs between two checkpoints that are kept for the analysis, the untrained backbone's among them;
            0: only the last checkpoint is kept.
        virtual_batch_size: Images of one loss and process by gradient caching, a multiple of the batch size: as large
            a batch in the memory of the smaller one. None: the batch size.
        accumulate: Batches per optimizer step, each with a loss of its own.
        accelerator: Lightning's: "auto", "cpu", "gpu", ...
        devices: Processes per node, one per device.
        nodes: Lightning's `num_nodes`.
        strategy: Lightning's: "auto", "ddp", ...
        precision: Lightning's: "32-true", "bf16-mixed", "16-mixed", ...; "auto": "bf16-mixed" on a GPU, "16-mixed" on
            one without bfloat16, else "32-true". `config.yaml` in the run folder has what "auto" was.
        channels_last: Keep images and convolutions with the channels last in memory: the same numbers but for rounding,
            and faster on most CPUs, and on GPUs in half precision. "auto": on a GPU.
        compile: Compile the networks and the views made on the device by torch.compile: the same numbers but for
            rounding, faster on a GPU after a first step that takes up to minutes. "auto": on a GPU, where Triton and a
            C compiler are there.
        sync_batchnorm: Take batch norm's statistics over all processes.
        deterministic: Deterministic kernels where there are any.
        loggers: Besides the metrics files: "tensorboard", "wandb".
        profiler: Lightning's: "simple", "advanced", "pytorch".
        progress: Whether to show a progress bar; in a file or a pipe, a line per epoch.
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
    keep_every: int = 0
    virtual_batch_size: int | None = None
    accumulate: int = 1
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "64-true"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = False
    sync_batchnorm: bool = True
    deterministic: bool = True
    loggers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        expand_paths(self, "root", "weights", group="run.")
        for name in ("epochs", "knn_every", "accumulate", "devices", "nodes"):
            _at_least(f"run.{name}", getattr(self, name), 1)
        for name in ("keep_every", "checkpoint_minutes"):
            _at_least(f"run.{name}", getattr(self, name), 0)
        _between("run.seed", self.seed, 0, HIGHEST_SEED)


@dataclass(frozen=True)
class Config:
    """A whole pretraining run.

    Args:
        method: The method's name and its settings.
        loss: The loss and HEX's part in it.
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
        """A run from nested dictionaries, such as a recipe; what they leave out has its default.

        The settings of a method of the user's stay as they are, `UncheckedSettings`: nothing is imported.

        Raises:
            ValueError: A group or a setting is unknown, or a value is of another type or out of its range; the message
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
        """Checks the names and the types of settings, whose values further ones may still replace.

        Args:
            groups: Nested dictionaries, as for `from_dict`.

        Raises:
            ValueError: A group or a setting is unknown, or a value is of another type; the message names it.
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
        """The configuration of runs of one method, for the parser of the command line.

        Args:
            name: The method.
            settings: The class of its settings.
        """
        method = ("method", settings, field(default_factory=partial(settings, name=name)))
        return make_dataclass("Config", [method], bases=(cls,), frozen=True, namespace={"__doc__": cls.__doc__})

    @classmethod
    def _groups(cls, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The class of each group."""
        return {**types_of(cls), "method": type(cls._method(groups))}

    @classmethod
    def _method(cls, groups: Mapping[str, Mapping[str, Any]]) -> MethodSettings:
        """The defaults of the method that is named in the groups, unless `of_method` has said which it is."""
        if types_of(cls)["method"] is not MethodSettings:
            return cls().method
        return settings_class(groups.get("method", {}).get("name", SimCLRSettings.name))()

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The same as nested dictionaries, ready for YAML or JSON."""
        return {**asdict(self), "method": self.method.as_dict()}


def unknown_of_method(method: MethodSettings, unknown: Sequence[str], known: Iterable[str]) -> str:
    """The text of an error about settings that a method does not have.

    Args:
        method: Settings that it has.
        unknown: Their dotted names.
        known: The dotted names of all settings.
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
        group: Its name in a run's configuration.
        config: The dataclass.
        settings: Names, which it has, and values.

    Raises:
        ValueError: A value is of another type; the message names it.
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
    """Whether a value read from a file is of a type; a whole number is a float too, a truth value is no number.

    jsonargparse, which checks the command line, would take the text "3" for a number here too.
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
    """Whether values of a type can stand in a file and on the command line, and their type can be checked.

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
    """The values that a Literal allows, also within a list or beside None."""
    for argument in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield argument
        else:
            yield from choices(argument)


def described(annotation: Any) -> str:
    """The type of a setting in words.

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
