"""The user's own Dataset, named by the function that returns it."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from hex_ssl.train.config import DataConfig
from hex_ssl.train.data import ArrayImages, PretrainData, build_dataset
from hex_ssl.train.data.own_dataset import OwnImages

NAME = f"{__name__}:make"


class Own:
    """A map-style Dataset with the given items and attributes."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def make(split: str, count: int = 12, root: str = "", kind: str = "tensors") -> Any:
    """The function that the tests name."""
    if split == "test" and kind != "tensors":
        return None
    if kind == "pictures":
        picture = Image.new("LA", (70, 90), (200, 255))
        return Own([(picture, "ignored")] * count, targets=[0, -1] * (count // 2), classes=["cat", "dog"])
    images = torch.randint(0, 256, (count, 3, 10, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    if kind == "grey":
        return TensorDataset(images[:, :1].float() / 255)
    if kind == "ours":
        return ArrayImages(images, [0] * count, 1)
    return Own(list(zip(images, range(count), strict=True)), labels=torch.arange(count) % 3, root=root)


def data_of(**settings: Any) -> PretrainData:
    arguments = settings.pop("arguments", {})
    return PretrainData(DataConfig(name=NAME, batch_size=4, num_workers=0, arguments=arguments, **settings), seed=0)


def test_tensors_with_labels() -> None:
    data = data_of()
    assert data.found == f"{NAME}: train 12 images, all labelled, 3 classes; test 12 images, all labelled"
    assert isinstance(data.train, ArrayImages)  # small ones are kept
    assert (data.channels, data.image_size, data.evaluates) == (3, 10, True)
    loaded = next(iter(data.train_dataloader()))
    assert [view.shape for view in data.on_after_batch_transfer(loaded, 0).views] == [(4, 3, 10, 10)] * 2
    assert data.split("test")[3][0].shape == (3, 10, 10)


def test_pil_images_and_arguments_of_the_function() -> None:
    data = data_of(arguments={"kind": "pictures", "count": 6})
    assert data.found == f"{NAME}: train 6 images, 3 labelled, 2 classes; no test split"
    assert data.train.class_names == ("cat", "dog")
    image = data.train.image(0)
    assert isinstance(image, Image.Image)
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (200, 200, 200))
    assert next(iter(data.train_dataloader())).images[0].shape == (4, 3, 70, 70)


def test_subset_has_the_labels_of_the_whole() -> None:
    """Also a subset of a subset, as two calls of `random_split` make it."""
    images = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    whole: Any = Own(list(images), targets=[0, 1, 2, 0, 1, -1], classes=["cat", "dog", "owl"])
    found = OwnImages(Subset(Subset(whole, [5, 4, 2, 1]), [3, 1, 0]), "mine")
    assert found.labels.tolist() == [1, 1, -1]
    assert found.class_names == ("cat", "dog", "owl")
    whole.targets = [0]
    with pytest.raises(ValueError, match="expected the labels of mine to be a whole number for each of its 6 images"):
        OwnImages(Subset(whole, [0]), "mine")


def test_second_tensor_holds_the_labels() -> None:
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for labels, expected in (
        (torch.tensor([2, 0, 1, -1]), [2, 0, 1, -1]),
        (torch.tensor([1, 0, 1, 0], dtype=torch.uint8), [1, 0, 1, 0]),
        (torch.rand(4), [-1] * 4),
        (torch.zeros(4, 2, dtype=torch.int64), [-1] * 4),
    ):
        assert OwnImages(TensorDataset(images, labels), "mine").labels.tolist() == expected


def test_grey_images_without_labels() -> None:
    data = data_of(arguments={"kind": "grey"})
    assert data.found == f"{NAME}: train 12 images, none labelled, 0 classes; no test split"
    assert data.card.mean == pytest.approx((0.449,))
    loaded = next(iter(data.train_dataloader()))
    assert data.on_after_batch_transfer(loaded, 0).views[0].shape == (4, 1, 10, 10)


def test_an_image_dataset_of_hex_ssl_is_returned_unchanged(tmp_path: Path) -> None:
    assert type(build_dataset(NAME, arguments={"kind": "ours"})) is ArrayImages
    (tmp_path / "superclasses.csv").write_text("0,animal\n1,animal\n2,plant\n")
    found = build_dataset(NAME, root=tmp_path)
    assert found.superclass_names == ("animal", "plant")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_module:make",
            'to be an importable "module:function", but got "no_such_module:make": No module named',
        ),
        (f"{__name__}:nothing", 'to be an importable "module:function", but got'),
        (f"{__name__}:data_without_length", "to return a Dataset with a length, but got SimpleNamespace"),
    ],
)
def test_invalid_functions_are_an_error(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_dataset(name)


def test_function_in_a_file_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console script `hex-ssl` does not have the current folder in `sys.path`."""
    (tmp_path / "stripes_here.py").write_text(
        "from hex_ssl.train.data import Digits\n\n\ndef make(split):\n    return Digits(split)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    assert len(build_dataset("stripes_here:make", "test")) == 360


def data_without_length(split: str) -> Any:
    """Returns an object without a length."""
    return SimpleNamespace()


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (torch.full((3, 4, 4), 1.5), "values of 1.5 to 1.5"),
        (torch.full((3, 4, 4), torch.nan), "values of nan to nan"),
        (torch.zeros(4, 4), r"a tensor \[4, 4\]"),
        (torch.zeros(5, 4, 4), r"a tensor \[5, 4, 4\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "torch.int64"),
        ({"image": 1}, "dict"),
    ],
)
def test_items_that_are_no_images(item: Any, found: str) -> None:
    with pytest.raises(
        ValueError, match=f"expected item 0 of mine:make to be a PIL image or a tensor .*, but got {found}"
    ):
        OwnImages(Own([(item, 0)]), "mine:make")
    good = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match=f"expected item 1 of mine:make to be .* but got {found}"):
        OwnImages(Own([(good, 0), (item, 0)]), "mine:make").image(1)


@pytest.mark.parametrize("labels", [[0], [0.5, 1.0], ["cat", "dog"], torch.zeros(2, 2, dtype=torch.int64)])
def test_invalid_labels_are_an_error(labels: Any) -> None:
    with pytest.raises(ValueError, match="labels of mine:make to be a whole number for each of its 2 images"):
        OwnImages(Own([torch.zeros(3, 4, 4)] * 2, targets=labels), "mine:make")


def test_no_images() -> None:
    with pytest.raises(ValueError, match="expected mine:make to return a Dataset with images, but it is empty"):
        OwnImages(Own([]), "mine:make")


def test_only_functions_take_arguments() -> None:
    with pytest.raises(ValueError, match=r"expected `data.arguments` to be empty for digits, but got {'year': 2024}"):
        build_dataset("digits", arguments={"year": 2024})
