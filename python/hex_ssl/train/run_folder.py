"""The folder of a run: its files, and the lock that keeps other processes from writing to it."""

import json
import os
import platform
import shutil
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from hex_ssl.train.bounded_yaml import load_yaml
from hex_ssl.train.config import Config
from hex_ssl.train.reading import reading
from hex_ssl.train.resume import check_images, check_settings
from hex_ssl.train.whole_file import PART, naming, write_whole

AUTO = ("run.precision", "run.channels_last", "run.compile")
"""Settings that "auto" leaves to the machine."""
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
BACKBONE = "backbone.safetensors"
CHECKPOINTS = "checkpoints"
DATA = "data.json"
LAST = "last"
LOCK = ".lock"

_PACKAGES = ("hex-ssl", "torch", "torchvision", "lightning", "timm", "numpy")


def run_folder(config: Config) -> Path:
    """The folder of a run's files."""
    return Path(config.run.root) / config.run.name


def last_checkpoint(config: Config) -> Path | None:
    """The checkpoint to resume from. None if the run is not resumed, or has no checkpoint yet."""
    checkpoint = run_folder(config) / CHECKPOINTS / f"{LAST}.ckpt"
    return checkpoint if config.run.existing == "resume" and checkpoint.is_file() else None


class Claim:
    """Exclusive access of one run to its folder, until the run releases it or its process ends, for whatever reason.

    Args:
        folder: The run folder, which must exist.

    Attributes:
        release: Lets others write into the folder. Further calls do nothing.

    Raises:
        BlockingIOError: Another process, which the message names, or another run of this process has the folder.
        OSError: The folder cannot be written.
    """

    # filelock closes its file in forked processes. Processes that load images outlive a killed run by some seconds. If
    # they held the lock too, the run could not be resumed in that time.

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path, me = folder / LOCK, f"process {os.getpid()} on {platform.node()}"
        lock = FileLock(
            path, timeout=0, thread_local=False, fallback_to_soft=False, on_acquired=partial(_sign, path=path, owner=me)
        )
        try:
            lock.acquire()
        except Timeout as error:
            owner = _owner(path)
            other = "run to write" if owner == me else "process to write"
            who = "one of this process" if owner == me else owner
            raise BlockingIOError(f"expected no other {other} into the run folder {folder}, but {who} does") from error
        except OSError as error:
            if error.filename is not None:  # the file cannot be opened, or written
                raise
            warnings.warn(f"{folder} cannot be locked ({error}): let no other process write into it", stacklevel=4)
        self.release: Callable[[], object] = weakref.finalize(self, lock.release)


def _sign(file: int, path: Path, owner: str) -> None:
    """Writes the owner into a locked file."""
    with naming(path):
        os.ftruncate(file, 0)
        os.write(file, owner.encode())


def _owner(path: Path) -> str:
    """The owner of a locked file. On Windows no other process can read it."""
    try:
        return path.read_bytes()[:300].decode(errors="replace") or "one"
    except OSError:
        return "one"


def read_config(folder: str | Path) -> Config:
    """The configuration of a run.

    Args:
        folder: The run folder.

    Raises:
        FileNotFoundError: The folder has no `config.yaml`, so it is not a run folder.
        ValueError: The file does not hold a valid configuration. The message names the setting, if there is one.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"expected a run folder, with a {CONFIG} in it, but got {folder}")
    with reading(path, "to hold the configuration of a run"):
        return Config.from_dict(load_yaml(path.read_text(encoding="utf-8")))


def claim_run_folder(
    config: Config, images: Mapping[str, Any] | None = None, start: Mapping[str, Any] | None = None
) -> Claim:
    """Makes the run folder, and writes the whole configuration, the images' fingerprint and the environment into it.

    Nothing is written or removed before everything has been checked. A run that is to be resumed but was stopped before
    its first checkpoint, or before it had a folder, starts from the beginning.

    Args:
        config: The run. `run.existing` says what to do with a folder that is not empty.
        images: Fingerprint of the images, see `hex_ssl.train.data.fingerprint`. With None, images are neither compared
            nor recorded.
        start: Further entries about this start for `environment.json`.

    Returns:
        The claim on the folder, to be released when the last file is written.

    Raises:
        BlockingIOError: Another process, or another run of this process, writes into the folder.
        FileExistsError: The folder is not empty and `run.existing` is "error". Also if the folder would be overwritten
            or resumed, but holds no run.
        ValueError: The run to be resumed has another configuration or other images, or files in its folder cannot be
            read.
    """
    check_run_folder(config, images)
    folder = run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    claim = Claim(folder)
    try:
        if config.run.existing == "overwrite":
            _empty(folder)
        environment = _with_this_start(_earlier_starts(folder), start or {})
        write_whole(folder / CONFIG, yaml.safe_dump(config.as_dict(), sort_keys=False))
        if images is not None:
            write_whole(folder / DATA, json.dumps(images) + "\n")
        write_whole(folder / ENVIRONMENT, environment)
    except BaseException:
        claim.release()
        raise
    return claim


def check_run_folder(config: Config, images: Mapping[str, Any] | None = None) -> None:
    """Makes the checks of `claim_run_folder`, without writing anything.

    Args:
        config: The run.
        images: Fingerprint of the images.

    Raises:
        FileExistsError, ValueError: See `claim_run_folder`.
    """
    folder = run_folder(config)
    if _is_occupied(folder):
        if config.run.existing == "error":
            raise FileExistsError(
                f"expected the run folder {folder} to be new or empty, but it is not: choose another `run.name`, or "
                f"set `run.existing=resume` or `run.existing=overwrite`"
            )
        if not (folder / CONFIG).is_file():
            raise FileExistsError(
                f"{folder} holds no {CONFIG}, so it is no run folder: it is neither overwritten nor resumed"
            )
        if config.run.existing == "resume":
            _compare(folder, config)
            if images is not None:
                _compare_images(folder / DATA, images)
            _earlier_starts(folder)


def _is_occupied(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        return True
    # A process may have died while it wrote the very first file.
    return folder.exists() and any(each.name not in (LOCK, CONFIG + PART) for each in folder.iterdir())


def _empty(folder: Path) -> None:
    """Removes everything but the lock. The file that marks a run folder comes last."""
    for each in sorted(folder.iterdir(), key=lambda each: each.name == CONFIG):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name != LOCK:
            each.unlink()


def _compare(folder: Path, config: Config) -> None:
    path = folder / CONFIG
    with reading(path, "to hold the configuration of a run"):
        # Not as a `Config`: it may be of an earlier version, and the differences are named below.
        was = _flat(load_yaml(path.read_text(encoding="utf-8")))
    wanted = _flat(config.as_dict())
    # A run writes what these were on its machine. A configuration that says "auto" was not begun by a run.
    undecided = {name: wanted[name] for name in AUTO if was.get(name) == "auto"}
    check_settings({**was, **undecided}, wanted)


def _compare_images(path: Path, images: Mapping[str, Any]) -> None:
    if not path.is_file():  # the run is of an earlier version
        return
    with reading(path, "to say what the images of a run are"):
        was = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(was, dict):
            raise TypeError(f"a {type(was).__name__}")
    check_images(was, images)


def _flat(nested: dict[str, Any]) -> dict[str, Any]:
    return {f"{group}.{key}": value for group, values in nested.items() for key, value in values.items()}


def _earlier_starts(folder: Path) -> list[dict[str, Any]]:
    """The starts that `environment.json` lists."""
    path = folder / ENVIRONMENT
    if not path.is_file():
        return []
    with reading(path, "to list the starts of a run"):
        starts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(starts, list):
            raise TypeError(f"a {type(starts).__name__}")
        for start in starts:
            if not isinstance(start, dict) or not isinstance(start.get("versions"), dict):
                raise TypeError(f"a start without versions: {str(start)[:40]}")
    return starts


def _with_this_start(starts: list[dict[str, Any]], more: Mapping[str, Any]) -> str:
    """The text of `environment.json` with this start added. Warns if a version has changed since the last start."""
    versions = {"python": platform.python_version(), **package_versions()}
    if starts and starts[-1]["versions"] != versions:
        was = starts[-1]["versions"]
        changed = [f"{name} {was[name]} -> {versions.get(name)}" for name in was if was[name] != versions.get(name)]
        warnings.warn(
            f"the run continues with other versions, which may change its results: {'; '.join(changed)}", stacklevel=4
        )
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": versions,
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **more,
    }
    return json.dumps([*starts, start], indent=2) + "\n"


def package_versions() -> dict[str, str | None]:
    """The versions of the packages that can change results. None for a package that is not installed."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
