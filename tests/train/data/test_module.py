"""The data module: its description of the data, its views, its splits."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from hex_ssl.train.config import DataConfig
from hex_ssl.train.data import POLICIES, Batch, BatchedView, Digits, DigitView, PretrainData, WorkerView
from hex_ssl.train.data.draws import draw_keys
from hex_ssl.train.data.loader import LoadedBatch
from hex_ssl.train.data.worker_crops import WorkerCrop
from tests.train.data.layouts import LAYOUTS, TINY, picture
from tests.train.data.test_parquet import rows as encoded_rows
from tests.train.data.test_parquet import write as write_parquet

pytestmark = TINY

DIGITS = DataConfig(name="digits", augment_on="device")


def first_batch(data: PretrainData, epoch: int = 0) -> Batch:
    data.resume(epoch, 0)
    loaded = next(iter(data.train_dataloader()))
    return data.on_after_batch_transfer(loaded, 0)


def noise_folder(root: Path, count: int = 6, size: tuple[int, int] = (40, 30)) -> Path:
    generator = torch.Generator().manual_seed(0)
    (root / "train" / "cat").mkdir(parents=True)
    for row in range(count):
        pixels = torch.randint(0, 256, (3, size[1], size[0]), dtype=torch.uint8, generator=generator)
        F.to_pil_image(pixels).save(root / "train" / "cat" / f"{row}.png")
    picture(root / "test" / "cat" / "0.png", size=size)
    return root


def test_digits() -> None:
    data = PretrainData(DIGITS, seed=0)
    assert (data.channels, data.image_size, data.classes, data.superclasses) == (1, 8, 10, None)
    assert data.evaluates
    assert data.workers() == 0
    batch = first_batch(data)
    assert isinstance(batch, Batch)
    assert [view.shape for view in batch.views] == [(256, 1, 8, 8)] * 2
    assert torch.equal(batch.labels, Digits("train").labels[batch.indices])


@pytest.mark.parametrize("augment_on", ["workers", "device"])
def test_views_depend_only_on_seed_epoch_image_and_view(augment_on: str) -> None:
    config = replace(DIGITS, augment_on=augment_on, num_workers=0)  # type: ignore[arg-type]
    batch = first_batch(PretrainData(config, seed=3), epoch=2)
    images, indices = Digits("train").images[batch.indices], batch.indices
    for number, view in enumerate(batch.views):
        drawn = DigitView()(images, draw_keys(3, 2, indices, number))
        torch.testing.assert_close(view, (drawn - 0.3054) / 0.3761, rtol=0, atol=1e-5)
    assert not torch.equal(*batch.views)


def test_photographs_on_the_device() -> None:
    config = DataConfig(name="hierarchy", batch_size=8, augment_on="device", augmentation="symmetric")
    data = PretrainData(config, seed=1)
    batch = first_batch(data)
    images = torch.stack([torch.as_tensor(data.train[row][0]) for row in batch.indices.tolist()]) / 255  # type: ignore[arg-type]
    for number, view in enumerate(batch.views):
        drawn = BatchedView(POLICIES["symmetric"][number], 32)(images, draw_keys(1, 0, batch.indices, number))
        expected = (drawn - 0.5) / torch.tensor([0.178, 0.178, 0.163])[:, None, None]
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def test_photographs_in_the_workers(tmp_path: Path) -> None:
    config = DataConfig(
        name="folder",
        root=str(noise_folder(tmp_path)),
        batch_size=4,
        image_size=24,
        num_workers=0,
        augmentation="asymmetric_imagenet",
    )
    data = PretrainData(config, seed=1)
    batch = first_batch(data, epoch=5)
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for number, view in enumerate(batch.views):
        keys = draw_keys(1, 5, batch.indices, number)
        draw = WorkerView(POLICIES["asymmetric_imagenet"][number], 24)
        for row, (index, key) in enumerate(zip(batch.indices.tolist(), keys.tolist(), strict=True)):
            expected = (draw(data.train.image(index), key) / 255 - mean) / std
            torch.testing.assert_close(view[row], expected, rtol=0, atol=1e-5)


def test_images_in_memory_stay_on_the_device() -> None:
    """Only labels and rows are loaded. The images are copied once, and a batch is one `index_select`."""
    data = PretrainData(DataConfig(name="hierarchy", batch_size=8), seed=1)
    assert data.work == "images"
    loaded = next(iter(data.train_dataloader()))
    assert loaded.images == ()
    taken: list[int] = []
    data.train.image = taken.append  # type: ignore[method-assign,assignment]
    data.on_after_batch_transfer(loaded, 0)
    kept = data._images_on(loaded.indices.device)
    assert (taken, kept.dtype) == ([], torch.uint8)
    assert data._images_on(loaded.indices.device) is kept


@pytest.mark.parametrize(("gpu", "work"), [(True, "crops"), (False, "views")])
def test_files_are_augmented_on_a_gpu_where_there_is_one(
    gpu: bool, work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config = DataConfig(name="folder", root=str(noise_folder(tmp_path)), batch_size=4, image_size=24, num_workers=0)
    assert PretrainData(config, seed=1).work == work


def test_files_are_cropped_in_the_workers_and_coloured_on_the_device(tmp_path: Path) -> None:
    config = DataConfig(
        name="folder", root=str(noise_folder(tmp_path)), batch_size=4, image_size=24, num_workers=0, augment_on="device"
    )
    data = PretrainData(config, seed=1)
    assert data.work == "crops"
    loaded = next(iter(data.train_dataloader()))
    assert [(images.dtype, images.shape) for images in loaded.images] == [(torch.uint8, (4, 3, 24, 24))] * 2
    keys = draw_keys(1, 0, loaded.indices, 1)
    crop = WorkerCrop(POLICIES["symmetric"][1], 24)
    index = int(loaded.indices[2])
    assert torch.equal(loaded.images[1][2], crop(data.train.image(index), int(keys[2])))
    batch = data.on_after_batch_transfer(loaded, 0)
    drawn = BatchedView(POLICIES["symmetric"][1], 24, crop=False)(loaded.images[1] / 255, keys)
    expected = (drawn - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    torch.testing.assert_close(batch.views[1], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "expected"), [("small", (40, 30), 30), ("large", (500, 300), 224), ("tall", (100, 260), 100)]
)
def test_size_of_the_views_is_that_of_the_images_at_most_224(
    name: str, size: tuple[int, int], expected: int, tmp_path: Path
) -> None:
    config = DataConfig(name="folder", root=str(noise_folder(tmp_path, 2, size)), batch_size=2, num_workers=0)
    data = PretrainData(config, seed=0)
    assert data.image_size == expected
    assert first_batch(data).views[0].shape == (2, 3, expected, expected)
    assert data.split("test")[0][0].shape == (3, expected, expected)


def test_size_asked_for() -> None:
    data = PretrainData(replace(DIGITS, image_size=16), seed=0)
    assert data.image_size == 16
    assert first_batch(data).views[0].shape == (256, 1, 16, 16)
    image, _ = data.split("test")[0]
    torch.testing.assert_close(image * 0.3761 + 0.3054, Digits("test", 16).images[0], rtol=0, atol=1e-5)


def test_size_beyond_pillows_limit() -> None:
    with pytest.raises(ValueError, match=r"expected `data.image_size` to be in \[4, 9459\], but got 10000"):
        PretrainData(replace(DIGITS, image_size=10_000), seed=0)


def test_splits_are_the_images_normalised() -> None:
    split = PretrainData(DIGITS, seed=0).split("test")
    images = torch.stack([image for image, _ in split])  # type: ignore[attr-defined]
    torch.testing.assert_close(images * 0.3761 + 0.3054, Digits("test").images, rtol=0, atol=1e-5)
    assert torch.equal(split.labels, Digits("test").labels)


def test_fraction_is_stratified_by_class() -> None:
    data = PretrainData(replace(DIGITS, fraction=0.1, batch_size=16), seed=5)
    assert len(data.rows) == 144
    split = data.split("train")
    assert len(split) == 144
    assert min(split.labels.bincount().tolist()) >= 13
    seen = torch.cat([batch.indices for batch in data.train_dataloader()])
    assert len(seen) == 144
    assert torch.equal(seen.sort().values, data.rows)  # rows of the whole training split
    assert len(data.split("test")) == 360
    other = PretrainData(replace(DIGITS, fraction=0.1, batch_size=16), seed=6)
    assert not torch.equal(other.rows, data.rows)


def test_superclasses_of_the_generated_images() -> None:
    data = PretrainData(DataConfig(name="hierarchy", batch_size=8, augment_on="device"), seed=0)
    assert data.classes == 20
    assert data.superclasses is not None
    assert data.superclasses.tolist() == [label // 4 for label in range(20)]


def test_superclasses_of_the_level_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["inaturalist2021"](tmp_path, monkeypatch)
    config = DataConfig(name="inaturalist2021", root=str(tmp_path), batch_size=2, num_workers=0)
    found = {}
    for level in (None, "kingdom", "genus"):
        data = PretrainData(replace(config, level=level), seed=0)
        assert data.superclasses is not None
        assert data.test is not None
        assert torch.equal(data.superclasses, torch.as_tensor(data.test.superclasses))
        found[level] = data.superclasses.tolist()
    assert found == {None: [0, 1, 2, 0], "kingdom": [0, 0, 1, 0], "genus": [0, 1, 2, 3]}
    with pytest.raises(ValueError, match='expected `data.level` to be one of "order", .* but got "species"'):
        PretrainData(replace(config, level="species"), seed=0)


def test_found_summarises_the_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PretrainData(DIGITS, seed=0).found == (
        "digits: train 1,437 images, all labelled, 10 classes; test 360 images, all labelled"
    )
    for path in ("Train/cat/1.jpg", "Train/dog/2.jpg", "Train/3.jpg", "test/cat/4.jpg", "val/dog/5.jpg"):
        picture(tmp_path / path)
    (tmp_path / "superclasses.csv").write_text("cat,animal\ndog,animal\n")
    config = DataConfig(name="folder", root=str(tmp_path), batch_size=2, num_workers=0)
    assert PretrainData(config, seed=0).found == (
        "folder: train 3 images, 2 labelled, 2 classes in 1 superclass; test 1 image, all labelled; not used: val"
    )
    config = replace(config, root=str(tmp_path / "Train" / "cat"))
    picture(tmp_path / "Train" / "cat" / "6.jpg")
    assert PretrainData(config, seed=0).found == "folder: train 2 images, none labelled, 0 classes; no test split"


def test_unlabelled_images_train_but_are_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["stl10"](tmp_path, monkeypatch)
    config = DataConfig(name="stl10", root=str(tmp_path), batch_size=5, augment_on="device", image_size=32)
    data = PretrainData(config, seed=0)
    batch = first_batch(data)
    assert sorted(batch.labels.tolist()) == [-1, -1, -1, 0, 9]
    assert batch.views[0].shape == (5, 3, 32, 32)
    assert data.split("train").labels.tolist() == [0, 9]
    assert data.evaluates


def test_without_labels_or_test_split_nothing_is_evaluated(tmp_path: Path) -> None:
    write_parquet(tmp_path / "images.parquet", encoded_rows(*range(8)))
    config = DataConfig(name="parquet", root=str(tmp_path / "images.parquet"), batch_size=4, num_workers=0)
    data = PretrainData(config, seed=0)
    assert (data.classes, data.superclasses, data.evaluates, data.image_size) == (0, None, False, 4)
    assert first_batch(data).labels.tolist() == [-1] * 4
    with pytest.raises(ValueError, match="to have a test split, but it has none"):
        data.split("test")
    with pytest.raises(ValueError, match="expected the train split of parquet to have labels, but it has none"):
        data.split("train")


def test_missing_test_split_of_a_published_dataset_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["imagenet"](tmp_path, monkeypatch)
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="to hold val for the test split of imagenet, but it is missing"):
        PretrainData(DataConfig(name="imagenet", root=str(tmp_path), batch_size=2), seed=0)


def test_double_precision_gets_double_views() -> None:
    class Trainer:
        precision = "64-true"

    data = PretrainData(DIGITS, seed=0)
    loaded = next(iter(data.train_dataloader()))
    data.trainer = Trainer()  # type: ignore[assignment]
    assert data.on_after_batch_transfer(loaded, 0).views[0].dtype == torch.float64


def test_other_batches_pass_through() -> None:
    data: Any = PretrainData(DIGITS, seed=0)
    assert data.on_after_batch_transfer((1, 2), 0) == (1, 2)


def test_grey_digits_with_a_photographs_policy() -> None:
    for augment_on in ("workers", "device"):
        config = replace(DIGITS, augmentation="symmetric", augment_on=augment_on, num_workers=0, batch_size=4)
        assert first_batch(PretrainData(config, seed=0)).views[0].shape == (4, 1, 8, 8)


def test_photographs_with_the_digits_policy(tmp_path: Path) -> None:
    for augment_on in ("workers", "device"):
        root = noise_folder(tmp_path / augment_on)
        config = DataConfig(
            name="folder",
            root=str(root),
            batch_size=4,
            image_size=12,
            num_workers=0,
            augmentation="digits",
            augment_on=augment_on,
        )
        assert first_batch(PretrainData(config, seed=0)).views[1].shape == (4, 3, 12, 12)


def test_settings_that_are_wrong() -> None:
    with pytest.raises(ValueError, match="expected `data.batch_size` to be at most 1437"):
        PretrainData(replace(DIGITS, batch_size=1438), seed=0)
    with pytest.raises(ValueError, match="expected `data.augmentation` to be one of"):
        PretrainData(replace(DIGITS, augmentation="none"), seed=0)
    with pytest.raises(ValueError, match='expected `name` to be one of "train", "test", but got "val"'):
        PretrainData(DIGITS, seed=0).split("val")  # type: ignore[arg-type]


@pytest.mark.parametrize(("sides", "size"), [((20, 31, 400), 31), ((300, 20, 230), 224)])
def test_images_of_various_sizes_get_views_of_the_median_of_their_shorter_sides(
    sides: tuple[int, ...], size: int, tmp_path: Path
) -> None:
    for number, side in enumerate(sides):
        picture(tmp_path / "train" / "cat" / f"{number}.png", size=(side + 50 * (number % 2), side))
    config = DataConfig(name="folder", root=str(tmp_path), batch_size=2)
    assert PretrainData(config, seed=0).image_size == size


def test_loaded_batches_are_moved_whole() -> None:
    from lightning.fabric.utilities import move_data_to_device

    loaded = next(iter(PretrainData(DIGITS, seed=0).train_dataloader()))
    moved = move_data_to_device(loaded, torch.device("meta"))
    assert isinstance(moved, LoadedBatch)
    assert isinstance(moved.images, tuple)
    assert all(each.is_meta for each in (*moved.images, moved.labels, moved.indices, moved.epoch))


def test_loaded_batches_are_pinned_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = next(iter(PretrainData(DIGITS, seed=0).train_dataloader()))
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)  # torch's own needs an accelerator
    found = torch.utils.data._utils.pin_memory.pin_memory(loaded)
    assert isinstance(found, LoadedBatch)
    assert isinstance(found.images, tuple)
    parts = [*found.images, found.labels, found.indices, found.epoch]
    assert [id(each) for each in parts] == [id(each) for each in pinned]
    expected = [*loaded.images, loaded.labels, loaded.indices, loaded.epoch]
    assert all(torch.equal(a, b) for a, b in zip(parts, expected, strict=True))


@pytest.mark.parametrize(("device", "pins"), [("cuda", True), ("cpu", False)])
def test_batches_are_pinned_only_for_a_gpu(device: str, pins: bool) -> None:
    data = PretrainData(DIGITS, seed=0)
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(strategy=strategy, world_size=1, global_rank=0, num_devices=1)  # type: ignore[assignment]
    assert data.train_dataloader().pin_memory is pins


def test_broken_image_is_named_even_in_a_worker(tmp_path: Path) -> None:
    root = noise_folder(tmp_path, count=2)
    config = DataConfig(name="folder", root=str(root), batch_size=2, image_size=8, num_workers=1)
    data = PretrainData(config, seed=0)
    (root / "train" / "cat" / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"(?s)1.png to be an image, but it cannot be decoded"):
        next(iter(data.train_dataloader()))
    assert isinstance(data.train.image(0), Image.Image)
