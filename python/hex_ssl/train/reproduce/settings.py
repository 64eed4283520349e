"""What `hex-ssl reproduce` is asked for, as typed data."""

from dataclasses import dataclass, field
from typing import Literal

from hex_ssl.train.paths import expand_paths

ScaleName = Literal["smoke", "small", "gpu", "paper"]


@dataclass(frozen=True)
class ReproduceConfig:
    """An experiment of the paper, or one of ours: all its runs, and a table of figures beside the paper's.

    Args:
        experiment: Its name, as `hex-ssl reproduce` lists them, or a YAML file of yours.
        scale: "smoke": seconds, figures mean nothing; "small": 2 cores and CIFAR-100; "gpu": one
            GPU, CIFAR-100 and a ResNet-18; "paper": the paper's recipe.
        data: Folder that holds the datasets, each in it or in a folder of its name.
        out: Folder for runs and table.
        results: File of the finished runs, a line of JSON for each; None: `results.jsonl` in `out`.
        group: Only this group of rows.
        rows: Only rows whose name matches this pattern, such as "hex*"; for a difference, the baseline row too.
        seeds: These in place of the scale's.
        epochs: So many in place of the scale's.
        jobs: Runs side by side, each in a process with its share of the cores, on the same GPU if there is one.
        minutes: Minutes after which the command ends: runs under way save a checkpoint, from which the same command
            goes on. An evaluation under way is finished. None: no limit.
        keep_checkpoints: Keep checkpoints and backbone of a run after its evaluation.
        list: Only list the rows, and how many of their runs are done.
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
            raise ValueError(f"expected `seeds` to be different numbers from 0, but got {self.seeds}")
