"""A run that is killed at any moment and resumed ends like an undisturbed run: bit for bit, including its files."""

import csv
import multiprocessing
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from hex_ssl.train.callbacks import AtomicCheckpoints, EpochMetrics
from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.config import Config
from hex_ssl.train.methods import Method

from .conftest import MakeConfig, untimed


class Death(NamedTuple):
    """Where a process dies, after how many steps, and how often it saves before."""

    place: str = "nowhere"
    step: int = -1
    checkpoint_minutes: float = 60.0


STEPS = 5
"""Of an epoch: 1,437 digits in batches of 256."""

DEATHS = [
    Death("before its first folder"),
    Death("in a step", 1),  # before any checkpoint
    Death("in a step", 3, checkpoint_minutes=0),  # within an epoch, right after a checkpoint
    Death("while it saves", 4, checkpoint_minutes=0),  # with half a checkpoint written
    Death("in a step", 8),  # within an epoch, some steps after a checkpoint
    Death("before its epoch's checkpoint", 10),  # with the epoch's metrics written
    Death("after an optimizer step", 12, checkpoint_minutes=0),
    Death("before its export", 15),  # all epochs trained
]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(config: Config, death: Death) -> None:
    """Trains in a separate process, which dies at the given point."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    torch.set_num_threads(1)
    # Of the loader's processes, as in any program: those of a fork server would outlive this process.
    multiprocessing.set_start_method("fork", force=True)
    from hex_ssl.train import pretrain

    training_step, log, save = Method.training_step, EpochMetrics._log, AtomicCheckpoints.save_checkpoint
    after_optimizer_step = Method.optimizer_step

    def dying_step(self: Method, batch: Any, batch_idx: int) -> Any:
        if death.place == "in a step" and self.global_step == death.step:
            die()
        return training_step(self, batch, batch_idx)

    def dying_optimizer(self: Method, *args: Any, **kwargs: Any) -> None:
        after_optimizer_step(self, *args, **kwargs)
        if death.place == "after an optimizer step" and self.global_step == death.step:
            die()

    def dying_log(self: EpochMetrics, trainer: Any, *args: Any) -> None:
        log(self, trainer, *args)
        if death.place == "before its epoch's checkpoint" and trainer.global_step == death.step:
            die()

    def dying_save(self: AtomicCheckpoints, checkpoint: dict[str, Any], path: Path, **options: Any) -> None:
        if death.place == "while it saves" and checkpoint["global_step"] == death.step:
            path.with_name("last.ckpt.part").write_bytes(b"half a checkpoint")
            die()
        save(self, checkpoint, path, **options)

    Method.training_step = dying_step  # type: ignore[method-assign]
    Method.optimizer_step = dying_optimizer  # type: ignore[method-assign]
    EpochMetrics._log = dying_log  # type: ignore[method-assign,assignment]
    AtomicCheckpoints.save_checkpoint = dying_save  # type: ignore[method-assign,assignment]
    if death.place == "before its export":
        pretrain.save_backbone = lambda *_: die()  # type: ignore[attr-defined]
    if death.place == "before its first folder":
        pretrain.claim_run_folder = lambda *_: die()  # type: ignore[attr-defined,assignment]
    run = replace(config.run, existing="resume", checkpoint_minutes=death.checkpoint_minutes)
    pretrain.pretrain(replace(config, run=run))


@pytest.fixture(scope="module")
def processes() -> Any:
    """Starts processes that have everything imported, but not the threads of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hex_ssl.train.pretrain", "timm.optim", "tests.train.test_resume"])
    return context


def run(processes: Any, config: Config, death: Death) -> None:
    process = processes.Process(target=train, args=(config, death))
    process.start()
    process.join()
    assert process.exitcode == (0 if death.place == "nowhere" else -signal.SIGKILL), death


def assert_same(found: Any, expected: Any, where: str) -> None:
    """Asserts equal structure and equal bits."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected) or (found.isnan() & expected.isnan()).all(), where
    else:
        assert found == expected, where


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / f"{name}.ckpt", map_location="cpu", weights_only=True)
    return loaded


# All4One has a queue, a momentum encoder and dropout, and dies everywhere; MoCo has two queues, another optimizer,
# views that workers make, and no checkpoint at the end of its first epoch, and dies within epochs.
@pytest.mark.parametrize("recipe", ["all4one_hex", "mocov2"])
def test_killed_and_resumed_equals_uninterrupted(recipe: str, make_config: MakeConfig, processes: Any) -> None:
    whole = make_config(recipe=recipe, name="whole", epochs=3, keep_every=1)
    if recipe == "mocov2":
        data = replace(whole.data, augment_on="workers", num_workers=1)
        whole = replace(whole, data=data, optimizer=replace(whole.optimizer, name="lars", learning_rate=0.1))
        whole = replace(whole, run=replace(whole.run, checkpoint_epochs=2))
    killed = replace(whole, run=replace(whole.run, name="killed"))
    run(processes, whole, Death())
    for death in [*(DEATHS if recipe == "all4one_hex" else DEATHS[2:5]), Death()]:
        run(processes, killed, death)
    expected, found = Path(whole.run.root) / "whole", Path(whole.run.root) / "killed"
    for name in ("last", "epoch-0000", "epoch-0001", "epoch-0003"):
        assert_same(checkpoint(found, name), checkpoint(expected, name), name)
    weights = load_file(expected / "backbone.safetensors")
    assert_same(load_file(found / "backbone.safetensors"), weights, "backbone")
    for one, other in zip(untimed(read_metrics(found)), untimed(read_metrics(expected)), strict=True):
        assert_same(one, other, f"metrics of epoch {other['epoch']}")
    assert [row["step"] for row in read_metrics(found)] == [0, 5, 10, 15]
    table, other_table = (
        list(csv.DictReader((each / "metrics.csv").read_text().splitlines())) for each in (found, expected)
    )
    assert table[0].keys() == other_table[0].keys()
    assert untimed(table) == untimed(other_table)
    left = {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()}
    assert left - {"checkpoints/last.ckpt.part"} == {
        str(path.relative_to(expected)) for path in expected.rglob("*") if path.is_file()
    }
