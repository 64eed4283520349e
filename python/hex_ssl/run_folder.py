"""The folder of a run: who may write into it, and what stands where."""

import json
import os
import platform
import shutil
import sys
import warnings
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from hex_ssl.bounded_yaml import load_yaml
from hex_ssl.config import Config
from hex_ssl.reading import reading

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
BACKBONE = "backbone.safetensors"
CHECKPOINTS = "checkpoints"
LAST = "last"

_MAY_CHANGE = {
    "run.existing",
    "run.progress",
    "run.root",
    "run.name",
    "run.accelerator",
    "run.loggers",
    "run.profiler",
    "run.checkpoint_minutes",
    "run.keep_every",
    "data.root",
    "data.num_workers",
}
"""What a resumed run may have otherwise than the run that it goes on with: nothing that moves a number."""

_PACKAGES = ("hex-ssl", "torch", "torchvision", "lightning", "timm", "numpy")


def run_folder(config: Config) -> Path:
    """Where a run's files are."""
    return Path(config.run.root) / config.run.name


def last_checkpoint(config: Config) -> Path | None:
    """The checkpoint to resume from: None where the run is not to be resumed, or has none yet."""
    checkpoint = run_folder(config) / CHECKPOINTS / f"{LAST}.ckpt"
    return checkpoint if config.run.existing == "resume" and checkpoint.is_file() else None


def read_config(folder: str | Path) -> Config:
    """The configuration of a run.

    Args:
        folder: The run folder.

    Raises:
        FileNotFoundError: It holds no `config.yaml`: it is no run's.
        ValueError: The file holds something else; the message names the setting where there is one.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"expected a run folder, with a {CONFIG} in it, but got {folder}")
    with reading(path, "to hold the configuration of a run"):
        return Config.from_dict(load_yaml(path.read_text(encoding="utf-8")))


def claim_run_folder(config: Config) -> Path:
    """Makes the run folder and writes the whole configuration and the environment into it.

    Nothing is written or removed before everything has been checked. A run that is to be resumed but was stopped before
    its first checkpoint, or before it had a folder, starts from the beginning.

    Args:
        config: The run; `run.existing` says what to do with a folder that is not empty.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder is not empty and nobody said what to do with it, or it is to be overwritten or
            resumed but holds no run.
        ValueError: The run to be resumed was configured otherwise.
    """
    folder = run_folder(config)
    if _is_occupied(folder):
        if config.run.existing == "error":
            raise FileExistsError(
                f"expected the run folder {folder} to be new or empty, but it is not: choose another `run.name`, or "
                f"say `run.existing=resume` or `run.existing=overwrite`"
            )
        if not (folder / CONFIG).is_file():
            raise FileExistsError(
                f"{folder} holds no {CONFIG}, so it is no run folder: it is neither overwritten nor resumed"
            )
        if config.run.existing == "resume":
            _compare(folder, config)
        else:
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_whole(folder / CONFIG, yaml.safe_dump(config.as_dict(), sort_keys=False))
    _note_environment(folder)
    return folder


def _is_occupied(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        return True
    # A process may have died while it wrote the very first file.
    return folder.exists() and any(each.name != CONFIG + ".part" for each in folder.iterdir())


def _compare(folder: Path, config: Config) -> None:
    path = folder / CONFIG
    with reading(
        path, "to hold the configuration of a run"
    ):  # perhaps of an earlier version: what differs is named below
        was = _flat(load_yaml(path.read_text(encoding="utf-8")))
    wanted = _flat(config.as_dict())
    changed = [
        f"{key}: {was.get(key)} -> {wanted.get(key)}"
        for key in sorted(was.keys() | wanted.keys())
        if key not in _MAY_CHANGE and was.get(key) != wanted.get(key)
    ]
    if changed:
        raise ValueError(f"expected the configuration of the run to resume, but these differ: {'; '.join(changed)}")


def _flat(nested: dict[str, Any]) -> dict[str, Any]:
    return {f"{group}.{key}": value for group, values in nested.items() for key, value in values.items()}


def _note_environment(folder: Path) -> None:
    """Adds this start to the list in `environment.json`, and warns where it differs in a version from the last."""
    path = folder / ENVIRONMENT
    starts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    versions = {"python": platform.python_version(), **_versions()}
    if starts and starts[-1]["versions"] != versions:
        changed = [f"{name} {was} -> {versions.get(name)}" for name, was in starts[-1]["versions"].items()]
        other = "; ".join(each for each in changed if each.split()[1] != each.split()[-1])
        warnings.warn(f"the run goes on with other versions, perhaps with other numbers: {other}", stacklevel=4)
    start = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": versions,
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    _write_whole(path, json.dumps([*starts, start], indent=2) + "\n")


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _write_whole(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
