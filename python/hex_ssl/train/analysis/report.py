"""Compares runs on one HTML page, which needs no network, no server and no other file."""

import html
import json
import math
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hex_ssl.train.analysis.analyze import ANALYSIS, FOLDER
from hex_ssl.train.analysis.figures import COLOURS, GROUP_COLOURS
from hex_ssl.train.analysis.measures import NEIGHBOURS, TEMPERATURE
from hex_ssl.train.bounded_yaml import load_yaml
from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.command_settings import ReportConfig
from hex_ssl.train.reading import reading
from hex_ssl.train.run_folder import CONFIG
from hex_ssl.train.whole_file import whole_file

EVALUATION = "evaluation"
"""The folder in a run folder to which `hex-ssl knn`, `probe`, `finetune` and `transfer` write."""

PROTOCOL = f"k = {NEIGHBOURS}, T = {TEMPERATURE}"
"""Of the k-NN, in training and within the set."""

METRIC_TITLES = {
    "loss": "Loss",
    "knn_accuracy": f"k-NN accuracy, {PROTOCOL}",
    "knn_superclass_accuracy": f"k-NN accuracy, superclasses, {PROTOCOL}",
    "classifier_accuracy": "Online classifier",
    "classifier_superclass_accuracy": "Online classifier, superclasses",
    "threshold": "Threshold of the batches",
    "hierarchical_negatives": "Hierarchical negatives of an anchor",
    "floor_fraction": "Anchors whose local term is at its floor",
    "positive_similarity": "Mean cosine with the positive",
    "negative_similarity": "Mean cosine with the negatives",
    "undefined_anchors": "Anchors without a loss",
    "projection_std": "Deviation of the projections",
    "learning_rate": "Learning rate",
}
"""The titles of the curves, in their order on the page. Curves of other names follow."""

METRIC_UNITS = {
    "loss": "mean of the epoch",
    "knn_accuracy": "accuracy",
    "knn_superclass_accuracy": "accuracy",
    "classifier_accuracy": "accuracy",
    "classifier_superclass_accuracy": "accuracy",
    "threshold": "cosine",
    "hierarchical_negatives": "mean number",
    "floor_fraction": "share of the anchors",
    "positive_similarity": "cosine",
    "negative_similarity": "cosine",
    "undefined_anchors": "number",
    "projection_std": "standard deviation",
    "learning_rate": "per step",
}
"""What the vertical axes of the curves say. Shares are in percent, with each number."""

SETTINGS = {
    "method.name": "method",
    "loss.hex": "HEX",
    "backbone.name": "backbone",
    "data.name": "dataset",
    "run.seed": "seed",
}
"""The settings in the overview."""

LAST = (
    "loss",
    "knn_accuracy",
    "knn_superclass_accuracy",
    "classifier_accuracy",
    "threshold",
    "hierarchical_negatives",
)
"""The metrics in the overview, each with its last value."""

FOUND = ("threshold", "gap", "effective_rank", "rank_ratio")
"""The measures of the last analysed checkpoint in the overview, in the last space (the projections of a run)."""


UNLIKE = ("run.name", "run.root", "run.seed", "run.existing", "run.progress")
"""The settings in which runs of one group may differ. The mean over the seeds is that of a group."""


def report(config: ReportConfig) -> Path:
    """Writes the page.

    Args:
        config: The runs, and the file to write.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: A folder holds no run.
        ValueError: A file in a run folder is not valid.
    """
    runs = [_read_run(Path(folder)) for folder in config.runs]
    for run, name in zip(runs, _names([Path(folder) for folder in config.runs]), strict=True):
        run["name"] = name
    _group(runs)
    title = config.title or _title([run["name"] for run in runs])
    path = Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(render(title, runs).encode())
    return path


def render(title: str, runs: Sequence[dict[str, Any]]) -> str:
    """Renders the page of runs that have been read. Text from the runs is never interpreted as markup."""
    data = {
        "subtitle": _subtitle(runs),
        "runs": runs,
        "overview_columns": _overview_columns(),
        "metric_order": list(METRIC_TITLES),
        "metric_titles": METRIC_TITLES,
        "metric_units": METRIC_UNITS,
        "knn": PROTOCOL,
        "colours": COLOURS,
        "group_colours": GROUP_COLOURS,
        "analysis_note": _analysis_note(runs),
        "footer": "Made by hex-ssl. This page is one file: it loads nothing and sends nothing.",
    }
    parts = {"title": html.escape(title), "data": script_safe(data)}
    for name, file in (("style", "page.css"), ("script", "page.js")):
        parts[name] = _asset(file)
    page = _asset("page.html")
    # All replacements at once, because text from the runs may contain braces.
    pieces = page.replace("{{", "\0{{").replace("}}", "}}\0").split("\0")
    return "".join(parts[piece[2:-2]] if piece.startswith("{{") else piece for piece in pieces)


def script_safe(value: Any) -> str:
    """JSON without NaN that cannot end an HTML script element.

    Example:
        >>> script_safe({"name": "</script>", "loss": float("nan")})
        '{"name": "\\\\u003c/script\\\\u003e", "loss": null}'
    """
    text = json.dumps(_finite(value), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read_run(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"expected a run folder, with a {CONFIG} in it, but got {folder}")
    settings = _flat(_parsed(folder / CONFIG))
    metrics = read_metrics(folder)
    analysis = _analysis(folder / FOLDER / ANALYSIS)
    evaluations = [_evaluation(path) for path in sorted((folder / EVALUATION).glob("*.json"))]
    return {
        "folder": str(folder),
        "settings": settings,
        "metrics": metrics,
        "analysis": analysis,
        "evaluations": evaluations,
        "overview": _overview(settings, metrics, analysis),
    }


def _group(runs: Sequence[dict[str, Any]]) -> None:
    """Gives each run its group: the number of the first of the runs that differ from it in the seed alone."""
    groups: dict[str, dict[Any, int]] = {}
    for number, run in enumerate(runs):
        settings = {name: value for name, value in run["settings"].items() if name not in UNLIKE}
        seeds = groups.setdefault(json.dumps(settings, sort_keys=True, default=str), {})
        first, seed = next(iter(seeds.values()), number), run["settings"].get("run.seed")
        run["group"] = number if seed in seeds else first  # two runs of one seed are no two draws
        seeds.setdefault(seed, first)


def _parsed(path: Path) -> dict[str, Any]:
    with reading(path, "to be readable"):
        text = path.read_text(encoding="utf-8")
        found = load_yaml(text) if path.suffix == ".yaml" else json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"expected {path} to hold names and values, but it does not")
    return found


def _analysis(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    analysis = _parsed(path)
    with reading(path, "to hold an analysis"):
        if missing := {name for record in analysis["records"] for name in FOUND if name not in record}:
            raise ValueError(f"records without {', '.join(sorted(missing))}")
    return analysis


def _evaluation(path: Path) -> dict[str, Any]:
    saved = _parsed(path)
    rows = saved.get("rows", [])
    if not isinstance(rows, list):
        raise ValueError(f"expected `rows` in {path} to be a list, but it is not")
    protocol = saved.get("protocol", {})
    return {
        "command": str(saved.get("command", path.stem)),
        "protocol": str(protocol.get("description", json.dumps(protocol)) if isinstance(protocol, dict) else protocol),
        "rows": [row for row in rows if isinstance(row, dict)],
    }


def _overview(settings: dict[str, Any], metrics: Sequence[Any], analysis: dict[str, Any] | None) -> dict[str, Any]:
    line = {name: settings.get(key) for key, name in SETTINGS.items()}
    line["epochs"] = metrics[-1].get("epoch") if metrics else None
    for name in LAST:
        line[name] = next((row[name] for row in reversed(metrics) if row.get(name) is not None), None)
    records = analysis["records"] if analysis else []
    line |= {f"analysis_{name}": records[-1][name] if records else None for name in FOUND}
    return line


def _overview_columns() -> list[dict[str, Any]]:
    text = [{"name": name, "text": True} for name in SETTINGS.values() if name != "seed"]
    found = {
        "analysis_threshold": ("threshold, all images", "Of the last checkpoint that was analysed"),
        "analysis_gap": ("superclass less other cosine", "Of the last checkpoint that was analysed"),
        "analysis_effective_rank": ("effective rank", "RankMe of the last checkpoint that was analysed"),
        "analysis_rank_ratio": ("local / global rank", "Below 1: superclasses have collapsed"),
    }
    numbers = [
        {"name": name, "label": METRIC_TITLES[name] if name.startswith("knn") else None}
        for name in ("seed", "epochs", *LAST)
    ]
    return [
        *text,
        *numbers,
        *({"name": name, "label": label, "title": title} for name, (label, title) in found.items()),
    ]


def _analysis_note(runs: Sequence[dict[str, Any]]) -> str:
    notes = Counter(
        f"{about.get('images', '?')} images"
        + (f" of {about['dataset']}, split {about['split']}" if {"dataset", "split"} <= about.keys() else "")
        for run in runs
        if run["analysis"] and isinstance(about := run["analysis"].get("description"), dict)
    )
    return "; ".join(notes) or "the images"


def _subtitle(runs: Sequence[dict[str, Any]]) -> str:
    count = f"{len(runs)} runs" if len(runs) > 1 else "1 run"
    kinds = (
        list(dict.fromkeys(str(run["overview"][name]) for run in runs)) for name in ("dataset", "method", "backbone")
    )
    return " \u00b7 ".join([count, *(", ".join(each) for each in kinds)])


def _title(names: Sequence[str]) -> str:
    return (
        names[0] if len(names) == 1 else f"{len(names)} runs: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The names of the folders, with as much of their paths as is needed to distinguish them."""
    paths = [folder.resolve().parts for folder in folders]
    names = []
    for own in paths:
        depth = 1
        while depth < len(own) and sum(other[-depth:] == own[-depth:] for other in paths) > 1:
            depth += 1
        names.append("/".join(own[-depth:]) if sum(other == own for other in paths) == 1 else own[-1])
    return names


def _flat(groups: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{group}.{name}": value
        for group, settings in groups.items()
        for name, value in (settings.items() if isinstance(settings, dict) else [("", settings)])
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _asset(name: str) -> str:
    return (files("hex_ssl.train.analysis") / "page" / name).read_text(encoding="utf-8")
