"""Computes the features of a split of a run's images with the run's checkpoints."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hex_ssl.train.analysis.snapshots import PROJECTION, REPRESENTATION, Snapshot, Subject
from hex_ssl.train.data import PretrainData
from hex_ssl.train.data.evaluation_images import EvaluationImages, as_float, square
from hex_ssl.train.evaluate.commands import chosen_device
from hex_ssl.train.evaluate.features import extract_features
from hex_ssl.train.evaluate.splits import workers
from hex_ssl.train.pretrain import load_method
from hex_ssl.train.reading import epochs_done, read_checkpoint, reading
from hex_ssl.train.run_folder import CHECKPOINTS, LAST, read_config

KEPT = re.compile(r"epoch-(\d+)")
BATCH = 512
"""Number of images that the networks take at a time."""

LARGEST_PICTURE = 96
"""The largest side in pixels of the images in Figure 15."""


def checkpoints_of(folder: str | Path, epochs: str = "all") -> dict[int, str]:
    """The checkpoints of a run, by their number of epochs, in order.

    Args:
        folder: The run folder.
        epochs: "all" (those that were kept, and the last), "last", or epochs such as "0,10,20".

    Returns:
        Names for `hex_ssl.train.pretrain.load_method`, by epoch.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: `epochs` has another form, or the last checkpoint cannot be read.
    """
    there = Path(folder) / CHECKPOINTS
    kept = {int(found[1]): path.stem for path in there.glob("epoch-*.ckpt") if (found := KEPT.fullmatch(path.stem))}
    last = there / f"{LAST}.ckpt"
    if last.is_file():
        with reading(last, "to state how long it was trained"):
            kept.setdefault(epochs_done(read_checkpoint(last)), LAST)
    if not kept:
        raise FileNotFoundError(f"expected checkpoints in {there}, but there are none")
    if epochs == "all":
        chosen = sorted(kept)
    elif epochs == "last":
        chosen = [max(kept)]
    elif re.fullmatch(r"\d+(,\d+)*", epochs):
        chosen = sorted({int(each) for each in epochs.split(",")})
    else:
        raise ValueError(f'expected `epochs` to be "all", "last" or numbers such as "0,10,20", but got "{epochs}"')
    missing = [epoch for epoch in chosen if epoch not in kept]
    if missing:
        raise FileNotFoundError(
            f"expected checkpoints of the epochs {missing}, but {there} has those of {sorted(kept)}: "
            f"`run.keep_every` sets which are kept"
        )
    return {epoch: kept[epoch] for epoch in chosen}


def subject_from_run(
    folder: str | Path,
    split: Literal["train", "test"] = "test",
    epochs: str = "all",
    images: int | None = None,
    device: str = "auto",
    seed: int = 0,
    num_workers: int | None = None,
) -> Subject:
    """The features of a run's images by its checkpoints, before and after the projector.

    The networks run in evaluation mode, on images without augmentation.

    Args:
        folder: The run folder.
        split: Split of the run's dataset.
        epochs: See `checkpoints_of`.
        images: Maximum number of images, drawn at random. None uses all. If some images have labels, only these are
            used.
        device: Device of the networks: "auto", "cpu", "cuda", ...
        seed: Seed of the choice of images.
        num_workers: Number of DataLoader workers. None uses one per core, and none for images in memory.

    Raises:
        FileNotFoundError: The folder is not a run folder, or lacks a checkpoint.
        ValueError: The dataset lacks the split, or `epochs` has another form.
    """
    config = read_config(folder)
    checkpoints = checkpoints_of(folder, epochs)
    data = PretrainData(config.data, config.run.seed)
    dataset = data.train if split == "train" else data.test
    if dataset is None:
        raise ValueError(f"expected `split` to be one that {config.data.name} has, but it has no test images")
    rows = _choose(dataset.labels.numpy(), images, seed)
    evaluated = EvaluationImages(dataset, torch.from_numpy(rows), data.image_size, data.card.mean, data.card.std)
    place = torch.device(chosen_device(device))

    def snapshots() -> Iterator[Snapshot]:
        for epoch, name in checkpoints.items():
            yield Snapshot(epoch, _features(load_method(folder, name).to(place), evaluated, num_workers))

    def pictures(chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        side = min(data.image_size, LARGEST_PICTURE)
        originals = (square(dataset.image(int(rows[row])), side, evaluated.whole) for row in chosen)
        return _as_bytes(torch.stack([as_float(image) for image in originals]))

    labels = evaluated.labels.numpy()
    labelled = bool((labels >= 0).all())
    above = dataset.superclasses
    return Subject(
        Path(folder).resolve().name,
        snapshots,
        labels if labelled else None,
        above.numpy()[labels] if labelled and above is not None else None,
        dataset.class_names,
        dataset.superclass_names,
        pictures,
        {"dataset": config.data.name, "split": split, "images": len(rows), "checkpoints": list(checkpoints.values())},
    )


def _choose(labels: NDArray[np.int64], images: int | None, seed: int) -> NDArray[np.int64]:
    chosen = np.flatnonzero(labels >= 0) if (labels >= 0).any() else np.arange(len(labels))
    if images is not None and images < len(chosen):
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, images, replace=False))
    return chosen


@torch.no_grad()
def _features(method: Any, images: EvaluationImages, num_workers: int | None) -> dict[str, NDArray[Any]]:
    method.eval()
    h = extract_features(method.backbone, images, BATCH, workers(images, num_workers)).h
    z = torch.cat([method.projector(rows) for rows in h.split(BATCH)])
    return {REPRESENTATION: h.float().cpu().numpy(), PROJECTION: z.float().cpu().numpy()}


def _as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Converts images [n, C, H, W] in [0, 1] to uint8 [n, H, W, 3]. Fewer than 3 channels become grey."""
    whole = (images * 255).round().clamp(0, 255).to(torch.uint8)
    colours = whole[:, :3] if whole.shape[1] >= 3 else whole[:, :1].expand(-1, 3, -1, -1)
    return colours.permute(0, 2, 3, 1).contiguous().numpy()
