"""Tiny copies of all datasets, in the layouts that their authors publish."""

import hashlib
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

Write = Callable[[Path, pytest.MonkeyPatch], None]

TINY = pytest.mark.filterwarnings("ignore::hex_ssl.train.data.CardWarning")
"""For tests of these copies, which have fewer images and classes than the cards state."""


def picture(file: Path, shade: int = 100, size: tuple[int, int] = (20, 16)) -> None:
    """An image with a single grey value, which identifies it even after JPEG compression."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(file)


def text(file: Path, lines: Sequence[str]) -> None:
    """Writes a file with these lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def pickled(file: Path, content: dict[str, Any]) -> str:
    """Writes a pickle and returns its checksum."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content))
    return hashlib.md5(file.read_bytes()).hexdigest()


def cifar10(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder, names = root / "cifar-10-batches-py", datasets.CIFAR10
    checksums = {}
    for number, batch in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = np.full((2, 3072), number, dtype=np.uint8)
        data[:, :1024] = 200  # the red plane comes first,
        data[:, 31] = 255  # row by row: this is the end of the first
        checksums[batch] = pickled(folder / batch, {"data": data, "labels": [number, 9]})
    meta = pickled(folder / "batches.meta", {"label_names": list("abcdefghij")})
    patch.setattr(names, "train_list", [[name, sum_] for name, sum_ in checksums.items() if name != "test_batch"])
    patch.setattr(names, "test_list", [["test_batch", checksums["test_batch"]]])
    patch.setattr(names, "meta", {**names.meta, "md5": meta})


def cifar100(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder, names = root / "cifar-100-python", datasets.CIFAR100
    checksums = {}
    for split, fine in (("train", [0, 57, 99]), ("test", [1, 2])):
        content = {"data": np.zeros((len(fine), 3072), np.uint8), "fine_labels": fine, "coarse_labels": fine}
        checksums[split] = pickled(folder / split, content)
    meta = pickled(folder / "meta", {"fine_label_names": [f"class {i}" for i in range(100)]})
    patch.setattr(names, "train_list", [["train", checksums["train"]]])
    patch.setattr(names, "test_list", [["test", checksums["test"]]])
    patch.setattr(names, "meta", {**names.meta, "md5": meta})


def stl10(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    checksums = {}

    def write(name: str, values: np.ndarray) -> None:
        (folder / name).write_bytes(values.astype(np.uint8).tobytes())
        checksums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()

    columns = np.zeros((2, 3, 96, 96))
    columns[0, 0, 5] = 255  # STL-10 is stored column by column: this is column 5
    write("train_X.bin", columns)
    write("train_y.bin", np.array([1, 10]))
    write("unlabeled_X.bin", np.full((3, 3, 96, 96), 7))
    write("test_X.bin", np.zeros((1, 3, 96, 96)))
    write("test_y.bin", np.array([4]))
    for lists in ("train_list", "test_list"):
        listed = getattr(datasets.STL10, lists)
        patch.setattr(datasets.STL10, lists, [[name, checksums[name]] for name, _ in listed])


def tiny_imagenet(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "tiny-imagenet-200"
    text(folder / "wnids.txt", ["n02", "n01"])
    text(folder / "words.txt", ["n01\tgoldfish, Carassius auratus", "n02\tfire salamander", "n03\tnot in it"])
    for wnid in ("n01", "n02"):
        for number in range(2):
            picture(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", size=(64, 64))
        text(folder / "train" / wnid / f"{wnid}_boxes.txt", [f"{wnid}_0.JPEG\t0\t0\t62\t62"])
    for number, wnid in enumerate(["n02", "n01", "n02"]):
        picture(folder / "val" / "images" / f"val_{number}.JPEG", size=(64, 64))
        line = f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62"
        annotations = folder / "val" / "val_annotations.txt"
        text(annotations, [*(annotations.read_text().splitlines() if annotations.exists() else []), line])


SPECIES = (
    "00000_Animalia_Arthropoda_Insecta_Coleoptera_Cleridae_Trichodes_apiarius",
    "00001_Animalia_Arthropoda_Insecta_Diptera_Syrphidae_Eristalis_tenax",
    "00002_Plantae_Tracheophyta_Liliopsida_Poales_Poaceae_Poa_annua",
    "00003_Animalia_Arthropoda_Insecta_Coleoptera_Cleridae_Thanasimus_formicarius",
)


def inaturalist(train: str) -> Write:
    def write(root: Path, patch: pytest.MonkeyPatch) -> None:
        for version, images in ((train, 2), ("2021_valid", 1)):
            for species in SPECIES:
                for number in reversed(range(images)):
                    picture(root / version / species / f"{number:02d}.jpg")

    return write


def imagenet(root: Path, patch: pytest.MonkeyPatch) -> None:
    for split, images in (("train", 2), ("val", 1)):
        for wnid in ("n01440764", "n01443537", "n02869837"):
            for number in range(images):
                picture(root / split / wnid / f"{wnid}_{number}.JPEG")


def imagenet100(root: Path, patch: pytest.MonkeyPatch) -> None:
    from hex_ssl.train.data import dataset_card

    imagenet(root, patch)  # two of the three classes do not belong to the hundred
    for split in ("train", "val"):
        for wnid in dataset_card("imagenet100").class_names:
            picture(root / split / wnid / f"{wnid}_9.JPEG")


def aircraft(root: Path, patch: pytest.MonkeyPatch) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    planes = {"707-320": ("Boeing 707", "Boeing"), "737-200": ("Boeing 737", "Boeing"), "A300B4": ("A300", "Airbus")}
    text(data / "variants.txt", list(planes))
    text(data / "families.txt", ["A300", "Boeing 707", "Boeing 737"])
    text(data / "manufacturers.txt", ["Airbus", "Boeing"])
    for offset, split in ((0, "train"), (10, "val"), (20, "test")):
        for name, column in (("variant", None), ("family", 0), ("manufacturer", 1)):
            labels = [plane if column is None else groups[column] for plane, groups in planes.items()]
            lines = [f"{1000000 + offset + row} {label}" for row, label in enumerate(labels)]
            text(data / f"images_{name}_{split}.txt", lines)
            if split in ("train", "val"):
                both = data / f"images_{name}_trainval.txt"
                text(both, [*(both.read_text().splitlines() if both.exists() else []), *lines])
        for row in range(len(planes)):
            picture(data / "images" / f"{1000000 + offset + row}.jpg")


def flowers(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "flowers-102"
    for number in range(1, 8):
        picture(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([77, 1, 102, 77, 5, 6, 3], dtype=np.uint8)})
    splits = {"trnid": np.array([1, 3]), "valid": np.array([2, 7]), "tstid": np.array([4, 5, 6])}
    savemat(folder / "setid.mat", splits)
    files = {
        key: (name, hashlib.md5((folder / name).read_bytes()).hexdigest() if (folder / name).exists() else checksum)
        for key, (name, checksum) in datasets.Flowers102._file_dict.items()
    }
    patch.setattr(datasets.Flowers102, "_file_dict", files)


def cars(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = ["AM General Hummer SUV 2000", "Audi S4 Sedan 2012", "Audi TT RS Coupe 2012"]
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(names, dtype=object)})
    annotations = (
        (folder / "devkit" / "cars_train_annos.mat", "cars_train", [2, 1, 3]),
        (folder / "cars_test_annos_withlabels.mat", "cars_test", [3, 1]),
    )
    for file, images, labels in annotations:
        rows = np.zeros(len(labels), dtype=[("class", object), ("fname", object)])
        for row, label in enumerate(labels):
            rows[row] = (label, f"{row + 1:05d}.jpg")
            picture(folder / images / f"{row + 1:05d}.jpg")
        savemat(file, {"annotations": rows})


def dogs(root: Path, patch: pytest.MonkeyPatch) -> None:
    for split, listed in (
        ("train", [("n02085620-Chihuahua", 1, 7), ("n02085936-Maltese_dog", 2, 8)]),
        ("test", [("n02085936-Maltese_dog", 2, 9)]),
    ):
        paths = [f"{folder}/{folder[:9]}_{number}.jpg" for folder, _, number in listed]
        for path in paths:
            picture(root / "Images" / path)
        labels = np.array([[label] for _, label, _ in listed], dtype=np.uint8)
        savemat(
            root / f"{split}_list.mat",
            {"file_list": np.array([[path] for path in paths], dtype=object), "labels": labels},
        )


def pets(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "oxford-iiit-pet"
    splits = {
        "trainval": ["Abyssinian_100 1 1 1", "american_bulldog_100 2 2 1", "Bengal_7 3 1 2"],
        "test": ["american_bulldog_201 2 2 1", "Abyssinian_201 1 1 1", "Bengal_9 3 1 2"],
    }
    for split, lines in splits.items():
        text(folder / "annotations" / f"{split}.txt", lines)
        for line in lines:
            picture(folder / "images" / f"{line.split()[0]}.jpg")


def nabirds(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "nabirds"
    names = [
        "0 Birds",
        "1 Ducks, Geese, and Swans",
        "2 Grebes",
        "295 Common Eider",
        "296 Common Eider (Male)",
        "297 Common Eider (Female)",
        "817 Western Grebe",
    ]
    text(folder / "classes.txt", names)
    text(folder / "hierarchy.txt", ["1 0", "2 0", "295 1", "296 295", "297 295", "817 2"])
    images = {
        "0000139e-21dc": ("817", 1),
        "00016c96-00c6": ("296", 1),
        "000a9d61-a01e": ("297", 0),
        "000b9d61-a01e": ("817", 0),
    }
    text(
        folder / "images.txt",
        [f"{each} {int(leaf):04d}/{each.replace('-', '')}.jpg" for each, (leaf, _) in images.items()],
    )
    text(folder / "image_class_labels.txt", [f"{each} {leaf}" for each, (leaf, _) in images.items()])
    text(folder / "train_test_split.txt", [f"{each} {training}" for each, (_, training) in images.items()])
    for each, (leaf, _) in images.items():
        picture(folder / "images" / f"{int(leaf):04d}" / f"{each.replace('-', '')}.jpg")


def caltech101(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "caltech101" / "101_ObjectCategories"
    for name, count in (("BACKGROUND_Google", 1), ("Faces", 33), ("accordion", 31)):
        for number in range(1, count + 1):
            picture(folder / name / f"image_{number:04d}.jpg", size=(8, 8))


def food101(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "food-101"
    splits = {
        "train": {"waffles": ["waffles/1", "waffles/2"], "apple_pie": ["apple_pie/3"]},
        "test": {"apple_pie": ["apple_pie/4"], "waffles": ["waffles/5"]},
    }
    for split, listed in splits.items():
        text(folder / "meta" / f"{split}.json", [json.dumps(listed)])
        for path in (path for paths in listed.values() for path in paths):
            picture(folder / "images" / f"{path}.jpg")


def cub(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "CUB_200_2011"
    text(folder / "classes.txt", ["1 001.Black_footed_Albatross", "2 002.Laysan_Albatross"])
    images = [
        "001.Black_footed_Albatross/A_0001.jpg",
        "002.Laysan_Albatross/B_0002.jpg",
        "002.Laysan_Albatross/B_0003.jpg",
    ]
    text(folder / "images.txt", [f"{number} {path}" for number, path in enumerate(images, 1)])
    text(folder / "image_class_labels.txt", ["1 1", "2 2", "3 2"])
    text(folder / "train_test_split.txt", ["1 1", "2 0", "3 1"])
    for path in images:
        picture(folder / "images" / path)


LAYOUTS: dict[str, Write] = {
    "aircraft": aircraft,
    "caltech101": caltech101,
    "cars": cars,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cub": cub,
    "dogs": dogs,
    "flowers": flowers,
    "food101": food101,
    "imagenet": imagenet,
    "imagenet100": imagenet100,
    "inaturalist2021": inaturalist("2021_train"),
    "inaturalist2021_mini": inaturalist("2021_train_mini"),
    "nabirds": nabirds,
    "pets": pets,
    "stl10": stl10,
    "tiny_imagenet": tiny_imagenet,
}
"""What writes each dataset into a folder; torchvision's checksums are set to those of the copy."""
