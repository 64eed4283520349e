"""The data module: batches of views for training, unaugmented images for evaluation."""

from pathlib import Path
from typing import Literal

import lightning as L
import torch
from PIL import Image
from torch import Tensor

from hex_ssl.train.config import DataConfig
from hex_ssl.train.cores import available_cores
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.data.batched_views import BatchedView
from hex_ssl.train.data.catalogue import GENERATED, build_dataset, dataset_card
from hex_ssl.train.data.device_views import DeviceViews
from hex_ssl.train.data.digit_views import DigitView
from hex_ssl.train.data.evaluation_images import EvaluationImages, square
from hex_ssl.train.data.images import UNLABELLED, ArrayImages, ImageDataset
from hex_ssl.train.data.loader import EpochSampler, LoadedBatch, TrainingImages, TrainLoader, Work
from hex_ssl.train.data.policies import LARGEST_VIEW, PhotoView, Policy, find_policy, own_policy, view_sizes
from hex_ssl.train.data.subset import stratified_rows
from hex_ssl.train.data.superclasses import SUPERCLASSES

PROBED = 64
"""Number of images whose size is read if the dataset has no single size."""


class PretrainData(L.LightningDataModule):
    """Batches of views for training, and unaugmented splits for evaluation.

    The order of the images depends only on the seed and the epoch, and a view only on the seed, the epoch, the image
    and the number of the view. Neither depends on the number of workers or on earlier batches, so a run resumed within
    an epoch continues as if it had not stopped.

    Args:
        config: Dataset, image size, batch size and further settings.
        seed: Seed of the order, the views and the choice of `config.fraction` of the images.

    Attributes:
        channels: C, the number of channels.
        image_size: S, the side in pixels of evaluated images and of views without a size of their own.
        policy: How each view is drawn.
        classes: Number of classes, 0 without labels.
        superclasses: int64 [classes], the superclass of each class, or None.
        train, test: The splits. `test` is None if there is no test split.
        rows: int64, the rows of the training images that are used (`config.fraction` of them).
        views: The `DeviceViews` that finish the views on the device. Its `compile` compiles them.

    Raises:
        FileNotFoundError: Files are missing. The message says which files to put where.
        ValueError: The settings contradict each other or the data.

    Example:
        >>> data = PretrainData(DataConfig(name="digits", augment_on="device", batch_size=4), seed=0)
        >>> batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        >>> [view.shape for view in batch.views], batch.labels.shape
        ([torch.Size([4, 1, 8, 8]), torch.Size([4, 1, 8, 8])], torch.Size([4]))
    """

    def __init__(self, config: DataConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.seed = seed
        _check_root(config)
        self.train = build_dataset(config.name, "train", config.root, config.level, config.arguments)
        self.card = dataset_card(config.name).with_channels(self.train.channels)
        self.test = self._build_test()
        self.rows = stratified_rows(self.train.labels, config.fraction, seed)
        self.channels = self.train.channels
        self.image_size = _checked_size(config.image_size or own_size(self.train))
        self.classes = self.train.classes
        self.superclasses = self.train.superclasses
        self.policy = self._find_policy()
        self.work = self._work()
        self.views = DeviceViews(self._makers(), self.card.mean, self.card.std, seed)
        self._memory: dict[torch.device, Tensor] = {}
        self._resumed = (0, 0)
        EpochSampler(self.rows, config.batch_size, seed, self._position)  # raises early if the batch is too large

    def _build_test(self) -> ImageDataset | None:
        try:
            return build_dataset(self.config.name, "test", self.config.root, self.config.level, self.config.arguments)
        except FileNotFoundError:
            if self.card.splits:  # this dataset has a test split, so its files are missing
                raise
            return None

    def _find_policy(self) -> Policy:
        if not self.config.views:
            name = self.card.augmentation if self.config.augmentation == "auto" else self.config.augmentation
            return find_policy(name, self.image_size)
        policy = own_policy(self.config.views)
        for size in view_sizes(policy, self.image_size):
            _checked_size(size)
        return policy

    @property
    def view_sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels."""
        return view_sizes(self.policy, self.image_size)

    def _work(self) -> Work:
        stays, place = isinstance(self.train, ArrayImages), self.config.augment_on
        if place == "workers" or (place == "auto" and not stays and not torch.cuda.is_available()):
            return "views"
        return "images" if stays else "crops"

    def _makers(self) -> list[BatchedView | DigitView | None]:
        if self.work == "views":
            return [None for _ in self.policy]
        crop = self.work == "images"
        return [
            BatchedView(view, size, crop) if isinstance(view, PhotoView) else view
            for view, size in zip(self.policy, self.view_sizes, strict=True)
        ]

    @property
    def found(self) -> str:
        """A summary of the splits: numbers of images, labelled images, classes and superclasses."""
        parts = [f"{self.config.name}: train {_counted(self.train)}"]
        parts[0] += f", {_number(self.classes, 'class', 'classes')}"
        if self.superclasses is not None:
            parts[0] += f" in {_number(len(self.superclasses.unique()), 'superclass', 'superclasses')}"
        parts.append("no test split" if self.test is None else f"test {_counted(self.test)}")
        if self.train.left_out:
            parts.append(f"not used: {', '.join(self.train.left_out)}")
        return "; ".join(parts)

    @property
    def evaluates(self) -> bool:
        """Whether both splits have labelled images, so that the run can be evaluated."""
        return not self.lacks

    @property
    def lacks(self) -> str:
        """What is missing for an evaluation, as text for a message. Empty if nothing is missing."""
        if not bool((self.train.labels[self.rows] != UNLABELLED).any()):
            return "the training images have no labels"
        if self.test is None:
            return "there are no test images"
        return "" if bool((self.test.labels != UNLABELLED).any()) else "the test images have no labels"

    def split(self, name: Literal["train", "test"]) -> EvaluationImages:
        """The labelled images of a split for evaluation: normalised, not augmented.

        Args:
            name: "train" or "test". "train" contains only the images in `rows`.

        Raises:
            ValueError: The split does not exist or has no labels.
        """
        if name not in ("train", "test"):
            raise ValueError(f'expected `name` to be one of "train", "test", but got "{name}"')
        dataset = self.train if name == "train" else self.test
        if dataset is None:
            raise ValueError(f"expected {self.config.name} in {self.config.root} to have a test split, but it has none")
        rows = self.rows if name == "train" else torch.arange(len(dataset))
        rows = rows[dataset.labels[rows] != UNLABELLED]
        if len(rows) == 0:
            raise ValueError(f"expected the {name} split of {self.config.name} to have labels, but it has none")
        return EvaluationImages(dataset, rows, self.image_size, self.card.mean, self.card.std)

    def train_dataloader(self) -> TrainLoader:
        """The shuffled batches of this process, all of the same size."""
        trainer = self.trainer
        processes, rank, devices = (
            (trainer.world_size, trainer.global_rank, trainer.num_devices) if trainer else (1, 0, 1)
        )
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        sampler = EpochSampler(self.rows, self.config.batch_size, self.seed, self._position, processes, rank)
        images = TrainingImages(self.train, self.policy, self.image_size, self.seed, self.work)
        return TrainLoader(images, sampler, self.workers(devices), pin_memory=on_gpu)

    def workers(self, devices: int = 1) -> int:
        """Number of DataLoader workers for each training process.

        Args:
            devices: Number of training processes on this machine.
        """
        if self.config.num_workers is not None:
            return self.config.num_workers
        return 0 if self.work == "images" else max(1, available_cores() // devices)

    def resume(self, epoch: int, batch: int) -> None:
        """Sets where iterations of the loader begin. Only for use without a trainer, which tracks its own position.

        Args:
            epoch: The epoch.
            batch: Number of batches of this epoch that are done.
        """
        self._resumed = (epoch, batch)

    def _position(self) -> tuple[int, int]:
        if self.trainer is None:
            return self._resumed
        # Lightning's own counter. `ready` counts the batches handed out; on resuming, Lightning resets it to those
        # that were finished.
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def on_after_batch_transfer(self, batch: LoadedBatch, dataloader_idx: int) -> Batch:
        """Finishes the views on the device and normalises them."""
        if not isinstance(batch, LoadedBatch):
            return batch
        images = batch.images
        if self.work == "images":
            images = (self._images_on(batch.indices.device).index_select(0, batch.indices),) * len(self.policy)
        if self.trainer is not None and self.trainer.precision == "64-true":
            self.views.dtype = torch.float64
        return Batch(self.views(images, batch.indices, batch.epoch), batch.labels, batch.indices)

    def _images_on(self, device: torch.device) -> Tensor:
        """All training images, kept on the device. `DigitView` does not crop, so its images are resized here."""
        if device not in self._memory:
            assert isinstance(self.train, ArrayImages)
            images = self.train.images
            if isinstance(self.policy[0], DigitView) and self.train.size != (self.image_size, self.image_size):
                images = torch.stack([square(image, self.image_size, whole=True) for image in images])
            self._memory[device] = images.to(device)
        return self._memory[device]


def own_size(dataset: ImageDataset) -> int:
    """The default side of a dataset's views: the shorter side of its images, at most 224 pixels.

    If the images vary in size, this is the median of the shorter sides of up to 64 of them.

    Args:
        dataset: The images.
    """
    if dataset.size is not None:
        return min(*dataset.size, LARGEST_VIEW)
    rows = torch.linspace(0, len(dataset) - 1, min(PROBED, len(dataset))).round().long()
    images = [dataset.image(row) for row in rows.tolist()]
    sides = [min(image.size) if isinstance(image, Image.Image) else min(image.shape[-2:]) for image in images]
    return min(int(torch.tensor(sides).median()), LARGEST_VIEW)


def _counted(dataset: ImageDataset) -> str:
    labelled = int((dataset.labels != UNLABELLED).sum())
    with_label = {0: "none", len(dataset): "all"}.get(labelled, f"{labelled:,}")
    return f"{_number(len(dataset), 'image', 'images')}, {with_label} labelled"


def _number(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


def _checked_size(size: int) -> int:
    limit = int((Image.MAX_IMAGE_PIXELS or 2**62) ** 0.5)
    if not 4 <= size <= limit:
        raise ValueError(f"expected `data.image_size` to be in [4, {limit}], but got {size}")
    return size


def _check_root(config: DataConfig) -> None:
    """Raises an error if there is a folder of images for a dataset that needs none: its images would not be used."""
    if config.name in GENERATED and config.root is not None and not (Path(config.root) / SUPERCLASSES).is_file():
        raise ValueError(
            f"expected `data.root` to be None for {config.name}, which needs no files, but got {config.root}; "
            "for folders of images, write data.name=folder"
        )
