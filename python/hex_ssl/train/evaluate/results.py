"""Results with their protocol, as JSON and as a table. They are kept so that no measurement is repeated."""

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sklearn
import torch

from hex_ssl.train.reading import reading
from hex_ssl.train.whole_file import whole_file

Kind = TypeVar("Kind")

FORMAT = 1
"""The version of the JSON format. It is raised when a field changes its meaning."""

FIGURES = {
    "top1": "top-1",
    "top5": "top-5",
    "superclass_top1": "superclass top-1",
    "superclass_top5": "superclass top-5",
}
"""Names of the accuracies in the JSON, where they are in [0, 1], and in the table, where they are in percent."""

SETTINGS = {
    "dataset": "dataset",
    "epoch": "epoch",
    "by": "by",
    "fraction": "labels",
    "k": "k",
    "temperature": "T",
}
"""The fields that identify a row, in the JSON and in the table."""

KEY = ("dataset", "by", "fraction")
"""The fields that, with the weights, identify a measurement."""

Row = dict[str, Any]


@dataclass
class Results:
    """Rows of accuracies, and the file that keeps them.

    Args:
        command: "knn", "probe", "finetune" or "transfer".
        source: The path that was evaluated.
        protocol: Everything that affects an accuracy and is the same for each row, as values that JSON can represent,
            and `description`, the same in words.
        path: The file.
        rows: One row for each network, dataset, fraction of the labels and setting.
    """

    command: str
    source: str
    protocol: dict[str, Any]
    path: Path
    rows: list[Row] = field(default_factory=list)

    def measured(self, weights: str, epoch: int | None, **key: Any) -> list[Row]:
        """The rows of a measurement. Empty if it has not been made.

        Args:
            weights: Digest of the network's weights.
            epoch: Epoch of the network.
            **key: Values of `KEY`.
        """
        wanted = (weights, epoch, _key_of(key))
        return [row for row in self.rows if (row["weights"], row["epoch"], _key_of(row)) == wanted]

    def add(self, rows: Sequence[Row]) -> None:
        """Adds the rows of one measurement and saves. They replace rows of an earlier network of the same epoch."""
        new = {(_key_of(row), row["epoch"]) for row in rows}
        self.rows = [row for row in self.rows if (_key_of(row), row["epoch"]) not in new] + list(rows)
        self.save()

    def save(self) -> None:
        """Writes the file atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as file:
            file.write((json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n").encode())

    def as_dict(self) -> dict[str, Any]:
        """The results as a dictionary for JSON."""
        return {
            "format": FORMAT,
            "command": self.command,
            "source": self.source,
            "protocol": self.protocol,
            "rows": self.rows,
            "environment": {
                "torch": torch.__version__,
                "scikit-learn": sklearn.__version__,
                "python": platform.python_version(),
                "machine": platform.machine(),
            },
        }

    def table(self) -> str:
        """The rows in Markdown, in percent, followed by the protocol and each dataset's mean and deviation.

        Example:
            >>> row = {"dataset": "digits", "epoch": 5, "weights": "a", "fraction": 1.0, "k": 20, "temperature": 0.07}
            >>> row |= {"top1": 0.5, "normalised": "mean 0.3, deviation 0.4"}
            >>> results = Results("knn", "runs/x", {"description": "k-NN."}, Path("knn.json"), [row])
            >>> print(results.table())
            | dataset | epoch | labels | k  | T    | top-1 |
            |---------|-------|--------|----|------|-------|
            | digits  | 5     | 100 %  | 20 | 0.07 | 50.00 |
            <BLANKLINE>
            k-NN.
            - images of digits: mean 0.3, deviation 0.4
        """
        images = {row["dataset"]: row["normalised"] for row in self.rows if row.get("normalised")}
        lines = [f"- images of {dataset}: {normalised}" for dataset, normalised in sorted(images.items())]
        return "\n".join([f"{markdown_table(self.rows)}\n\n{self.protocol['description']}", *lines])


def open_results(command: str, source: Path, folder: Path, protocol: dict[str, Any], output: str | None) -> Results:
    """Opens earlier results to continue, or new ones.

    Args:
        command: "knn", "probe", "finetune" or "transfer".
        source: The source that is evaluated.
        folder: The run folder.
        protocol: Everything that affects an accuracy and is the same for each row, and `description`, the same in
            words. Two protocols that differ only in the words are the same.
        output: The file. None uses a file in the folder `evaluation`, named by a digest of the protocol's settings, so
            that each protocol has its own file.

    Raises:
        ValueError: The file does not hold results, or holds those of another protocol.
    """
    plain = json.loads(json.dumps(protocol))
    digest = hashlib.sha256(json.dumps(_settings(plain), sort_keys=True).encode()).hexdigest()[:8]
    path = folder / "evaluation" / f"{command}-{digest}.json" if output is None else Path(output)
    results = Results(command, str(source), plain, path)
    if path.exists():
        results.rows = _rows_of(path, command, plain)
    return results


def read_results(path: str | Path) -> Results:
    """Reads results from their file.

    Raises:
        ValueError: The file does not hold results.
    """
    with reading(path, "to hold results of hex-ssl"):
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        if saved["format"] != FORMAT:
            raise ValueError(f"format {saved['format']} instead of {FORMAT}")
        command, source = (_of_type(str, saved[name]) for name in ("command", "source"))
        protocol = _of_type(dict, saved["protocol"])
        _of_type(str, protocol["description"])
        results = Results(command, source, protocol, Path(path), _of_type(list, saved["rows"]))
        for row in results.rows:
            _check_row(row)
    return results


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows of accuracies in Markdown, in percent, with the standard deviation if there were several draws.

    Example:
        >>> print(markdown_table([{"dataset": "digits", "fraction": 0.1, "top1": 0.5, "deviation": {"top1": 0.01}}]))
        | dataset | labels | top-1         |
        |---------|--------|---------------|
        | digits  | 10 %   | 50.00 +- 1.00 |
    """
    columns = [name for name in (*SETTINGS, *FIGURES) if any(row.get(name) is not None for row in rows)]
    titles = {**SETTINGS, **FIGURES}
    lines = [[titles[name] for name in columns]]
    lines += [[_cell(row, name) for name in columns] for row in sorted(rows, key=_order)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    padded = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines]
    return "\n".join([padded[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *padded[1:]])


def _of_type(kind: type[Kind], value: Any) -> Kind:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} instead of {kind.__name__}")
    return value


def _check_row(row: Any) -> None:
    """Checks the types of the fields of a row that are used."""
    _of_type(dict, row)
    _of_type(str, row["weights"])
    _of_type(str, row["dataset"])
    _of_type(dict, row.get("deviation") or {})
    for name in ("by", "normalised"):
        _of_type(str, row.get(name) or "")
    if row["epoch"] is not None:
        _of_type(int, row["epoch"])
    numbers = [row.get(name) for name in ("fraction", "k", "temperature", *FIGURES)]
    for number in [*numbers, *(row.get("deviation") or {}).values()]:
        _of_type(float, float(number or 0.0))


def _cell(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return "-"
    if name in FIGURES:
        deviation = row.get("deviation", {}).get(name)
        return f"{100 * value:.2f}" + ("" if deviation is None else f" +- {100 * deviation:.2f}")
    if name == "fraction":
        return f"{100 * value:g} %"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _order(row: Row) -> tuple[Any, ...]:
    epoch = row.get("epoch")
    return (
        row.get("dataset", ""),
        row.get("by", ""),
        -1 if epoch is None else epoch,
        *(row.get(name) or 0.0 for name in ("fraction", "k", "temperature")),
    )


def _key_of(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)


def _settings(protocol: dict[str, Any]) -> dict[str, Any]:
    """A protocol without its description in words."""
    return {name: value for name, value in protocol.items() if name != "description"}


def _rows_of(path: Path, command: str, protocol: dict[str, Any]) -> list[Row]:
    saved = read_results(path)
    old, new = _settings(saved.protocol), _settings(protocol)
    if (saved.command, old) != (command, new):
        other = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
        raise ValueError(
            f"expected `output` to be new or to hold results by the same protocol, but {path} holds those of "
            f"{saved.command} with another {', '.join(other) or 'command'}"
        )
    return saved.rows
