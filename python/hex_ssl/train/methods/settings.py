"""The settings of each method, and the list of the methods. It does not import torch, so `hex-ssl --help` is fast.

A run's `method` group holds the method's name and the settings of that method. A user's own method brings its own
settings: see `hex_ssl.train.methods.base.Method.settings_class`.
"""

from dataclasses import asdict, dataclass, field
from reprlib import repr as shortened
from typing import Any, ClassVar, Literal

from hex_ssl.train.ranges import above, at_least, between
from hex_ssl.train.suggestions import suggest

OWN = "module:Class"
"""The form of the name of a user's own method."""

TRANSFORMER_HEADS = 8
"""Number of attention heads of All4One's transformer."""


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Base class of the methods' settings. By itself, it is for a method without settings.

    Args:
        name: The method, or "module:Class" for your own method. `--help` after it lists its settings.

    Attributes:
        method: Location of the class of a method of this package, as "module:Class".
        probe_learning_rate: Learning rate of the linear probe by SGD, for 256 images per step. Source: solo-learn
            9187ea3, scripts/linear/imagenet-100.
    """

    method: ClassVar[str] = ""
    probe_learning_rate: ClassVar[float] = 1.0

    name: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The name and the settings, as in a recipe."""
        return asdict(self)

    def _at_least(self, lowest: float, *names: str) -> None:
        for name in names:
            at_least(f"method.{name}", getattr(self, name), lowest)

    def _between(self, lowest: float, highest: float, *names: str) -> None:
        for name in names:
            between(f"method.{name}", getattr(self, name), lowest, highest)


@dataclass(frozen=True, kw_only=True)
class SimCLRSettings(MethodSettings):
    """SimCLR's settings.

    Args:
        hidden_dim: Width of the projector's hidden layer.
        output_dim: D, the width of the projections.
    """

    method: ClassVar[str] = "hex_ssl.train.methods.simclr:SimCLR"

    name: str = "simclr"
    hidden_dim: int = 2048
    output_dim: int = 128

    def __post_init__(self) -> None:
        self._at_least(1, "hidden_dim", "output_dim")


@dataclass(frozen=True, kw_only=True)
class NNCLRSettings(MethodSettings):
    """NNCLR's settings.

    Args:
        hidden_dim: Width of the projector's hidden layers.
        output_dim: D, the width of the projections.
        predictor_dim: Width of the predictor's hidden layer.
        queue_size: Number of rows of the queue.
    """

    method: ClassVar[str] = "hex_ssl.train.methods.nnclr:NNCLR"
    probe_learning_rate: ClassVar[float] = 0.3

    name: str = "nnclr"
    hidden_dim: int = 2048
    output_dim: int = 256
    predictor_dim: int = 4096
    queue_size: int = 98304

    def __post_init__(self) -> None:
        self._at_least(1, "hidden_dim", "output_dim", "predictor_dim", "queue_size")


@dataclass(frozen=True, kw_only=True)
class All4OneSettings(MethodSettings):
    """All4One's settings.

    Args:
        hidden_dim: Width of the projector's hidden layers.
        output_dim: D, the width of the projections, a multiple of 8 (the number of the transformer's heads).
        predictor_dim: Width of the two predictors' hidden layers.
        queue_size: Number of rows of the queue, which holds momentum projections of first views.
        neighbours: k, the number of nearest neighbours of an image.
        momentum: Share of its old weights that the momentum encoder keeps at each step, at the start of the run.
        final_momentum: That share at the end of the run. The share follows half a cosine.
        attention_temperature: Temperature of the centroid term. None uses that of the loss; solo-learn always uses 0.1.
        positional_axis: Positions of the sinusoidal code: the "rank" of the neighbour, as in transformers, or the
            "feature", as in solo-learn, where the rank decides frequency and phase.
        transformer_learning_rate: Learning rate of the transformer, not scaled by the batch size. None uses that of the
            other parameters; solo-learn uses 0.1.
    """

    method: ClassVar[str] = "hex_ssl.train.methods.all4one:All4One"
    probe_learning_rate: ClassVar[float] = 0.3  # ours: NNCLR's value, because solo-learn has none for All4One

    name: str = "all4one"
    hidden_dim: int = 2048
    output_dim: int = 256
    predictor_dim: int = 4096
    queue_size: int = 98304
    neighbours: int = 5
    momentum: float = 0.99
    final_momentum: float = 1.0
    attention_temperature: float | None = None
    positional_axis: Literal["rank", "feature"] = "rank"
    transformer_learning_rate: float | None = None

    def __post_init__(self) -> None:
        self._at_least(1, "hidden_dim", "output_dim", "predictor_dim", "queue_size", "neighbours")
        self._at_least(0.0, "transformer_learning_rate")
        self._between(0.0, 1.0, "momentum", "final_momentum")
        above("method.attention_temperature", self.attention_temperature, 0.0)
        if self.output_dim % TRANSFORMER_HEADS:
            raise ValueError(
                f"expected `method.output_dim` to be a multiple of {TRANSFORMER_HEADS}, but got {self.output_dim}"
            )
        if self.neighbours > self.queue_size:
            raise ValueError(
                f"expected `method.queue_size` to be at least `method.neighbours` ({self.neighbours}), but got "
                f"{self.queue_size}"
            )
        if self.positional_axis not in ("rank", "feature"):
            raise ValueError(
                f'expected `method.positional_axis` to be "rank" or "feature", but got "{self.positional_axis}"'
            )


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsSettings(MethodSettings):
    """Barlow Twins' settings.

    Args:
        hidden_dim: Width of the projector's hidden layers.
        output_dim: D, the width of the projections.
        lamb: Weight of the off-diagonal terms.
        scale: Factor of the whole loss. solo-learn's recipes and the HEX paper use 0.1.
        sync_statistics: Whether to compute the batch statistics over all processes. solo-learn does not.
    """

    method: ClassVar[str] = "hex_ssl.train.methods.barlow_twins:BarlowTwins"
    probe_learning_rate: ClassVar[float] = 0.1

    name: str = "barlow_twins"
    hidden_dim: int = 8192
    output_dim: int = 8192
    lamb: float = 0.005
    scale: float = 1.0
    sync_statistics: bool = True

    def __post_init__(self) -> None:
        self._at_least(1, "hidden_dim", "output_dim")
        self._at_least(0.0, "lamb", "scale")


@dataclass(frozen=True, kw_only=True)
class BYOLSettings(MethodSettings):
    """BYOL's settings.

    Args:
        hidden_dim: Width of the projector's hidden layer.
        output_dim: D, the width of the projections.
        predictor_dim: Width of the predictor's hidden layer.
        momentum: Share of its old weights that the momentum encoder keeps at each step, at the start of the run.
        final_momentum: That share at the end of the run. The share follows half a cosine.
    """

    method: ClassVar[str] = "hex_ssl.train.methods.byol:BYOL"
    probe_learning_rate: ClassVar[float] = 0.3

    name: str = "byol"
    hidden_dim: int = 4096
    output_dim: int = 256
    predictor_dim: int = 4096
    momentum: float = 0.996
    final_momentum: float = 1.0

    def __post_init__(self) -> None:
        self._at_least(1, "hidden_dim", "output_dim", "predictor_dim")
        self._between(0.0, 1.0, "momentum", "final_momentum")


@dataclass(frozen=True, kw_only=True)
class MoCoV2Settings(MethodSettings):
    """MoCo v2's settings.

    Args:
        hidden_dim: Width of the projector's hidden layer.
        output_dim: D, the width of the projections.
        queue_size: Number of rows of each queue.
        momentum: Share of its old weights that the momentum encoder keeps at each step, at the start of the run.
        final_momentum: That share at the end of the run. The share follows half a cosine.
        symmetric: Whether to average over both directions, with a queue for each view, as solo-learn does ("MoCo v2+").
            Otherwise the first view is the query and the second the key, as in the paper, at half the cost.
    """

    method: ClassVar[str] = "hex_ssl.train.methods.mocov2:MoCoV2"
    probe_learning_rate: ClassVar[float] = 3.0

    name: str = "mocov2"
    hidden_dim: int = 2048
    output_dim: int = 128
    queue_size: int = 65536
    momentum: float = 0.999
    final_momentum: float = 0.999
    symmetric: bool = False

    def __post_init__(self) -> None:
        self._at_least(1, "hidden_dim", "output_dim", "queue_size")
        self._between(0.0, 1.0, "momentum", "final_momentum")


@dataclass(frozen=True, kw_only=True)
class VICRegSettings(MethodSettings):
    """VICReg's settings.

    Args:
        hidden_dim: Width of the projector's hidden layers.
        output_dim: D, the width of the projections.
        sim_weight: Weight of the invariance term.
        var_weight: Weight of the variance term.
        cov_weight: Weight of the covariance term.
        half_variance: Whether to use the mean of the two views' variance terms, as the authors' code does. Otherwise
            it is their sum, as in solo-learn.
    """

    method: ClassVar[str] = "hex_ssl.train.methods.vicreg:VICReg"
    probe_learning_rate: ClassVar[float] = 0.3

    name: str = "vicreg"
    hidden_dim: int = 8192
    output_dim: int = 8192
    sim_weight: float = 25.0
    var_weight: float = 25.0
    cov_weight: float = 1.0
    half_variance: bool = True

    def __post_init__(self) -> None:
        self._at_least(1, "hidden_dim", "output_dim")
        self._at_least(0.0, "sim_weight", "var_weight", "cov_weight")


@dataclass(frozen=True, kw_only=True)
class SimSiamSettings(MethodSettings):
    """SimSiam's settings.

    Args:
        hidden_dim: Width of the projector's hidden layers.
        output_dim: D, the width of the projections.
        predictor_dim: Width of the predictor's hidden layer.
    """

    method: ClassVar[str] = "hex_ssl.train.methods.simsiam:SimSiam"
    probe_learning_rate: ClassVar[float] = 30.0

    name: str = "simsiam"
    hidden_dim: int = 2048
    output_dim: int = 2048
    predictor_dim: int = 512

    def __post_init__(self) -> None:
        self._at_least(1, "hidden_dim", "output_dim", "predictor_dim")


METHODS: dict[str, type[MethodSettings]] = {
    each.name: each
    for each in (
        SimCLRSettings,
        NNCLRSettings,
        All4OneSettings,
        BarlowTwinsSettings,
        BYOLSettings,
        MoCoV2Settings,
        VICRegSettings,
        SimSiamSettings,
    )
}
"""The settings of the methods, by the methods' names in a configuration."""


@dataclass(frozen=True, kw_only=True)
class UncheckedSettings(MethodSettings):
    """The settings of a user's own method as read from a file, unchecked.

    Checking them would import the module that the file names, so `build_method` does it later.

    Args:
        name: The method, as "module:Class".
        settings: The other settings.
    """

    settings: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The name and the settings, as in a recipe."""
        return {"name": self.name, **self.settings}


def settings_class(name: Any) -> type[MethodSettings]:
    """The class of a method's settings, by the method's name. It imports nothing.

    Args:
        name: As in a configuration.

    Returns:
        The class. It is `UncheckedSettings` for a user's own method.

    Raises:
        ValueError: There is no such method.

    Example:
        >>> settings_class("nnclr")().queue_size
        98304
    """
    if isinstance(name, str) and ":" in name:
        return UncheckedSettings
    if not isinstance(name, str) or name not in METHODS:
        known = ", ".join(f'"{each}"' for each in METHODS)
        found = shortened(name)
        meant = suggest([name], METHODS) if isinstance(name, str) else ""
        raise ValueError(f'expected `method.name` to be one of {known} or "{OWN}", but got {found}{meant}')
    return METHODS[name]
