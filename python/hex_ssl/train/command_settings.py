"""The settings of `hex-ssl export`, `analyze`, `report` and `demo` as typed data, without torch."""

from dataclasses import dataclass, field
from typing import Literal

from hex_ssl.train.paths import expand_paths
from hex_ssl.train.ranges import at_least


@dataclass(frozen=True)
class ExportConfig:
    """A folder with a backbone's weights, configuration and model card, for timm, torchvision or a hub.

    Args:
        source: Run folder, checkpoint (.ckpt) in one, or exported backbone (.safetensors).
        output: Folder to write to, new or empty. None uses `hub` in the run folder.
        name: Name of the model on a hub, for the model card, such as "me/resnet18-hex". None uses "USER/" and the run's
            name.
    """

    source: str
    output: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        expand_paths(self, "source", "output")


@dataclass(frozen=True)
class AnalyzeConfig:
    """Tables and figures that show how a run's representations are organised.

    Args:
        run: The run folder. Give either this or `features`.
        features: A .npy file, floats [N, D], or [epochs, N, D].
        labels: With `features`: a .npy file, integers [N], the classes.
        superclasses: With `features`: a .npy file, integers [N], or one for each class.
        beside: Another run on the same dataset. One superclass of both runs is drawn side by side (Figure 14). To
            compare their curves, use `hex-ssl report`.
        superclass: Name or number of the superclass in Figure 14 and in the last row of Figure 10. None draws a
            superclass with several classes at random.
        split: Split of the run's dataset.
        epochs: Checkpoints to analyse: "all" (those that were kept, and the last), "last", or epochs such as "0,10,20".
        images: Maximum number of images, drawn at random. None uses all.
        quantile: Quantile of the similarities that gives the threshold, in [0, 1].
        bins: Number of bins of the histograms.
        plane: Projection of the features to two dimensions: "umap", "pca", or "none" for no such figures.
        plane_images: Maximum number of images in the projection.
        anchors: Number of images whose nearest images are shown.
        output: Folder to write to. None uses `analysis` in the run folder.
        device: Device of the networks: "auto", "cpu", "cuda", ...
        num_workers: Number of DataLoader workers. None uses one per core, and none for images in memory.
        seed: Seed of all random choices.
    """

    run: str | None = None
    features: str | None = None
    labels: str | None = None
    superclasses: str | None = None
    beside: str | None = None
    superclass: str | None = None
    split: Literal["train", "test"] = "test"
    epochs: str = "all"
    images: int | None = None
    quantile: float = 0.99
    bins: int = 200
    plane: Literal["umap", "pca", "none"] = "umap"
    plane_images: int = 3000
    anchors: int = 7
    output: str | None = None
    device: str = "auto"
    num_workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        expand_paths(self, "run", "features", "labels", "superclasses", "beside", "output")
        if (self.run is None) == (self.features is None):
            raise ValueError("expected a run or `features`, and not both")
        if self.features is not None and self.output is None:
            raise ValueError("expected `output` to be the folder to write, but got none")
        if self.run is not None and (self.labels is not None or self.superclasses is not None):
            raise ValueError("expected `labels` and `superclasses` only with `features`: a run has its own")
        if self.beside is not None and self.run is None:
            raise ValueError("expected `beside` only with a run")
        if not 0.0 <= self.quantile <= 1.0:
            raise ValueError(f"expected `quantile` to be in [0, 1], but got {self.quantile}")
        lowest = {"images": 3, "bins": 1, "plane_images": 3, "anchors": 1, "num_workers": 0, "seed": 0}
        for name, bound in lowest.items():
            at_least(name, getattr(self, name), bound)


@dataclass(frozen=True)
class ReportConfig:
    """One page that shows runs side by side.

    Args:
        runs: Run folders. The page also shows the results of `hex-ssl analyze` and of the evaluations in them.
        output: File of the page.
        title: Title of the page. None uses the names of the runs.
    """

    runs: list[str] = field(default_factory=list)
    output: str = "report.html"
    title: str | None = None

    def __post_init__(self) -> None:
        expand_paths(self, "runs", "output")
        if not self.runs:
            raise ValueError("expected `runs` to name at least one run folder, but got none")


@dataclass(frozen=True)
class DemoConfig:
    """Pretrains on the digits with and without HEX, and compares the results.

    Args:
        folder: Folder of runs, results and plots. Earlier runs of the demo in it are replaced.
        seeds: Number of seeds, at least 1. Each seed has one run with HEX and one without.
        epochs: Number of epochs of each run. None uses the recipes' number.
    """

    folder: str = "runs/demo"
    seeds: int = 3
    epochs: int | None = None

    def __post_init__(self) -> None:
        expand_paths(self, "folder")
        for name in ("seeds", "epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected `{name}` to be at least 1, but got {value}")
