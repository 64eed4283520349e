"""Finished runs: one JSON Lines file, in which a run is found by what was run.

A line has the whole configuration. It is read as a configuration of today, in which a setting that is younger than the
line has its default; so a run keeps its line when settings are added, and loses it when a value that it had is changed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from hex_ssl.train.config import Config
from hex_ssl.train.resume import MAY_CHANGE
from hex_ssl.train.speed import without_auto
from hex_ssl.train.whole_file import write_whole

FORMAT = 1
"""Raised when a field of a line changes its meaning."""

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
        config: The run. Settings that are None are left out: None is their default.
        trained_on: Its images.
        evaluated_on: Those of its evaluation.
        evaluation: The settings of each protocol.
    """
    kept = {
        group: {
            name: value for name, value in settings.items() if value is not None and f"{group}.{name}" not in MAY_CHANGE
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
    loss = config["loss"]["base"] if config["loss"]["hex"] == "off" else f"hex-{config['loss']['hex']}"
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:12]
    return f"{config['method']['name']}-{loss}-seed{config['run']['seed']}-{digest}"


def read_results(path: Path) -> dict[str, Record]:
    """The finished runs by today's name (`key_of`); none where there is no file.

    Args:
        path: The file.

    Raises:
        ValueError: It is a folder, or a line is no finished run; the message has the line's number.
    """
    if path.is_dir():
        raise ValueError(f"expected `results` to be a file of JSON lines, but got the folder {path}")
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), 1):
        try:
            record = json.loads(line)
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']}, where {FORMAT} was expected")
            if not isinstance(record["metrics"], dict):
                raise TypeError("`metrics` is no mapping")
            found[_key_of_record(record)] = record
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            text = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"expected line {number} of {path} to be the result of a run, but got {text[:500]}"
            ) from error
    return found


def _key_of_record(record: Record) -> str:
    trained_on, evaluated_on = (Images(**record[part]) for part in ("trained_on", "evaluated_on"))
    config = Config.from_dict(record["config"])
    return key_of(describe_run(config, trained_on, evaluated_on, record["evaluation"]))


def write_result(path: Path, record: Record) -> None:
    """Adds a finished run, whole or not at all, whatever other processes add at the same time.

    Args:
        path: The file; it and its folder are made where they are not there.
        record: `metrics`, what `describe_run` has, and what else there is to say.

    Raises:
        OSError: The file cannot be written; it is as it was.
        ValueError: A figure is not finite.
    """
    line = json.dumps({"format": FORMAT, **record}, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        write_whole(path, f"{before}{line}\n")
