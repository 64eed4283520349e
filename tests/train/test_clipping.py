"""`optimizer.clip_norm` in a run."""

from dataclasses import replace
from typing import Any

import lightning as L
import pytest
import torch

from hex_ssl.train.pretrain import prepare

from .conftest import MakeConfig


class Norms(L.Callback):
    """Records the norm of all gradients at each optimizer step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.optimizers[0].register_step_post_hook(self._note)

    def _note(self, optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        gradients = [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        self.seen.append(float(torch.nn.utils.get_total_norm(gradients)))


def norms(config: Any, clip_norm: float | None, **run: Any) -> list[float]:
    name = f"clipped-at-{clip_norm}"
    settings = replace(config.run, name=name, knn_every=9, classifier=False, **run)
    prepared = prepare(replace(config, optimizer=replace(config.optimizer, clip_norm=clip_norm), run=settings))
    watch = Norms()
    prepared.trainer.callbacks.insert(0, watch)  # type: ignore[attr-defined]
    prepared.train()
    return watch.seen


@pytest.mark.parametrize("way", ["plain", "virtual", "accumulated"])
@pytest.mark.filterwarnings("ignore:`run.accumulate` is 2")
def test_gradient_of_each_optimizer_step_is_clipped(way: str, make_config: MakeConfig) -> None:
    """It is clipped once, after the parts of a virtual batch and accumulated batches have been added."""
    config = make_config(epochs=1)
    if way != "plain":
        config = replace(config, data=replace(config.data, batch_size=128))
    run: dict[str, Any] = {"plain": {}, "virtual": {"virtual_batch_size": 256}, "accumulated": {"accumulate": 2}}[way]
    free, clipped = norms(config, None, **run), norms(config, bound := 0.05, **run)
    assert len(clipped) == len(free) >= 5
    assert min(free) > 2 * bound
    assert clipped == pytest.approx([bound] * len(clipped), rel=1e-4)
