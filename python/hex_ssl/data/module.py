"""The data module: batches of views for training, plain images for the evaluation."""

from typing import Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from hex_ssl.config import DataConfig
from hex_ssl.data.augmentation import Augmentation
from hex_ssl.data.digits import Digits

Views = tuple[Tensor, ...]
"""The views of a batch, each [N, C, S, S]."""


class PretrainData(L.LightningDataModule):
    """Training batches as ((view 1, view 2), labels).

    Order and augmentation depend on the seed, the epoch and the step alone, so that a resumed run goes on as if it
    had not stopped.

    Args:
        config: Dataset, image size, batch size.
        seed: Decides order and augmentations.
        augmentation: Makes a view of a batch of images.

    Raises:
        ValueError: A batch has more images than the training split.
    """

    views = 2

    def __init__(self, config: DataConfig, seed: int, augmentation: Augmentation | None = None) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        self.augmentation = augmentation or Augmentation()
        self.train = Digits("train", config.image_size)
        self.test = Digits("test", config.image_size)
        self.channels = Digits.channels
        if config.batch_size > len(self.train):
            raise ValueError(
                f"expected `data.batch_size` to be at most {len(self.train)}, the number of training images, "
                f"but got {config.batch_size}"
            )

    def split(self, name: Literal["train", "test"]) -> Digits:
        """The images of a split as they are, for the evaluation."""
        return self.train if name == "train" else self.test

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Shuffled batches of one size; Lightning tells the sampler each epoch."""
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler: DistributedSampler[tuple[Tensor, Tensor]] = DistributedSampler(
            self.train, num_replicas=world_size, rank=rank, seed=self.seed, drop_last=True
        )
        return DataLoader(
            self.train,
            batch_size=self.config.batch_size,
            sampler=sampler,
            num_workers=self.config.num_workers,
            drop_last=True,
        )

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Views, Tensor]:
        """Makes the views, on the device."""
        images, labels = batch
        step, rank = (self.trainer.global_step, self.trainer.global_rank) if self.trainer else (0, 0)
        generator = torch.Generator(images.device).manual_seed(_mixed(self.seed, step, rank))
        return tuple(self.augmentation(images, generator) for _ in range(self.views)), labels


def _mixed(seed: int, step: int, rank: int) -> int:
    """One seed of three numbers; the rank keeps processes from drawing the same views."""
    return (seed * 1_000_003 + step) * 4_099 + rank
