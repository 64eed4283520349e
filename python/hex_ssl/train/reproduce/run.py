"""Executes one run: pretraining, evaluation, and saving of the results."""

import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.evaluate import TransferConfig
from hex_ssl.train.evaluate import prepare as prepare_evaluation
from hex_ssl.train.evaluate.settings import KNNSettings, ProbeSettings
from hex_ssl.train.extras import train_extra
from hex_ssl.train.pretrain import Run, prepare
from hex_ssl.train.reproduce.plan import Job, Place
from hex_ssl.train.reproduce.results import read_results, write_result
from hex_ssl.train.reproduce.time_limit import Deadline, StopAtDeadline
from hex_ssl.train.run_folder import BACKBONE, CHECKPOINTS, last_checkpoint, package_versions, run_folder

with train_extra():
    import pyarrow.parquet as pq

FIGURES = ("top1", "top5", "superclass_top1", "superclass_top5")
HISTORY = ("loss", "threshold", "hierarchical_negatives", "positive_similarity", "negative_similarity")
"""The metrics of each epoch that a result keeps."""


class BusyError(Exception):
    """Another process is executing this run."""


def measure(job: Job, deadline: Deadline | None = None) -> bool:
    """Pretrains, evaluates and saves the results. Continues where an earlier process was stopped.

    Args:
        job: The run.
        deadline: When to stop. None is never.

    Returns:
        Whether there was anything to do.

    Raises:
        BusyError: Another process is executing the run.
        OutOfTimeError: The deadline passed. A later call continues the run.
    """
    folder, deadline = run_folder(job.config), deadline or Deadline()
    with _claimed(folder.with_name(folder.name + ".lock")):
        if job.key in read_results(job.results):
            return False
        for place in (job.trained_on, job.evaluated_on):
            cut_rows(place)
        start = time.perf_counter()
        resumed = last_checkpoint(job.config) is not None
        run = prepare(job.config)
        run.trainer.callbacks.append(StopAtDeadline(deadline, folder / CHECKPOINTS))  # type: ignore[attr-defined]
        run.train()
        deadline.check()
        trained = time.perf_counter()
        knn, metrics = _knn_over_epochs(job, folder), _evaluate(job, folder)
        seconds = {"pretraining": trained - start, "evaluation": time.perf_counter() - trained}
        record = {
            "metrics": metrics,
            "seed": job.config.run.seed,
            "budget": _budget(run),
            "last_epoch": (read_metrics(folder) or [{}])[-1],
            "history": _history(folder) | knn,
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "resumed": resumed,
            **job.description,
            "environment": _environment(run.trainer.strategy.root_device),
        }
        write_result(job.results, record)
        if not job.keep_checkpoints:
            shutil.rmtree(folder / CHECKPOINTS)
            (folder / BACKBONE).unlink()
    return True


def _environment(device: torch.device) -> dict[str, str | int | None]:
    return {
        "python": platform.python_version(),
        **package_versions(),
        "machine": platform.machine(),
        "processor": _processor(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """The name of the processor, from /proc/cpuinfo if it exists."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cut_rows(place: Place) -> None:
    """Splits a single parquet file into a training and a test file, unless they exist already."""
    if place.file is None or place.root is None:
        return
    rows = place.images.train_rows
    assert rows is not None
    if (place.root / "train.parquet").is_file() and (place.root / "test.parquet").is_file():
        return
    table = pq.read_table(place.file)
    if not rows < table.num_rows:
        raise ValueError(f"expected `train_rows` to be below the {table.num_rows} rows of {place.file}, but got {rows}")
    place.root.mkdir(parents=True, exist_ok=True)
    for split, part in {"train": table.slice(0, rows), "test": table.slice(rows)}.items():
        beside = place.root / f".{split}-{os.getpid()}.part"
        pq.write_table(part, beside)
        os.replace(beside, place.root / f"{split}.parquet")


def _history(folder: Path) -> dict[str, list[float | None]]:
    """The metrics of each epoch, rounded to four significant digits."""
    rows = [row for row in read_metrics(folder) if "loss" in row]
    values = {name: [row.get(name) for row in rows] for name in HISTORY}
    return {name: [None if value is None else float(f"{value:.4g}") for value in each] for name, each in values.items()}


def _knn_over_epochs(job: Job, folder: Path) -> dict[str, dict[str, float]]:
    """The k-NN accuracy of the checkpoints that the run kept, by epoch. Empty if it kept none."""
    if not job.config.run.keep_every or "knn" not in job.evaluation:
        return {}
    rows = _measured(job, folder, ["knn"], "all")
    return {"knn.top1": {str(row["epoch"]): row["top1"] for row in rows}}


def _evaluate(job: Job, folder: Path) -> dict[str, float]:
    rows = _measured(job, folder, [*job.evaluation], "last")
    return {f"{row['by']}.{name}": row[name] for row in rows for name in FIGURES if name in row}


def _measured(job: Job, folder: Path, by: list[str], epochs: str) -> list[dict[str, Any]]:
    name, root = job.evaluated_on.images.name, job.evaluated_on.root
    protocols = {
        "knn": KNNSettings(**job.evaluation.get("knn", {})),
        "probe": ProbeSettings(**job.evaluation.get("probe", {})),
    }
    config = TransferConfig(
        str(folder),
        epochs=epochs,
        datasets=[name if root is None else f"{name}={root}"],
        by=by,  # type: ignore[arg-type]  # checked where the experiment was read
        num_workers=job.config.data.num_workers,
        **protocols,  # type: ignore[arg-type]
    )
    return prepare_evaluation(config).run().rows


def _budget(run: Run) -> dict[str, int | str]:
    config = run.config
    return {
        "backbone": config.backbone.name,
        "epochs": config.run.epochs,
        "batch_size": config.run.virtual_batch_size or config.data.batch_size,
        "steps": run.trainer.global_step,
        "training_images": len(run.data.rows),
        "image_size": run.data.image_size,
    }


@contextmanager
def _claimed(lock: Path) -> Iterator[None]:
    """Context manager for exclusive access to a run. The operating system releases the lock if the process dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        claim = FileLock(lock).acquire(timeout=0)
    except Timeout as error:
        raise BusyError(lock.stem) from error
    with claim:
        yield
