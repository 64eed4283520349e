"""A seed for each step, so that a step draws the same in a resumed run."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch


class SeededSteps(L.Callback):
    """Seeds torch, NumPy and Python before each batch, from the run's seed, the batch's number and the process.

    What a step draws (dropout, dropped paths) then depends on these alone: not on how often something drew before, nor
    on when the run was stopped and resumed. No state needs saving.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # SeedSequence mixes: neighbouring numbers give unrelated seeds.
        numbers = (self.seed, trainer.fit_loop.epoch_loop.total_batch_idx, trainer.global_rank)
        torch_seed, numpy_seed = np.random.SeedSequence(numbers).generate_state(2, np.uint64)
        torch.manual_seed(int(torch_seed))
        np.random.seed(int(numpy_seed) & 0xFFFFFFFF)
        random.seed(int(numpy_seed))
