"""Metrics as JSON Lines and CSV, readable during the run."""

import csv
import io
import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from hex_ssl.train.reading import reading
from hex_ssl.train.whole_file import naming, whole_file

Row = dict[str, float | None]

JSON_LINES = "metrics.jsonl"
CSV = "metrics.csv"


def read_metrics(folder: Path) -> list[Row]:
    """The events in a run folder's `metrics.jsonl`, in order. Empty if there is no such file.

    An incomplete last line, of a process that died while writing it, is ignored.

    Raises:
        ValueError: A line is not a row of numbers.
    """
    path = folder / JSON_LINES
    if not path.is_file():
        return []
    with reading(path, "to hold a line of figures for each event"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        for row in rows:
            if not isinstance(row, dict) or not all(isinstance(each, (int, float, NoneType)) for each in row.values()):
                raise ValueError(f"the line {str(row)[:40]}")
    return rows


def accuracies(row: Row) -> dict[str, str]:
    """The accuracies of an event, in words.

    Example:
        >>> accuracies({"epoch": 2, "loss": 6.2, "knn_accuracy": 0.8917})
        {'k-NN accuracy': '89.2 %'}
    """
    return {
        name.replace("knn", "k-NN").replace("_", " "): f"{100 * (value or 0):.1f} %"
        for name, value in row.items()
        if "accuracy" in name
    }


class MetricsFiles(Logger):
    """A Lightning logger that writes `metrics.jsonl` and `metrics.csv` into the run folder.

    Both have one line per event: `epoch` (epochs done), `step` (optimizer steps done) and the metrics of that event.
    JSON has no NaN and infinity, so values that are not finite are null there and empty in the CSV.

    Args:
        folder: The run folder.
        resumed_step: Step at which a resumed run continues. Later events of the interrupted run are removed, because
            they are logged again.
    """

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        super().__init__()
        self.folder = folder
        self.resumed_step = resumed_step
        self._rows: list[Row] | None = None
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run folder's config.yaml has the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes an event. The files are created with the first event."""
        if self._rows is None:
            self._rows = self._earlier_rows()
        row: Row = {"epoch": int(metrics["epoch"]), "step": step}
        row.update({name: _finite(value) for name, value in metrics.items() if name != "epoch"})
        self._rows.append(row)
        self._write(row, self._rows)

    def _earlier_rows(self) -> list[Row]:
        """Reduces the file to the rows that a resumed run keeps, and returns them."""
        rows = [row for row in read_metrics(self.folder) if (row["step"] or 0) <= self.resumed_step]
        rows = rows if self.resumed_step else []
        with whole_file(self.folder / JSON_LINES) as file:
            file.write("".join(map(_json_line, rows)).encode())
        return rows

    def _write(self, row: Row, rows: list[Row]) -> None:
        """Appends the row. If it has a new column, the whole CSV is written again."""
        _append(self.folder / JSON_LINES, _json_line(row))
        if row.keys() <= set(self._columns):
            _append(self.folder / CSV, _csv_lines(self._columns, [row]))
            return
        self._columns = list(dict.fromkeys(name for each in rows for name in each))
        header = dict(zip(self._columns, self._columns, strict=True))
        with whole_file(self.folder / CSV) as file:
            file.write(_csv_lines(self._columns, [header, *rows]).encode())


def _append(path: Path, text: str) -> None:
    with naming(path), open(path, "ab") as file:
        file.write(text.encode())


def _csv_lines(columns: list[str], rows: Sequence[Mapping[str, object]]) -> str:
    lines = io.StringIO()
    csv.DictWriter(lines, columns).writerows(rows)
    return lines.getvalue()


def _json_line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
