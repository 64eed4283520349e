"""The folder of a run: who may write into it, and what stands where."""

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from hex_ssl.config import Config

CONFIG = "config.yaml"
BACKBONE = "backbone.safetensors"
CHECKPOINTS = "checkpoints"
LAST = "last"

_MAY_CHANGE = {"run.existing", "run.progress", "run.root", "run.name", "run.accelerator"}
"""What a resumed run may have otherwise than the run that it goes on with: nothing that moves a number."""


def claim_run_folder(config: Config) -> tuple[Path, Path | None]:
    """Makes the run folder and writes the whole configuration into it.

    Nothing is written or removed before everything has been checked.

    Args:
        config: The run; `run.existing` says what to do with a folder that is not empty.

    Returns:
        The folder, and the checkpoint to resume from, if any.

    Raises:
        FileExistsError: The folder is not empty and nobody said what to do with it, or it is to be overwritten
            but holds no run.
        FileNotFoundError: There is no checkpoint to resume from.
        ValueError: The run to be resumed was configured otherwise.
    """
    folder = Path(config.run.root) / config.run.name
    checkpoint = None
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if config.run.existing == "resume":
        checkpoint = _checkpoint_to_resume(folder, config)
    elif occupied and config.run.existing == "error":
        raise FileExistsError(
            f"expected the run folder {folder} to be new or empty, but it is not: choose another `run.name`, or say "
            f"`run.existing=resume` or `run.existing=overwrite`"
        )
    elif occupied:
        if not (folder / CONFIG).is_file():
            raise FileExistsError(f"{folder} holds no {CONFIG}, so it is no run folder and is not overwritten")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / (CONFIG + ".part")
    beside.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False), encoding="utf-8")
    os.replace(beside, folder / CONFIG)
    return folder, checkpoint


def _checkpoint_to_resume(folder: Path, config: Config) -> Path:
    checkpoint = folder / CHECKPOINTS / f"{LAST}.ckpt"
    if not checkpoint.is_file():
        raise FileNotFoundError(f"expected a checkpoint to resume from at {checkpoint}, but there is none")
    was = _flat(yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")))
    wanted = _flat(config.as_dict())
    changed = [
        f"{key}: {was.get(key)} -> {wanted.get(key)}"
        for key in sorted(was.keys() | wanted.keys())
        if key not in _MAY_CHANGE and was.get(key) != wanted.get(key)
    ]
    if changed:
        raise ValueError(f"expected the configuration of the run to resume, but these differ: {'; '.join(changed)}")
    return checkpoint


def _flat(nested: dict[str, Any]) -> dict[str, Any]:
    return {f"{group}.{key}": value for group, values in nested.items() for key, value in values.items()}
