"""Finished runs: one JSON file each, named by what was run, so that equal runs of several rows are one."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hex_ssl.train.config import Config
from hex_ssl.train.resume import MAY_CHANGE
from hex_ssl.train.speed import without_auto
from hex_ssl.train.whole_file import write_whole

FORMAT = 1
"""Raised when a field of the JSON changes its meaning."""

LATER: dict[str, Any] = {
    "data.level": None,
    "run.weights": None,
    "optimizer.schedule": "cosine",
    "optimizer.milestones": [],
    "optimizer.decay_factor": 0.1,
    "optimizer.clip_norm": None,
}
"""Settings that are younger than the first results: left out at these values, so that results keep their names."""

FIRST_METHOD_SETTINGS = (
    "hidden_dim",
    "output_dim",
    "predictor_dim",
    "queue_size",
    "momentum",
    "final_momentum",
    "symmetric",
    "lamb",
    "scale",
    "sync_statistics",
    "sim_weight",
    "var_weight",
    "cov_weight",
    "half_variance",
    "neighbours",
    "attention_temperature",
    "positional_axis",
    "transformer_learning_rate",
)
"""What `method` held in the first results, None where it was another method's: so results keep their names."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Images:
    """Images of a run, without the folder in which a machine has them.

    Args:
        name: The dataset, as `hex-ssl datasets` lists them.
        root: File or folder below that of all data, where it is given.
        train_rows: First rows of the one file that are the training images; None: all, or the dataset's own splits.
    """

    name: str
    root: str | None
    train_rows: int | None


def describe_run(
    config: Config, trained_on: Images, evaluated_on: Images, evaluation: Mapping[str, Any]
) -> dict[str, Any]:
    """All that moves a figure of a run, and nothing else; ready for JSON.

    Args:
        config: The run.
        trained_on: Its images.
        evaluated_on: Those of its evaluation.
        evaluation: The settings of each protocol.
    """
    kept = {
        group: {
            name: value
            for name, value in settings.items()
            if f"{group}.{name}" not in MAY_CHANGE and LATER.get(f"{group}.{name}", ...) != value
        }
        for group, settings in without_auto(config).as_dict().items()
    }
    images = {"trained_on": vars(trained_on), "evaluated_on": vars(evaluated_on)}
    return json.loads(json.dumps({"config": kept, **images, "evaluation": evaluation}))


def key_of(description: Mapping[str, Any]) -> str:
    """The name of a run: method, loss and seed, and a digest of the whole description.

    Example:
        >>> config = Config()
        >>> digits = Images("digits", None, None)
        >>> key_of(describe_run(config, digits, digits, {}))[:17]
        'simclr-own-seed0-'
    """
    config = description["config"]
    config = {**config, "method": {**dict.fromkeys(FIRST_METHOD_SETTINGS), **config["method"]}}
    loss = config["loss"]["base"] if config["loss"]["hex"] == "off" else f"hex-{config['loss']['hex']}"
    digest = hashlib.sha256(json.dumps({**description, "config": config}, sort_keys=True).encode()).hexdigest()[:12]
    return f"{config['method']['name']}-{loss}-seed{config['run']['seed']}-{digest}"


def result_path(folder: Path, key: str) -> Path:
    """The file of a run."""
    return folder / f"{key}.json"


def write_result(folder: Path, key: str, record: Record) -> None:
    """Saves a finished run, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, "key": key, **record}, indent=2, allow_nan=False)
    write_whole(result_path(folder, key), text + "\n")


def read_result(folder: Path, key: str) -> Record | None:
    """A finished run; None where it is not finished.

    Raises:
        ValueError: The file holds something else.
    """
    path = result_path(folder, key)
    if not path.is_file():
        return None
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        known = (record["format"], record["key"]) == (FORMAT, key) and isinstance(record["metrics"], dict)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"expected {path} to hold the result of a run, but it does not: {error!r}") from error
    if not known:
        raise ValueError(f"expected {path} to hold the result of {key} in format {FORMAT}, but it holds another")
    return record
