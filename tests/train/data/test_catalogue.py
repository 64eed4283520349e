"""Every dataset from a tiny copy in its published layout, cards, and errors for missing datasets."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.datasets import Flowers102

from hex_ssl.train.data import CardWarning, build_dataset, catalogue, dataset_card, list_datasets, print_cards
from hex_ssl.train.data.cards_page import cards_markdown
from hex_ssl.train.data.catalogue import GENERATED
from tests.train.data.layouts import LAYOUTS, SPECIES, TINY

pytestmark = TINY

DOCS = Path(__file__).parents[3] / "docs" / "datasets.md"


@dataclass
class Expected:
    """The content of a tiny copy."""

    train: list[int]
    test: list[int]
    names: list[str]
    superclasses: list[int] | None = None
    superclass_names: tuple[str, ...] = ()


TAXA = [" ".join(species.split("_")[-2:]) for species in SPECIES]
INATURALIST = Expected([0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 2, 3], TAXA, [0, 1, 2, 0], ("Coleoptera", "Diptera", "Poales"))

EXPECTED = {
    "aircraft": Expected(
        [0, 1, 2, 0, 1, 2], [0, 1, 2], ["707-320", "737-200", "A300B4"], [1, 1, 0], ("Airbus", "Boeing")
    ),
    "caltech101": Expected([0] * 30 + [1] * 30, [0] * 3 + [1], ["Faces", "accordion"]),
    "cars": Expected(
        [1, 0, 2],
        [2, 0],
        ["AM General Hummer SUV 2000", "Audi S4 Sedan 2012", "Audi TT RS Coupe 2012"],
        [0, 1, 1],
        ("AM General", "Audi"),
    ),
    "cifar10": Expected([0, 9, 1, 9, 2, 9, 3, 9, 4, 9], [5, 9], list("abcdefghij")),
    "cifar100": Expected(
        [0, 57, 99],
        [1, 2],
        [f"class {i}" for i in range(100)],
        list(dataset_card("cifar100").superclass_of),
        dataset_card("cifar100").superclass_names,
    ),
    "cub": Expected([0, 1], [1], ["Black footed Albatross", "Laysan Albatross"]),
    "dogs": Expected([0, 1], [1], ["Chihuahua", "Maltese dog"]),
    "flowers": Expected([76, 101, 0, 2], [76, 4, 5], list(getattr(Flowers102, "classes", map(str, range(102))))),
    "food101": Expected([1, 1, 0], [0, 1], ["apple_pie", "waffles"]),
    "imagenet": Expected([0, 0, 1, 1, 2, 2], [0, 1, 2], ["n01440764", "n01443537", "n02869837"]),
    "inaturalist2021": INATURALIST,
    "inaturalist2021_mini": INATURALIST,
    "nabirds": Expected(
        [2, 0],
        [1, 2],
        ["Common Eider (Male)", "Common Eider (Female)", "Western Grebe"],
        [0, 0, 1],
        ("Ducks, Geese, and Swans", "Grebes"),
    ),
    "pets": Expected([0, 1, 2], [1, 0, 2], ["Abyssinian", "American Bulldog", "Bengal"], [0, 1, 0], ("cat", "dog")),
    "stl10": Expected([0, 9, -1, -1, -1], [3], [""] * 10),
    "tiny_imagenet": Expected([0, 0, 1, 1], [1, 0, 1], ["goldfish", "fire salamander"]),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_tiny_copy_in_its_real_layout(name: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS[name](tmp_path, monkeypatch)
    expected = EXPECTED[name]
    dataset = build_dataset(name, split, tmp_path)
    labels = expected.train if split == "train" else expected.test
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.tolist() == labels
    assert dataset.classes == len(expected.names)
    if name != "stl10":  # its names are in a file that need not be there
        assert list(dataset.class_names) == expected.names
    found = None if dataset.superclasses is None else dataset.superclasses.tolist()
    assert found == expected.superclasses
    assert dataset.superclass_names == expected.superclass_names
    assert len(dataset) == len(labels)
    for row in range(len(dataset)):
        image, label = dataset[row]
        assert label == labels[row]
        size = image.size if isinstance(image, Image.Image) else image.shape[-1:] + image.shape[-2:-1]
        assert dataset.size is None or tuple(size) == dataset.size[::-1]
        assert image.mode == "RGB" if isinstance(image, Image.Image) else image.dtype == torch.uint8


def test_every_dataset_with_files_has_a_tiny_copy() -> None:
    tested = {*EXPECTED, "imagenet100", "folder", "parquet", *GENERATED}
    assert tested == set(list_datasets())


def test_imagenet100_selects_its_classes_from_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["imagenet100"](tmp_path, monkeypatch)
    dataset = build_dataset("imagenet100", "train", tmp_path)
    wnids = dataset_card("imagenet100").class_names
    assert dataset.classes == 100
    assert dataset.class_names == wnids == tuple(sorted(wnids))
    # n02869837 alone is in both, with two more images; n01440764 and n01443537 are none of the hundred.
    counts = dataset.labels.bincount(minlength=100)
    assert counts.sum() == 102
    assert counts[wnids.index("n02869837")] == 3


def test_imagenet100_lacking_classes_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["imagenet"](tmp_path, monkeypatch)
    with pytest.raises(
        FileNotFoundError, match="to hold a folder for each of 100 classes, but it has none for n01558993"
    ):
        build_dataset("imagenet100", "train", tmp_path)


def test_imagenet_with_its_devkit_has_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["imagenet"](tmp_path, monkeypatch)
    names = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",), "n02869837": ("bonnet",)}
    torch.save((names, []), tmp_path / "meta.bin")
    dataset = build_dataset("imagenet", "train", tmp_path)
    assert dataset.class_names == ("tench", "goldfish", "bonnet")


CLASS_FOLDERS = {
    "cub": ["001.Black_footed_Albatross", "002.Laysan_Albatross"],
    "dogs": ["n02085620-Chihuahua", "n02085936-Maltese_dog"],
    "inaturalist2021": list(SPECIES),
    "inaturalist2021_mini": list(SPECIES),
    "tiny_imagenet": ["n01", "n02"],
}
"""Names of the classes in the files, if they differ from the class names."""


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_superclasses_from_a_file_of_the_user(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS[name](tmp_path, monkeypatch)
    names = list(build_dataset(name, "test", tmp_path).class_names) or [str(label) for label in range(10)]
    groups = [["odd", "even"][label % 2] for label in range(len(names))]
    for called in (names, CLASS_FOLDERS.get(name, names)):
        lines = [f'"{each}",{group}' for each, group in zip(called, groups, strict=True)]
        (tmp_path / "superclasses.csv").write_text("\n".join(lines), encoding="utf-8")
        for split in ("train", "test"):
            dataset = build_dataset(name, split, tmp_path)
            assert dataset.superclasses is not None
            assert [dataset.superclass_names[number] for number in dataset.superclasses] == groups


def test_superclasses_of_generated_images_from_a_file_of_the_user(tmp_path: Path) -> None:
    lines = [f"{digit},{['even', 'odd'][digit % 2]}" for digit in range(10)]
    (tmp_path / "superclasses.csv").write_text("\n".join(lines), encoding="utf-8")
    dataset = build_dataset("digits", "test", tmp_path)
    assert dataset.superclasses is not None
    assert (dataset.superclasses.tolist(), dataset.superclass_names) == ([0, 1] * 5, ("even", "odd"))


def test_classes_with_equal_names_are_identified_by_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS["imagenet"](tmp_path, monkeypatch)
    torch.save(
        ({"n01440764": ("crane",), "n01443537": ("crane",), "n02869837": ("bonnet",)}, []), tmp_path / "meta.bin"
    )
    file = tmp_path / "superclasses.csv"
    file.write_text("n01440764,bird\nn01443537,machine\nbonnet,clothes\n", encoding="utf-8")
    dataset = build_dataset("imagenet", "test", tmp_path)
    assert dataset.superclasses is not None
    assert dataset.superclasses.tolist() == [0, 2, 1]
    file.write_text("crane,bird\nbonnet,clothes\n", encoding="utf-8")
    with pytest.raises(ValueError, match="to have a line for each class, but it has none for n01440764, n01443537"):
        build_dataset("imagenet", "test", tmp_path)
    file.write_text("n01440764,bird\nn01443537,bird\nbonnet,clothes\nn02869837,clothes\n", encoding="utf-8")
    with pytest.raises(ValueError, match='to list each class once, but got "n02869837" and "bonnet"'):
        build_dataset("imagenet", "test", tmp_path)


@pytest.mark.parametrize(
    ("name", "level", "superclasses", "names"),
    [
        ("inaturalist2021", "kingdom", [0, 0, 1, 0], ("Animalia", "Plantae")),
        ("inaturalist2021", "genus", [0, 1, 2, 3], ("Trichodes", "Eristalis", "Poa", "Thanasimus")),
        ("aircraft", "family", [1, 2, 0], ("A300", "Boeing 707", "Boeing 737")),
    ],
)
def test_superclasses_of_another_level(
    name: str,
    level: str,
    superclasses: list[int],
    names: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    LAYOUTS[name](tmp_path, monkeypatch)
    dataset = build_dataset(name, "test", tmp_path, level)
    assert dataset.superclasses is not None
    assert dataset.superclasses.tolist() == superclasses
    assert dataset.superclass_names == names


def test_pixels_of_cifar_and_stl_are_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["cifar10"](tmp_path, monkeypatch)
    image, _ = build_dataset("cifar10", "train", tmp_path)[2]
    assert image.shape == (3, 32, 32)
    assert [int(plane[5, 5]) for plane in image] == [200, 1, 1]
    assert (image[0] == 255).nonzero().tolist() == [[0, 31]]
    LAYOUTS["stl10"](tmp_path, monkeypatch)
    image, _ = build_dataset("stl10", "train", tmp_path)[0]
    assert image[0, :, 5].unique().tolist() == [255]
    assert image[0, 5, :5].unique().tolist() == [0]


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["inaturalist2021"](tmp_path, monkeypatch)
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: sorted(listed(folder), reverse=True))
    dataset = build_dataset("inaturalist2021", "train", tmp_path)
    names = [dataset.path(row).name for row in range(len(dataset))]  # type: ignore[attr-defined]
    assert names == ["00.jpg", "01.jpg"] * 4


def test_caltech_split_is_fixed_without_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["caltech101"](tmp_path, monkeypatch)
    train, test, again = (build_dataset("caltech101", split, tmp_path) for split in ("train", "test", "train"))
    paths = [[dataset.path(row) for row in range(len(dataset))] for dataset in (train, test, again)]  # type: ignore[attr-defined]
    assert paths[0] == paths[2]
    assert len({*paths[0], *paths[1]}) == len(paths[0]) + len(paths[1]) == 64


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_dataset_says_what_to_put_where(name: str, split: str, tmp_path: Path) -> None:
    card = dataset_card(name)
    assert card.requires is not None
    with pytest.raises(FileNotFoundError) as caught:
        build_dataset(name, split, tmp_path)
    message = str(caught.value)
    first = card.requires[split][0]
    assert message.startswith(
        f"expected `data.root` ({tmp_path}) to hold {first} for the {split} split of {name}, but it is missing\n"
    )
    assert card.source in message
    assert card.unpack.format(root=tmp_path) in message
    assert all(archive.file in message and (archive.md5 or "") in message for archive in card.archives)


@pytest.mark.filterwarnings("error::hex_ssl.train.data.CardWarning")
def test_other_numbers_than_the_card_says_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["imagenet"](tmp_path, monkeypatch)
    with pytest.warns(
        CardWarning,
        match=r"the train split of imagenet in .* to hold 1,281,167 images of 1,000 classes, as its card states, "
        "but got 6 images of 3 classes",
    ) as caught:
        build_dataset("imagenet", "train", tmp_path)
    assert [warning.filename for warning in caught] == [__file__]
    card = replace(dataset_card("imagenet"), classes=3, splits={"train": 6, "test": 3})
    monkeypatch.setattr(catalogue, "dataset_card", lambda name: card)
    for split in ("train", "test"):
        build_dataset("imagenet", split, tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_cars_nested_as_on_kaggle(split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["cars"](tmp_path, monkeypatch)
    folder = tmp_path / "stanford_cars" / f"cars_{split}"
    folder.rename(tmp_path / "inner")
    folder.mkdir()
    (tmp_path / "inner").rename(folder / folder.name)
    dataset = build_dataset("cars", split, tmp_path)
    assert [image.size for image, _ in dataset] == [(20, 16)] * len(dataset)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("cars", "stanford_cars/cars_train"),
        ("cub", "CUB_200_2011/images"),
        ("flowers", "flowers-102/jpg"),
        ("food101", "food-101/images"),
    ],
)
def test_missing_listed_images_are_an_error_at_once(
    name: str, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS[name](tmp_path, monkeypatch)
    (tmp_path / images).rename(tmp_path / "inner")
    (tmp_path / images).mkdir()
    (tmp_path / "inner").rename(tmp_path / images / "inner")
    with pytest.raises(FileNotFoundError) as caught:
        build_dataset(name, "train", tmp_path)
    first, *others = str(caught.value).splitlines()
    assert re.fullmatch(rf"expected {tmp_path / images}/.* to be one of the images of {name}, but it is missing", first)
    assert others[-1] == dataset_card(name).unpack.format(root=tmp_path)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_required_files_are_those_of_the_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS[name](tmp_path, monkeypatch)
    card = dataset_card(name)
    assert card.requires is not None
    assert all((tmp_path / path).exists() for paths in card.requires.values() for path in paths)


def test_damaged_files_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["cifar10"](tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"half")
    with pytest.raises(
        ValueError, match=r"(?s)to hold the files of cifar10 as published, but got RuntimeError: .*c58f30"
    ):
        build_dataset("cifar10", "test", tmp_path)


def test_missing_root_is_explained() -> None:
    with pytest.raises(
        ValueError, match=r"(?s)expected `data.root` to be the folder that holds pets, but got None.*images.tar.gz"
    ):
        build_dataset("pets")


def test_root_that_does_not_exist() -> None:
    with pytest.raises(FileNotFoundError, match="to be the folder that holds folder, but nowhere does not exist"):
        build_dataset("folder", root="nowhere")


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match=re.escape('but got "cifar_100" (did you mean "cifar100"?)')):
        build_dataset("cifar_100")
    with pytest.raises(ValueError, match='expected `split` to be one of "train", "test", but got "val"'):
        build_dataset("digits", "val")


def test_levels_that_a_dataset_lacks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match='expected `data.level` to be None for cifar100, .* but got "order"'):
        build_dataset("cifar100", root=tmp_path, level="order")
    with pytest.raises(
        ValueError,
        match='expected `data.level` to be one of "order", "kingdom", "phylum", "class", "family", "genus" for '
        'inaturalist2021, but got "species"',
    ):
        build_dataset("inaturalist2021", root=tmp_path, level="species")
    LAYOUTS["aircraft"](tmp_path, monkeypatch)
    (tmp_path / "superclasses.csv").write_text("707-320,old\n737-200,new\nA300B4,new\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected `data.level` to be None because .*superclasses.csv sets"):
        build_dataset("aircraft", root=tmp_path, level="family")


@pytest.mark.parametrize("name", list_datasets())
def test_card_agrees_with_itself(name: str) -> None:
    card = dataset_card(name)
    assert card.name == name
    assert len(card.mean) == len(card.std) == card.channels
    assert not card.class_names or len(set(card.class_names)) == len(card.class_names) == card.classes
    if card.superclass_of:
        assert len(card.superclass_of) == card.classes
        assert set(card.superclass_of) == set(range(card.superclasses or 0))
        assert len(card.superclass_names) == card.superclasses
    assert (card.requires is None) == (name in GENERATED or not card.splits)
    assert all(len(archive.md5) == 32 for archive in card.archives if archive.md5)


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_card_of_what_is_generated_is_measured(name: str) -> None:
    card, train, test = dataset_card(name), build_dataset(name), build_dataset(name, "test")
    assert card.splits == {"train": len(train), "test": len(test)}
    assert (card.classes, card.channels) == (train.classes, train.channels)
    assert train.size == (card.image_size, card.image_size)
    images = torch.stack([torch.as_tensor(image) for image, _ in train])  # type: ignore[arg-type,attr-defined]
    pixels = images.double() / (255 if images.dtype == torch.uint8 else 1)
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(card.mean).double(), rtol=0, atol=5e-4)
    deviations = pixels.std((0, 2, 3), correction=0)
    torch.testing.assert_close(deviations, torch.tensor(card.std).double(), rtol=0, atol=5e-4)


def test_cards_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_cards()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "classes", "superclasses", "train", "test", "size", "title"]
    assert [line.split()[0] for line in lines[1:]] == list_datasets()
    assert lines[1 + list_datasets().index("cifar100")].split() == [
        "cifar100", "100", "20", "50,000", "10,000", "32", "CIFAR-100"
    ]  # fmt: skip
    print_cards("pets")
    assert "  superclasses   cat (12 breeds) and dog (25), given by the data\n" in capsys.readouterr().out


def test_docs_are_the_cards() -> None:
    assert DOCS.read_text(encoding="utf-8") == cards_markdown()
