"""Training batches in an order given by seed and epoch, starting at any batch of an epoch."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from hex_ssl.train.data.digit_views import DigitView
from hex_ssl.train.data.draws import draw_keys
from hex_ssl.train.data.evaluation_images import square
from hex_ssl.train.data.images import ImageDataset
from hex_ssl.train.data.lost_batch import end_on_lost_batch
from hex_ssl.train.data.policies import PhotoView, Policy, view_sizes
from hex_ssl.train.data.worker_crops import WorkerCrop
from hex_ssl.train.data.worker_views import WorkerView

Work = Literal["views", "crops", "images"]
"""What the DataLoader workers produce: whole views, only the crops, or nothing ("images", which are in memory)."""

Places = tuple[int, np.ndarray]
"""The epoch, and int64 [N], the rows of a batch."""


class LoadedBatch(NamedTuple):
    """A batch of N images as it comes from the DataLoader workers.

    Attributes:
        images: A tensor [N, C, H, W] for each view. Empty if the images are already on the device.
        labels: int64 [N], -1 for images without a label.
        indices: int64 [N], rows of the training split.
        epoch: int64, 0-d.
    """

    images: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor
    epoch: Tensor


class TrainingImages(Dataset[LoadedBatch]):
    """Batches of a dataset, indexed by epoch and rows.

    Args:
        dataset: The images.
        policy: How the views are drawn.
        size: S, side of the views that have no size of their own.
        seed: Seed of the random numbers, together with the epoch, the row and the number of the view.
        work: Which part of the views to produce.
    """

    def __init__(self, dataset: ImageDataset, policy: Policy, size: int, seed: int, work: Work) -> None:
        self.dataset = dataset
        self.policy = policy
        self.size = size
        self.seed = seed
        self.work = work
        make = WorkerCrop if work == "crops" else WorkerView
        self.makers = [
            make(view, side) if isinstance(view, PhotoView) else view
            for view, side in zip(policy, view_sizes(policy, size), strict=True)
        ]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, places: Places) -> LoadedBatch:
        """The batch of an epoch and rows."""
        epoch, indices = places[0], torch.from_numpy(places[1])
        made: tuple[Tensor, ...] = ()
        if self.work != "images":
            load = self.dataset.pixels if self.work == "crops" else self.dataset.image
            images = [load(row) for row in indices.tolist()]
            keys = [draw_keys(self.seed, epoch, indices, view) for view in range(len(self.policy))]
            made = tuple(self._make(view, images, key) for view, key in enumerate(keys))
        return LoadedBatch(made, self.dataset.labels[indices], indices, torch.tensor(epoch))

    def _make(self, view: int, images: list[Any], keys: Tensor) -> Tensor:
        make = self.makers[view]
        if not isinstance(make, DigitView):
            # Keep channels last in memory, as the decoders return them.
            made = [make(image, key).permute(1, 2, 0) for image, key in zip(images, keys.tolist(), strict=True)]
            return torch.stack(made).permute(0, 3, 1, 2)
        squares = torch.stack([square(image, self.size, whole=True) for image in images])
        if self.work == "crops":
            return squares
        return make(squares.float() / 255 if squares.dtype == torch.uint8 else squares, keys)


class EpochSampler(DistributedSampler[LoadedBatch]):
    """Batches of shuffled rows for one process, each with its epoch, starting at any batch of the epoch.

    The order depends only on seed and epoch. With the same global batch size, batch k of all processes together holds
    the same rows for any number of processes. A last, smaller batch is dropped.

    This is a DistributedSampler so that Lightning does not replace it by one.

    Args:
        rows: int64, the rows to draw from.
        batch_size: Number of rows in a batch of one process.
        seed: Seed of the order.
        position: Returns the epoch and how many of its batches are done. Called when an iteration begins.
        processes: Number of processes.
        rank: Rank of this process.

    Raises:
        ValueError: There are fewer rows than one batch of all processes needs.
    """

    def __init__(
        self,
        rows: Tensor,
        batch_size: int,
        seed: int,
        position: Callable[[], tuple[int, int]],
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        # DistributedSampler uses only the length of its dataset.
        super().__init__(range(len(rows)), num_replicas=processes, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.rows = rows
        self.batch_size = batch_size
        self.position = position
        self.batches = len(rows) // (batch_size * processes)
        if self.batches == 0:
            raise ValueError(
                f"expected `data.batch_size` to be at most {len(rows) // processes}, "
                f"the number of training images{' per process' if processes > 1 else ''}, but got {batch_size}"
            )

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Places]:  # type: ignore[override]  # batches, not rows
        epoch, done = self.position()
        generator = torch.Generator().manual_seed(int(draw_keys(self.seed, epoch, -1)))
        count = self.batches * self.batch_size * self.num_replicas
        order = torch.randperm(len(self.rows), generator=generator)[:count]
        rows = self.rows[order[self.rank :: self.num_replicas]].view(self.batches, self.batch_size)
        return iter([(epoch, batch) for batch in rows[done:].numpy()])


class TrainLoader(DataLoader[LoadedBatch]):
    """A DataLoader that starts when its first batch is requested, not when the iterator is created.

    Lightning creates the first iterator before it knows where in the epoch a resumed run continues. With `state_dict`
    and `load_state_dict`, Lightning regards the loader as stateful, that is, as able to continue within an epoch. The
    only state it needs is Lightning's own count of batches.
    """

    def __init__(self, dataset: TrainingImages, sampler: EpochSampler, workers: int, pin_memory: bool) -> None:
        super().__init__(
            dataset,
            batch_size=None,  # the sampler's items are whole batches
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            collate_fn=as_it_is,
            worker_init_fn=end_on_lost_batch,
            # Without its own generator, each iteration would draw from torch's global one, and a resumed run once more.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[LoadedBatch]:  # type: ignore[override]
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Empty: Lightning's checkpoint already holds the count of batches."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Does nothing: `EpochSampler` asks for the position when an iteration begins."""


def as_it_is(batch: Any) -> LoadedBatch:
    """Returns the batch unchanged: a `collate_fn` that pickles, unlike a lambda."""
    return cast(LoadedBatch, batch)
