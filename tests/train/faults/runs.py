"""Tiny runs, in processes that can be killed."""

import csv
import json
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.config import Config
from hex_ssl.train.pretrain import pretrain
from hex_ssl.train.recipes import load_recipe
from tests.train.conftest import untimed
from tests.train.test_resume import assert_same

STEPS = 4
"""Steps of an epoch: 280 digits in batches of 64."""

EPOCHS = 4

HANG = 1200.0
"""Seconds after which a process must be stuck, even on a slow and busy machine."""

MOMENTS = int(os.environ.get("HEX_SSL_FAULT_MOMENTS", "20"))
"""Number of random moments for each signal."""


def tiny(root: Path, name: str = "run", **run: Any) -> Config:
    """A run that takes seconds, saves after each step, and keeps the weights of each epoch."""
    config = Config.from_dict(load_recipe("quick/simclr_hex"))
    settings = {"epochs": EPOCHS, "knn_every": EPOCHS, "classifier": False, "progress": False}
    settings |= {"checkpoint_minutes": 0, "keep_every": 1}
    return replace(
        config,
        backbone=replace(config.backbone, width=4),
        data=replace(config.data, fraction=0.195, batch_size=64),
        optimizer=replace(config.optimizer, warmup_epochs=1),
        run=replace(config.run, root=str(root), name=name, **(settings | run)),
    )


def resumed(config: Config) -> Config:
    """The configuration that resumes the same run."""
    return replace(config, run=replace(config.run, existing="resume"))


def train(config: Config) -> None:
    """Trains, and resumes the run if it exists."""
    pretrain(resumed(config))


def start(target: Callable[..., Any], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """Starts a process that has everything imported, but not the threads of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hex_ssl.train.pretrain", "timm.optim", "tests.train.faults.runs"])
    process = context.Process(target=_quietly, args=(target, *arguments))
    process.start()
    return process


def end_of(target: Callable[..., Any], *arguments: Any) -> str:
    """Runs a function in a separate process. Returns "" or the type and the text of its error."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = start(_tell, sender, target, *arguments)
    sender.close()
    assert receiver.poll(HANG), "it hangs"
    told: str = receiver.recv()
    process.join(timeout=HANG)
    assert process.exitcode == 0
    return told


def wait_for(happens: Callable[[], bool], process: multiprocessing.process.BaseProcess) -> bool:
    """Waits until a condition holds. Returns whether it did while the process was alive."""
    end = time.monotonic() + HANG
    while process.exitcode is None and time.monotonic() < end:
        if happens():
            return True
        time.sleep(0.001)
    return False


def hold(waiting: Path, until: Path) -> None:
    """Writes a file to signal that this process waits, and waits for another file."""
    waiting.touch()
    while not until.exists():
        time.sleep(0.001)


def step_of(folder: Path) -> int:
    """The step of the last checkpoint, which must be complete. 0 before the first one."""
    last = folder / "checkpoints" / "last.ckpt"
    return int(torch.load(last, weights_only=True)["global_step"]) if last.exists() else 0


def check_whole(folder: Path, expected: Path) -> None:
    """Asserts that no file of a stopped run is damaged, and that everything before its last checkpoint is there."""
    if (folder / "config.yaml").exists():
        Config.from_dict(yaml.safe_load((folder / "config.yaml").read_text()))
    if (folder / "environment.json").exists():
        json.loads((folder / "environment.json").read_text())
    step = step_of(folder)
    logged = sum((row["step"] or 0) <= step for row in read_metrics(expected)) if step else 0
    for read in (read_metrics, table_of):
        rows: list[Any] = read(folder)
        assert len(rows) >= logged
        assert_same(untimed(rows), untimed(read(expected)[: len(rows)]), "metrics")
    for path in (folder / "checkpoints").glob("epoch-*.ckpt"):
        check_equal_checkpoints(folder, expected, path.name)
    if (folder / "backbone.safetensors").exists():
        load_file(folder / "backbone.safetensors")


def table_of(folder: Path) -> list[dict[str, str]]:
    """The values of each line of `metrics.csv`, without an incomplete last line."""
    path = folder / "metrics.csv"
    text = path.read_bytes().decode() if path.exists() else ""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [{name: figure for name, figure in row.items() if figure} for row in csv.DictReader(lines, strict=True)]


def check_equal(folder: Path, expected: Path) -> None:
    """Asserts that a run ended like another one, bit for bit."""
    names, others = ({path.name for path in (each / "checkpoints").glob("*.ckpt")} for each in (folder, expected))
    assert names == others
    for name in names:
        check_equal_checkpoints(folder, expected, name)
    assert_same(load_file(folder / "backbone.safetensors"), load_file(expected / "backbone.safetensors"), "backbone")
    for read in (read_metrics, table_of):
        assert untimed(read(folder)) == untimed(read(expected))


def check_equal_checkpoints(folder: Path, expected: Path, name: str) -> None:
    """Asserts that two runs have the same checkpoint of this name, bit for bit."""
    found, other = (torch.load(each / "checkpoints" / name, weights_only=True) for each in (folder, expected))
    assert_same(found, other, name)


def contents(folder: Path) -> dict[str, bytes]:
    """The content of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _quietly(target: Callable[..., Any], *arguments: Any) -> None:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of its loader's processes, as in any program
    signal.signal(signal.SIGINT, signal.default_int_handler)
    target(*arguments)


def _tell(sender: Connection, target: Callable[..., Any], *arguments: Any) -> None:
    try:
        target(*arguments)
        sender.send("")
    except BaseException as error:
        sender.send(f"{type(error).__name__}: {error}")
