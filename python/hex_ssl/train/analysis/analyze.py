"""Analyses a run, or arrays of features and labels: tables, figures, and a JSON file that the report reads."""

import base64
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hex_ssl.statistics import GROUPS
from hex_ssl.train.analysis.figures import (
    BESIDE,
    CURVES,
    FIGURES,
    PLANE,
    draw_curves,
    draw_histograms,
    draw_nearest,
    draw_planes,
)
from hex_ssl.train.analysis.measures import COLUMNS, Record, check_features, measure
from hex_ssl.train.analysis.neighbours import nearest_in_batches
from hex_ssl.train.analysis.plane import PlaneMethod, to_plane
from hex_ssl.train.analysis.run import checkpoints_of, subject_from_run
from hex_ssl.train.analysis.snapshots import REPRESENTATION, Array, Snapshot, Subject, subject_from_arrays
from hex_ssl.train.command_settings import AnalyzeConfig
from hex_ssl.train.whole_file import naming, write_whole

FOLDER, ANALYSIS = "analysis", "analysis.json"
TABLES = ("similarity.csv", "ranks.csv", "histograms.csv", "plane.csv", "nearest.csv")
FEW = 5
"""Number of superclasses in the middle row of Figure 10."""

SHOWN = 5
"""Number of images that Figure 15 shows beside each anchor. With no more images than these there is no such figure."""

Pictures = tuple[list[list[NDArray[np.uint8]]], list[list[str]]]
"""Rows of images [H, W, 3], and the text above each."""


def analyze(config: AnalyzeConfig) -> Path:
    """Analyses the features of a run's checkpoints, or given features, and writes tables and figures.

    Writes `analysis.json`, `similarity.csv` (a line for each epoch and space), `histograms.csv`, `ranks.csv`,
    `plane.csv` and `nearest.csv`, and the figures as PNG and SVG. They replace the files of an earlier analysis only
    when all of them are complete. Other files in the folder stay.

    Args:
        config: The settings.

    Returns:
        The folder.

    Raises:
        FileNotFoundError, ValueError: See `AnalyzeConfig`, `subject_from_run` and `subject_from_arrays`. Also if an
            image's features are all zero or not finite.
        OSError: The folder cannot be written, for example on a full disk. The files in it are unchanged.
    """
    subject = _subject(config)
    folder = Path(config.output) if config.output else Path(str(config.run)) / FOLDER
    found = _Findings(config, subject)
    for snapshot in subject.snapshots():
        found.add(snapshot)
    result = found.result()
    _write(result, found.pictures(result["nearest"]), folder)
    return folder


def summarize(folder: Path) -> str:
    """The measures of the last snapshot as a text table."""
    result = json.loads((folder / ANALYSIS).read_text(encoding="utf-8"))
    last = {record["space"]: record for record in result["records"]}
    width = max(map(len, COLUMNS))
    lines = ["".ljust(width) + "".join(f"{space:>16}" for space in last)]
    for name in COLUMNS:
        cells = ("" if record[name] is None else f"{record[name]:.4g}" for record in last.values())
        lines.append(name.ljust(width) + "".join(f"{cell:>16}" for cell in cells))
    epochs = {record["epoch"] for record in result["records"]}
    if result["config"]["run"] is not None and result["config"]["epochs"] == "all" and len(epochs) == 1:
        lines.append(
            f"only one checkpoint was found, of epoch {epochs.pop()}, so there are no curves; `run.keep_every` keeps "
            "more checkpoints"
        )
    return "\n".join([*lines, f"tables and figures: {folder}"])


def _subject(config: AnalyzeConfig) -> Subject:
    if config.features is not None:
        return subject_from_arrays(config.features, config.labels, config.superclasses)
    return _run(config, str(config.run), config.epochs)


def _run(config: AnalyzeConfig, folder: str, epochs: str) -> Subject:
    return subject_from_run(folder, config.split, epochs, config.images, config.device, config.seed, config.num_workers)


def _beside(config: AnalyzeConfig, subject: Subject) -> Subject | None:
    """The other run of Figure 14, with its last checkpoint only."""
    if config.beside is None:
        return None
    last = max(checkpoints_of(config.beside, config.epochs))
    other = _run(config, config.beside, str(last))
    if not np.array_equal(np.asarray(other.classes), np.asarray(subject.classes)):
        raise ValueError(f"expected `beside` to be a run on the same images, but {config.beside} has others")
    return other if other.name != subject.name else replace(other, name=config.beside)


class _Findings:
    """Collects the results, snapshot by snapshot. Only the first and the last snapshot are kept whole."""

    def __init__(self, config: AnalyzeConfig, subject: Subject) -> None:
        self.config = config
        self.subject = subject
        self.beside = _beside(config, subject)
        self.one = within_one(subject, config.seed, config.superclass)
        self.records: list[Record] = []
        self.histograms: list[dict[str, Any]] = []
        self.ranks: list[Record] = []
        self.ends: list[Snapshot] = []

    def add(self, snapshot: Snapshot) -> None:
        config = self.config
        for space in snapshot.spaces:
            record, found, ranks = measure(self.subject, snapshot, space, config.quantile, config.bins, config.seed)
            self.records.append(record)
            at = {"epoch": snapshot.epoch, "space": space}
            counts = dict(zip(GROUPS, found.histogram.tolist(), strict=True))
            self.histograms.append({**at, "threshold": found.threshold, **counts})
            self.ranks += [
                {**at, **each._asdict(), "ratio": each.ratio, "name": self._group(each.group)} for each in ranks
            ]
        self.ends = [*self.ends[:1], snapshot]

    def _group(self, label: int) -> str:
        subject = self.subject
        return subject.class_name(label) if subject.superclasses is None else subject.superclass_name(label)

    @property
    def plane_space(self) -> str:
        """The space of the projections and nearest images: representations if there are any, as in the paper."""
        spaces = list(self.ends[0].spaces)
        return REPRESENTATION if REPRESENTATION in spaces else spaces[0]

    def result(self) -> dict[str, Any]:
        subject, config = self.subject, self.config
        planes = list(self._planes())
        return {
            "name": subject.name,
            "description": subject.description,
            "config": asdict(config),
            "columns": COLUMNS,
            "groups": list(GROUPS),
            "has_superclasses": subject.superclasses is not None,
            "records": self.records,
            "histograms": self.histograms,
            "ranks": self.ranks,
            "planes": planes,
            "beside": self._plane_beside(planes),
            "nearest": self._nearest(),
        }

    def _planes(self) -> Iterator[dict[str, Any]]:
        """Figure 10: all images, those of a few superclasses, and those of one by class; first and last snapshot."""
        if self.config.plane == "none":
            return
        images = len(self.ends[0].spaces[self.plane_space])
        for title, by, rows in _plane_sets(self.subject, images, self.one, self.config):
            for snapshot in self.ends:
                yield plane(
                    self.subject, snapshot, self.plane_space, title, by, rows, self.config.plane, self.config.seed
                )

    def _plane_beside(self, planes: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """The other half of Figure 14: the superclass that the last of `planes` shows, in the other run."""
        if self.beside is None or self.config.plane == "none" or self.one is None:
            return None
        (snapshot,) = self.beside.snapshots()
        own, seed = planes[-1], self.config.seed
        space, title, by, method = (own[name] for name in ("space", "title", "by", "method"))
        check_features(self.beside, snapshot, space)
        return plane(self.beside, snapshot, space, title, by, np.array(own["rows"]), method, seed)

    def _nearest(self) -> list[dict[str, Any]]:
        features = self.ends[-1].spaces[self.plane_space]
        if len(features) <= SHOWN:
            return []
        found = nearest_in_batches(features, self.config.anchors, SHOWN, seed=self.config.seed)
        return [
            {
                "anchor": self._item(int(anchor), 1.0),
                "nearest": [self._item(int(row), float(cosine)) for row, cosine in zip(rows, cosines, strict=True)],
            }
            for anchor, rows, cosines in zip(*found, strict=True)
        ]

    def _item(self, row: int, cosine: float) -> dict[str, Any]:
        subject = self.subject
        return {
            "row": row,
            "cosine": cosine,
            "class": None if subject.classes is None else subject.class_name(int(subject.classes[row])),
            "superclass": None
            if subject.superclasses is None
            else subject.superclass_name(int(subject.superclasses[row])),
            "picture": None if subject.images is None else _data_uri(subject.images(np.array([row]))[0]),
        }

    def pictures(self, nearest: list[dict[str, Any]]) -> Pictures | None:
        """The pictures of Figure 15, if there are images."""
        if self.subject.images is None or not nearest:
            return None
        rows = [[line["anchor"], *line["nearest"]] for line in nearest]
        images = [list(self.subject.images(np.array([item["row"] for item in row]))) for row in rows]
        names = [[str(item["superclass"] or item["class"] or item["row"]) for item in row] for row in rows]
        return images, names


def plane(
    subject: Subject,
    snapshot: Snapshot,
    space: str,
    title: str,
    by: str,
    rows: NDArray[np.int64],
    method: PlaneMethod,
    seed: int,
) -> dict[str, Any]:
    """Projects some of a snapshot's images to two dimensions. Returns them with labels and names, for JSON."""
    found = to_plane(snapshot.spaces[space][rows], method, seed)
    labels = {"class": subject.classes, "superclass": subject.superclasses}
    chosen = {name: None if each is None else each[rows].tolist() for name, each in labels.items()}
    names = {"class": subject.class_name, "superclass": subject.superclass_name}
    return {
        "title": title,
        "by": by,
        "caption": subject.name if snapshot.epoch is None else f"epoch {snapshot.epoch}",
        "run": subject.name,
        "epoch": snapshot.epoch,
        "space": space,
        "method": method,
        "rows": rows.tolist(),
        "x": found[:, 0].round(4).tolist(),
        "y": found[:, 1].round(4).tolist(),
        **chosen,
        "labels": chosen[by] or [0] * len(rows),
        "names": {str(label): names[by](label) for label in sorted(set(chosen[by] or []))},
        "all_names": {
            kind: {str(label): names[kind](label) for label in sorted(set(each or []))} for kind, each in chosen.items()
        },
    }


def _plane_sets(
    subject: Subject, images: int, one: tuple[str, NDArray[np.int64]] | None, config: AnalyzeConfig
) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
    """The sets of images of Figure 10: title, kind of label that colours them, rows."""
    generator = np.random.default_rng(config.seed)
    classes, above = subject.classes, subject.superclasses

    def some(of: NDArray[np.int64]) -> NDArray[np.int64]:
        few = of if len(of) <= config.plane_images else generator.choice(of, config.plane_images, replace=False)
        return np.sort(few)

    yield "all images", "superclass" if above is not None else "class", some(np.arange(images))
    if above is None or classes is None:
        return
    known = np.unique(above)
    if len(known) > FEW:
        few = generator.choice(known, FEW, replace=False)
        yield f"{FEW} superclasses", "superclass", some(np.flatnonzero(np.isin(above, few)))
    if one is not None:
        yield f"within {one[0]}", "class", some(one[1])


def within_one(subject: Subject, seed: int, superclass: str | None = None) -> tuple[str, NDArray[np.int64]] | None:
    """The name and the rows of one superclass with at least 3 images.

    Args:
        subject: The subject, for its labels.
        seed: Seed of the draw.
        superclass: Name or number of the superclass. None draws one with several classes at random.

    Returns:
        The name and the rows, or None if there is no superclass to draw.

    Raises:
        ValueError: There is no such superclass, or it has fewer than 3 images.
    """
    above, classes = subject.superclasses, subject.classes
    if above is None or classes is None:
        if superclass is not None:
            raise ValueError(f"expected `superclass` only if images have superclasses, but got {superclass!r}")
        return None
    labels, images = (each.tolist() for each in np.unique(above, return_counts=True))
    if superclass is not None:
        one = _superclass(subject, labels, superclass)
        if (count := images[labels.index(one)]) < 3:
            raise ValueError(f"expected `superclass` to have at least 3 images, but {superclass!r} has {count}")
    else:
        several = [
            label
            for label, count in zip(labels, images, strict=True)
            if count >= 3 and len(np.unique(classes[above == label])) > 1
        ]
        if not several:
            return None
        one = int(np.random.default_rng(seed).choice(several))
    return subject.superclass_name(one), np.flatnonzero(above == one)


def _superclass(subject: Subject, labels: Sequence[int], given: str) -> int:
    """The label of a superclass by its name, or else by its number."""
    names = [subject.superclass_name(label) for label in labels]
    for known in (names, [str(label) for label in labels]):
        if given in known:
            return labels[known.index(given)]
    raise ValueError(f"expected `superclass` to be one of {', '.join(names)}, or its number, but got {given!r}")


def _write(result: dict[str, Any], pictures: Pictures | None, folder: Path) -> None:
    """Writes all files beside those of an earlier analysis, then moves them into place, `analysis.json` last."""
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder), TemporaryDirectory(prefix=".analysis-", dir=folder) as place:
        new = Path(place)
        _write_tables(result, new)
        _draw(result, pictures, new)
        write_whole(new / ANALYSIS, json.dumps(result, allow_nan=False) + "\n")
        for name in (*TABLES, *FIGURES, ANALYSIS):
            if (new / name).exists():
                os.replace(new / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)


def _write_tables(result: dict[str, Any], folder: Path) -> None:
    lines: tuple[Iterable[Record], ...] = (
        result["records"],
        result["ranks"],
        _histogram_lines(result["histograms"]),
        _plane_lines([each for each in (*result["planes"], result["beside"]) if each]),
        _nearest_lines(result["nearest"]),
    )
    for name, each in zip(TABLES, lines, strict=True):
        _write_csv(folder / name, each)


def _histogram_lines(histograms: Sequence[dict[str, Any]]) -> Iterator[Record]:
    for each in histograms:
        edges = np.linspace(-1.0, 1.0, len(each[GROUPS[0]]) + 1)
        for low, high, *counts in zip(edges[:-1], edges[1:], *(each[group] for group in GROUPS), strict=True):
            at: Record = {"epoch": each["epoch"], "space": each["space"], "from": float(low), "to": float(high)}
            yield {**at, **dict(zip(GROUPS, counts, strict=True))}


def _plane_lines(planes: Sequence[dict[str, Any]]) -> Iterator[Record]:
    for each in planes:
        at = {"run": each["run"], "set": each["title"], "epoch": each["epoch"], "space": each["space"]}
        for number, row in enumerate(each["rows"]):
            line: Record = {**at, "row": row}
            line |= {kind: None if each[kind] is None else each[kind][number] for kind in ("class", "superclass")}
            yield {**line, "x": each["x"][number], "y": each["y"][number]}


def _nearest_lines(nearest: Sequence[dict[str, Any]]) -> Iterator[Record]:
    for line in nearest:
        for rank, item in enumerate(line["nearest"], start=1):
            known = {f"anchor_{key}": line["anchor"][key] for key in ("row", "class", "superclass")}
            yield {**known, "rank": rank, **{key: item[key] for key in ("row", "class", "superclass", "cosine")}}


def _write_csv(path: Path, lines: Iterable[Record]) -> None:
    """Writes a table, unless there are no lines."""
    rows = list(lines)
    if rows:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_whole(path, text.getvalue())


def _draw(result: dict[str, Any], pictures: Pictures | None, folder: Path) -> None:
    planes, beside = result["planes"], result["beside"]
    for name in CURVES:
        draw_curves(name, result["records"], folder)
    draw_histograms(result["histograms"], folder)
    if planes:
        draw_planes(planes, PLANE, f"{planes[0]['method'].upper()} of the features", folder)
    if beside:
        pair = [{**each, "caption": each["run"]} for each in (planes[-1], beside)]
        draw_planes(pair, BESIDE, "One superclass in two runs", folder)
    if pictures:
        draw_nearest(*pictures, folder)


def _data_uri(image: Array) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
