"""The settings of `hex-ssl reproduce`."""

from dataclasses import dataclass, field
from typing import Literal

from hex_ssl.train.paths import expand_paths

ScaleName = Literal["smoke", "small", "gpu", "paper"]


@dataclass(frozen=True)
class ReproduceConfig:
    """Runs an experiment of the paper, or one of ours, and writes a table that compares with the paper.

    Args:
        experiment: A name that `hex-ssl reproduce` lists, or your own YAML file.
        scale: "smoke" (seconds, only to test that everything works), "small" (2 cores and CIFAR-100), "gpu" (one GPU,
            CIFAR-100 and a ResNet-18), or "paper" (the paper's recipe).
        data: Folder that contains the datasets, each directly or in a folder of its name.
        out: Folder of the runs and the table.
        results: File of the finished runs in JSON Lines. None uses `results.jsonl` in `out`.
        group: Only this group of rows.
        rows: Only rows whose name matches this pattern, such as "hex*". Differences also need the baseline row.
        seeds: Seeds to use instead of those of the scale.
        epochs: Number of epochs to use instead of that of the scale.
        jobs: Number of runs at the same time, each in a process with its share of the cores, on the same GPU if there
            is one.
        minutes: Minutes after which the command ends. Runs in progress save a checkpoint, from which the same command
            continues. An evaluation in progress is finished first. None sets no limit.
        keep_checkpoints: Whether to keep the checkpoints and the backbone of a run after its evaluation.
        list: Whether to only list the rows, and how many of their runs are done.
    """

    experiment: str
    scale: ScaleName = "small"
    data: str | None = None
    out: str = "runs/reproduce"
    results: str | None = None
    group: str | None = None
    rows: str = "*"
    seeds: list[int] = field(default_factory=list)
    epochs: int | None = None
    jobs: int = 1
    minutes: float | None = None
    keep_checkpoints: bool = False
    list: bool = False

    def __post_init__(self) -> None:
        expand_paths(self, "experiment", "data", "out", "results")
        if self.jobs < 1:
            raise ValueError(f"expected `jobs` to be at least 1, but got {self.jobs}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"expected `epochs` to be at least 1, but got {self.epochs}")
        if self.minutes is not None and not self.minutes >= 0:
            raise ValueError(f"expected `minutes` to be at least 0, but got {self.minutes}")
        if len(set(self.seeds)) < len(self.seeds) or any(seed < 0 for seed in self.seeds):
            raise ValueError(f"expected `seeds` to be distinct numbers of at least 0, but got {self.seeds}")
