"""No step waits for the device: nothing reads a value from it, or selects rows whose number it would have to know."""

import math
from dataclasses import replace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hex_ssl.train.callbacks import EpochBar, EpochMetrics, OnlineClassifier
from hex_ssl.train.methods import base, finite
from hex_ssl.train.pretrain import prepare

from .conftest import MakeConfig

WAITS = {
    "_local_scalar_dense",  # item, float, bool
    "nonzero",
    "masked_select",
    "repeat_interleave",
    "unique_dim",
    "_unique2",
    "equal",
    "lift_fresh",  # a Python number that becomes a tensor: a copy to the device
}
"""Operators that wait for a GPU."""

BY_MASK = {"index", "index_put", "index_put_"}
"""Operators that wait if an index is a mask."""


class NoWaiting(TorchDispatchMode):
    """Raises an error for operators that wait, except on the step counts of torch's Adam, which stay on the CPU."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        super().__init__()
        self.counts = {id(state["step"]) for each in optimizers for state in each.state.values() if "step" in state}
        self.operators = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += 1
        name = operator._schema.name.removeprefix("aten::")
        if name in BY_MASK and any(each is not None and each.dtype == torch.bool for each in args[1]):
            raise AssertionError(f"{name} by a mask waits for the device")
        if name in WAITS and not (args and id(args[0]) in self.counts):
            raise AssertionError(f"{name} waits for the device")
        return operator(*args, **(kwargs or {}))


class Watched(L.Callback):
    """Raises an error for waiting from the start to the end of a batch, in all callbacks. Must be the last one."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.seen: list[int] = []
        self._mode: NoWaiting | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= self.first:
            classifiers = [each._optimizer for each in trainer.callbacks if isinstance(each, OnlineClassifier)]
            self._mode = NoWaiting([*trainer.optimizers, *classifiers])
            self._mode.__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._mode is not None:
            self.seen.append(self._mode.operators)
        self.close()

    def close(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "works_ahead", lambda device: True)
    monkeypatch.setattr(finite, "SECONDS", math.inf)  # on a busy machine a look could fall into a step


@pytest.mark.parametrize(
    "recipe",
    ["simclr_hex", "nnclr_hex", "all4one_hex", "barlow_twins_hex", "byol_hex", "mocov2_hex", "vicreg_hex", "simsiam"],
)
def test_no_step_waits(recipe: str, make_config: MakeConfig) -> None:
    config = make_config(recipe=recipe, epochs=1, knn_every=9)
    config = replace(config, optimizer=replace(config.optimizer, name="lars", clip_norm=1.0))
    run = prepare(config)
    metrics = next(each for each in run.trainer.callbacks if isinstance(each, EpochMetrics))  # type: ignore[attr-defined]
    metrics.evaluation = None
    bar = EpochBar(metrics)
    watched = Watched(first=2)  # the first step looks for labels, and optimizers make their buffers
    run.trainer.callbacks.append(watched)  # type: ignore[attr-defined]
    run.trainer.limit_train_batches = 4
    try:
        run.train()
    finally:
        watched.close()
    assert len(watched.seen) == 2
    assert min(watched.seen) > 100
    assert bar.get_metrics(run.trainer, run.method) == {}


class WatchedByTorch(L.Callback):
    """torch raises an error for waiting, from the start of a batch to the end of the last one, views included.

    Args:
        first: The first step.
        last: The last step.
    """

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.first:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.last:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(
    "accelerator",
    [
        "cpu",
        pytest.param(
            "gpu",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")],
        ),
    ],
)
@pytest.mark.parametrize("recipe", ["simclr_hex", "nnclr_hex"])
def test_no_step_waits_for_a_gpu(
    accelerator: str, recipe: str, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, this only rehearses the test."""
    modes: list[str] = []
    if accelerator == "cpu":
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    config = make_config(recipe=recipe, epochs=1, knn_every=9, accelerator=accelerator)
    config = replace(config, optimizer=replace(config.optimizer, name="lars", clip_norm=1.0))
    run = prepare(config)
    for each in run.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, EpochMetrics):
            each.evaluation = None
    run.trainer.callbacks.append(WatchedByTorch(first=2, last=4))  # type: ignore[attr-defined]
    try:
        run.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert modes == (["error", "default", "default"] if accelerator == "cpu" else [])
    assert run.trainer.global_step == 5


def test_waiting_is_an_error() -> None:
    rows = torch.arange(4.0)
    waits: list[Any] = [
        lambda: bool(rows.isfinite().all()),
        lambda: rows[rows > 1],
        lambda: rows.nonzero(),
        lambda: rows.new_tensor(2.0),
        lambda: rows.repeat_interleave(torch.tensor([1, 2, 3, 4])),
    ]
    for each in waits:
        with pytest.raises(AssertionError, match="waits for the device"), NoWaiting([]):
            each()
    with NoWaiting([]):
        assert Tensor.dim(rows[torch.arange(2, device=rows.device)] + rows.new_full((), 2.0)) == 1
