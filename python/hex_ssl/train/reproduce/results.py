"""The finished runs: a JSON Lines file in which a run is identified by its configuration.

A line contains the whole configuration. When it is read, settings that did not exist when it was written have their
defaults. So a run keeps its line when settings are added, and loses it when the value of a setting changes.
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
"""The version of the format. It is raised when a field of a line changes its meaning."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Images:
    """The images of a run, independent of their location on a machine.

    Args:
        name: Name of the dataset.
        root: File or folder below the folder of all data, or None.
        train_rows: Number of first rows of a single file that are the training images. None uses the dataset's splits.
    """

    name: str
    root: str | None
    train_rows: int | None


def describe_run(
    config: Config, trained_on: Images, evaluated_on: Images, evaluation: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that affects the results of a run, and nothing else, as values that JSON can represent.

    Args:
        config: Configuration of the run. Settings that are None are left out, because None is their default.
        trained_on: The images of the run.
        evaluated_on: The images of its evaluation.
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
    """The key of a run: method, loss and seed, and a digest of the whole description.

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
    """Reads the finished runs, by their key (`key_of`).

    Args:
        path: The file. If it does not exist, there are no finished runs.

    Raises:
        ValueError: `path` is a folder, or a line is not a finished run. The message has the line number.
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
                raise ValueError(f"format {record['format']} instead of {FORMAT}")
            if not isinstance(record["metrics"], dict):
                raise TypeError("`metrics` is not a mapping")
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
    """Adds a finished run atomically, also if other processes add runs at the same time.

    Args:
        path: The file. It and its folder are created if they do not exist.
        record: `metrics`, the entries of `describe_run`, and further information.

    Raises:
        OSError: The file cannot be written. It is unchanged.
        ValueError: A number is not finite.
    """
    line = json.dumps({"format": FORMAT, **record}, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        write_whole(path, f"{before}{line}\n")
