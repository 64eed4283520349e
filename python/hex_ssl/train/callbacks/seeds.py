"""Seeds the random number generators before each step, so that a resumed run draws the same numbers."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch


class SeededSteps(L.Callback):
    """Seeds torch, NumPy and Python before each batch, from the run's seed, the number of the batch and the rank.

    The random numbers of a step (dropout, stochastic depth) then depend only on these, not on earlier draws or on when
    the run was resumed. No generator state needs to be saved.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # SeedSequence turns similar inputs into independent seeds.
        numbers = (self.seed, trainer.fit_loop.epoch_loop.total_batch_idx, trainer.global_rank)
        torch_seed, numpy_seed = np.random.SeedSequence(numbers).generate_state(2, np.uint64)
        torch.manual_seed(int(torch_seed))
        np.random.seed(int(numpy_seed) & 0xFFFFFFFF)
        random.seed(int(numpy_seed))
