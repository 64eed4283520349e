"""The analysis of one run, or of two arrays: tables, figures, and one JSON file that the report reads."""

import base64
import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hex_ssl.analysis.figures import CURVES, draw_curves, draw_histograms, draw_nearest, draw_planes
from hex_ssl.analysis.measures import COLUMNS, Record, measure
from hex_ssl.analysis.neighbours import nearest_in_batches
from hex_ssl.analysis.plane import PlaneMethod, to_plane
from hex_ssl.analysis.run import subject_from_run
from hex_ssl.analysis.snapshots import REPRESENTATION, Array, Snapshot, Subject, subject_from_arrays
from hex_ssl.statistics import GROUPS
from hex_ssl.whole_file import whole_file

FOLDER, ANALYSIS = "analysis", "analysis.json"
FEW = 5
"""Superclasses of the middle row of Figure 10."""

Pictures = tuple[list[list[NDArray[np.uint8]]], list[list[str]]]
"""Rows of images [H, W, 3], and what stands above each."""


@dataclass(frozen=True)
class AnalyzeConfig:
    """Tables and figures of how a run's representations are organised.

    Args:
        run: The run folder. Either this or `features`.
        features: A .npy file, floats [N, D], or [epochs, N, D].
        labels: With `features`: a .npy file, integers [N], the classes.
        superclasses: With `features`: a .npy file, integers [N], or one for each class.
        beside: Another run, of the same dataset: one superclass of both is drawn side by side (Figure 14), and its
            curves are for `hex-ssl report`.
        split: Of the run's dataset.
        epochs: "all" checkpoints that were kept and the last, "last", or epochs such as "0,10,20".
        images: At most so many images, drawn at random; None: all.
        quantile: Of the threshold.
        bins: Of the histograms.
        plane: How the features come to the plane: "umap", "pca", or "none" for no such pictures.
        plane_images: Images in the plane, at most.
        anchors: Images whose nearest are shown.
        output: The folder to write; None: `analysis` in the run folder.
        device: Of the networks: "auto", "cpu", "cuda", ...
        seed: Decides all that is drawn at random.
    """

    run: str | None = None
    features: str | None = None
    labels: str | None = None
    superclasses: str | None = None
    beside: str | None = None
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
    seed: int = 0

    def __post_init__(self) -> None:
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
        for name, lowest in (("images", 3), ("bins", 1), ("plane_images", 3), ("anchors", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"expected `{name}` to be at least {lowest}, but got {value}")


def analyze(config: AnalyzeConfig) -> Path:
    """Measures, draws and writes everything about a run's checkpoints, or about features.

    Writes `analysis.json`, `similarity.csv` (a line for each epoch and space), `histograms.csv`, `ranks.csv`,
    `plane.csv` and `nearest.csv`, and the figures as PNG and SVG. What earlier analyses left there is replaced.

    Args:
        config: What and how.

    Returns:
        The folder.

    Raises:
        FileNotFoundError, ValueError: See `AnalyzeConfig`, `subject_from_run` and `subject_from_arrays`.
    """
    subject = _subject(config)
    folder = Path(config.output) if config.output else Path(str(config.run)) / FOLDER
    found = _Findings(config, subject)
    for snapshot in subject.snapshots():
        found.add(snapshot)
    result = found.result()
    beside = _planes_beside(config, found)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.suffix in (".csv", ".png", ".svg"):
            old.unlink()
    _write_tables(result, folder)
    _draw(result, beside, found.pictures(result["nearest"]), folder)
    with whole_file(folder / ANALYSIS) as file:
        file.write((json.dumps(result, allow_nan=False) + "\n").encode())
    return folder


def summarize(folder: Path) -> str:
    """The last snapshot's figures as text, for the terminal."""
    result = json.loads((folder / ANALYSIS).read_text(encoding="utf-8"))
    last = {record["space"]: record for record in result["records"]}
    width = max(map(len, COLUMNS))
    lines = ["".ljust(width) + "".join(f"{space:>16}" for space in last)]
    for name in COLUMNS:
        cells = ("" if record[name] is None else f"{record[name]:.4g}" for record in last.values())
        lines.append(name.ljust(width) + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join([*lines, f"tables and figures: {folder}"])


def _subject(config: AnalyzeConfig, run: str | None = None) -> Subject:
    if config.features is not None:
        return subject_from_arrays(config.features, config.labels, config.superclasses)
    folder = str(run or config.run)
    return subject_from_run(folder, config.split, config.epochs, config.images, config.device, config.seed)


class _Findings:
    """What is found, snapshot by snapshot; only the first and the last are kept as they are."""

    def __init__(self, config: AnalyzeConfig, subject: Subject) -> None:
        self.config = config
        self.subject = subject
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
        """Representations, where there are any: what the paper's pictures show."""
        spaces = list(self.ends[0].spaces)
        return REPRESENTATION if REPRESENTATION in spaces else spaces[0]

    def result(self) -> dict[str, Any]:
        subject, config = self.subject, self.config
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
            "planes": list(self._planes()),
            "nearest": self._nearest(),
        }

    def _planes(self) -> Iterator[dict[str, Any]]:
        """Figure 10: all images, those of a few superclasses, those of one by class; at the first and at the last."""
        if self.config.plane == "none":
            return
        images = len(self.ends[0].spaces[self.plane_space])
        for title, by, rows in _plane_sets(self.subject, images, self.config):
            for snapshot in self.ends:
                yield plane(
                    self.subject, snapshot, self.plane_space, title, by, rows, self.config.plane, self.config.seed
                )

    def _nearest(self) -> list[dict[str, Any]]:
        snapshot = self.ends[-1]
        size = len(snapshot.spaces[self.plane_space])
        if size < 7:
            return []
        found = nearest_in_batches(snapshot.spaces[self.plane_space], self.config.anchors, seed=self.config.seed)
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
        """What Figure 15 shows, where there are images."""
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
    """Some of a snapshot's images in the plane, with what is to be known of each, ready for JSON."""
    found = to_plane(snapshot.spaces[space][rows], method, seed)
    labels = {"class": subject.classes, "superclass": subject.superclasses}
    chosen = {name: None if each is None else each[rows].tolist() for name, each in labels.items()}
    names = {"class": subject.class_name, "superclass": subject.superclass_name}
    return {
        "title": title,
        "by": by,
        "caption": subject.name if snapshot.epoch is None else f"epoch {snapshot.epoch}",
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


def _plane_sets(subject: Subject, images: int, config: AnalyzeConfig) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
    """The sets of images of Figure 10: title, what colours them, rows."""
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
    one = within_one(subject, config.seed)
    if one is not None and len(one[1]) >= 3:
        yield f"within {one[0]}", "class", some(one[1])


def within_one(subject: Subject, seed: int) -> tuple[str, NDArray[np.int64]] | None:
    """A superclass of several classes, drawn at random: its name and its rows."""
    if subject.superclasses is None or subject.classes is None:
        return None
    pairs = np.unique(np.stack([subject.superclasses, subject.classes]), axis=1)[0]
    several = [label for label, count in zip(*np.unique(pairs, return_counts=True), strict=True) if count > 1]
    if not several:
        return None
    one = int(np.random.default_rng(seed).choice(several))
    return subject.superclass_name(one), np.flatnonzero(subject.superclasses == one)


def _planes_beside(config: AnalyzeConfig, found: _Findings) -> list[dict[str, Any]]:
    """Figure 14: one superclass at the end of both runs."""
    one = within_one(found.subject, config.seed)
    if config.beside is None or config.plane == "none" or one is None:
        return []
    name, rows = one
    other = _subject(config, config.beside)
    if not np.array_equal(np.asarray(other.classes), np.asarray(found.subject.classes)):
        raise ValueError(f"expected `beside` to be a run of the same images, but {config.beside} has others")
    *_, last = other.snapshots()
    pairs = ((found.subject, found.ends[-1]), (other, last))
    space = found.plane_space
    return [
        {
            **plane(subject, end, space, f"within {name}", "class", rows, config.plane, config.seed),
            "caption": subject.name,
        }
        for subject, end in pairs
    ]


def _write_tables(result: dict[str, Any], folder: Path) -> None:
    _write_csv(folder / "similarity.csv", result["records"])
    _write_csv(folder / "ranks.csv", result["ranks"])
    _write_csv(folder / "histograms.csv", _histogram_lines(result["histograms"]))
    _write_csv(folder / "plane.csv", _plane_lines(result["planes"]))
    _write_csv(folder / "nearest.csv", _nearest_lines(result["nearest"]))


def _histogram_lines(histograms: Sequence[dict[str, Any]]) -> Iterator[Record]:
    for each in histograms:
        edges = np.linspace(-1.0, 1.0, len(each[GROUPS[0]]) + 1)
        for low, high, *counts in zip(edges[:-1], edges[1:], *(each[group] for group in GROUPS), strict=True):
            at: Record = {"epoch": each["epoch"], "space": each["space"], "from": float(low), "to": float(high)}
            yield {**at, **dict(zip(GROUPS, counts, strict=True))}


def _plane_lines(planes: Sequence[dict[str, Any]]) -> Iterator[Record]:
    for each in planes:
        for number, row in enumerate(each["rows"]):
            line: Record = {"set": each["title"], "epoch": each["epoch"], "space": each["space"], "row": row}
            line |= {kind: None if each[kind] is None else each[kind][number] for kind in ("class", "superclass")}
            yield {**line, "x": each["x"][number], "y": each["y"][number]}


def _nearest_lines(nearest: Sequence[dict[str, Any]]) -> Iterator[Record]:
    for line in nearest:
        for rank, item in enumerate(line["nearest"], start=1):
            known = {f"anchor_{key}": line["anchor"][key] for key in ("row", "class", "superclass")}
            yield {**known, "rank": rank, **{key: item[key] for key in ("row", "class", "superclass", "cosine")}}


def _write_csv(path: Path, lines: Iterable[Record]) -> None:
    """A table; none where there are no lines."""
    rows = list(lines)
    if rows:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def _draw(result: dict[str, Any], beside: list[dict[str, Any]], pictures: Pictures | None, folder: Path) -> None:
    for name in CURVES:
        draw_curves(name, result["records"], folder)
    draw_histograms(result["histograms"], folder)
    if result["planes"]:
        draw_planes(
            result["planes"], "figure-10-plane", f"{result['planes'][0]['method'].upper()} of the features", folder
        )
    if beside:
        draw_planes(beside, "figure-14-beside", "One superclass in two runs", folder)
    if pictures:
        draw_nearest(*pictures, folder)


def _data_uri(image: Array) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
