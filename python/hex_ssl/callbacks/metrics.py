"""Metrics as JSON lines and as CSV, readable while the run goes on."""

import csv
import json
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

Row = dict[str, float | None]

JSON_LINES = "metrics.jsonl"
CSV = "metrics.csv"


def read_metrics(folder: Path) -> list[Row]:
    """The events in a run folder's `metrics.jsonl`, in order; none if there is no such file."""
    path = folder / JSON_LINES
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class MetricsFiles(Logger):
    """A Lightning logger that writes `metrics.jsonl` and `metrics.csv` into the run folder.

    One line per event in both: `epoch` (epochs done), `step` (optimizer steps done) and the figures of that event.
    JSON has no NaN: a figure without a value is null there and empty in the CSV.

    Args:
        folder: The run folder.
        resumed_step: Where a resumed run goes on. What an interrupted run had logged after it is dropped: it is about
            to be logged again.
    """

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        super().__init__()
        self.folder = folder
        self._rows = [row for row in read_metrics(folder) if (row["step"] or 0) <= resumed_step] if resumed_step else []
        self._columns: list[str] = []
        self._write_json_lines(self._rows, mode="w")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run folder's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds an event."""
        row: Row = {"epoch": int(metrics["epoch"]), "step": step}
        row.update({name: _finite(value) for name, value in metrics.items() if name != "epoch"})
        self._rows.append(row)
        self._write_json_lines([row], mode="a")
        self._write_csv(row)

    def _write_json_lines(self, rows: list[Row], mode: str) -> None:
        with open(self.folder / JSON_LINES, mode, encoding="utf-8") as file:
            file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)

    def _write_csv(self, row: Row) -> None:
        """Appends the row; the whole file is written anew where a figure comes for the first time."""
        if row.keys() <= set(self._columns):
            mode, rows = "a", [row]
        else:
            mode, rows = "w", self._rows
            self._columns = list(dict.fromkeys(name for each in self._rows for name in each))
        with open(self.folder / CSV, mode, encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
