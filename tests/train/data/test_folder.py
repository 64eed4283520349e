"""Any folder of images."""

from pathlib import Path

import pytest

from hex_ssl.train.data import Folder, build_dataset, dataset_card
from hex_ssl.train.data.images import EXTENSIONS
from tests.train.data.layouts import picture


def pictures(root: Path, *paths: str) -> Path:
    for path in paths:
        picture(root / path)
    return root


def test_splits_with_classes(tmp_path: Path) -> None:
    for path in ("train/cat/1.jpg", "train/cat/2.PNG", "train/dog/deep/3.webp", "val/dog/4.jpg", "train/dog/notes.txt"):
        if path.endswith(".txt"):
            (tmp_path / path).write_text("no image")
        else:
            picture(tmp_path / path)
    train, test = build_dataset("folder", "train", tmp_path), build_dataset("folder", "test", tmp_path)
    assert train.labels.tolist() == [0, 0, 1]
    assert train.class_names == ("cat", "dog")
    assert test.labels.tolist() == [1]  # the class's number is the training split's
    assert test.classes == 2
    assert train.superclasses is None


def test_classes_without_splits(tmp_path: Path) -> None:
    for path in ("b/1.jpg", "a/2.jpg", ".hidden/3.jpg"):
        picture(tmp_path / path)
    assert Folder(tmp_path).labels.tolist() == [0, 1]
    with pytest.raises(FileNotFoundError, match='to hold a folder `test` or `val` for the split "test"'):
        Folder(tmp_path, "test")


def test_images_without_labels(tmp_path: Path) -> None:
    for path in ("2.jpg", "10.jpg", "1.jpeg"):
        picture(tmp_path / path)
    dataset = Folder(tmp_path)
    assert dataset.labels.tolist() == [-1, -1, -1]
    assert dataset.classes == 0
    assert [dataset.path(row).name for row in range(3)] == ["1.jpeg", "10.jpg", "2.jpg"]


@pytest.mark.parametrize(
    "content",
    [
        b"class,superclass\ncat,animal\ndog,animal\noak,plant\n",
        b"\xef\xbb\xbfcat,animal\r\ndog,animal\r\noak,plant\r\n",
        b"\xef\xbb\xbfcat;animal\r\n\r\noak;plant\r\ndog;animal;\r\n",
        b'oak\tplant\n "dog"\tanimal\ncat \t animal\n"yew, old"\tplant\n',
        b'"yew, old",plant\ncat,animal\ndog,animal\noak,plant\n',
    ],
    ids=["plain", "Excel's mark", "semicolons", "tabs", "a comma in a name"],
)
def test_superclasses(content: bytes, tmp_path: Path) -> None:
    pictures(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "train/oak/3.jpg", "test/cat/4.jpg")
    (tmp_path / "superclasses.csv").write_bytes(content)
    for split in ("train", "test"):
        dataset = build_dataset("folder", split, tmp_path)
        assert dataset.superclasses is not None
        assert dataset.superclasses.tolist() == [0, 0, 1]
        assert dataset.superclass_names == ("animal", "plant")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat,animal\ndog,animal\ncat,pet\n", 'to list each class once, but got "cat" in lines 1 and 3'),
        (b"cat,animal\n", "to have a line for each class, but it has none for dog"),
        (b"cat,animal\ndog\n", "to have lines `class,superclass`, but line 2 is 'dog'"),
        (b"cat,animal\ndog,big,animal\n", "to have lines `class,superclass`, but line 2 is 'dog,big,animal'"),
        (b"cat|animal\ndog|animal\n", r"to have lines `class,superclass`, but line 1 is 'cat\|animal'"),
        ("cat,animal\ndog,animal\n".encode("utf-16"), "to be a table in UTF-8 .* but got UnicodeDecodeError"),
        (b"", "to have a line for each class, but it has none for cat, dog"),
    ],
)
def test_invalid_superclass_files_are_an_error(content: bytes, message: str, tmp_path: Path) -> None:
    pictures(tmp_path, "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "superclasses.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"expected .*superclasses.csv {message}"):
        build_dataset("folder", "train", tmp_path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("Training", "Testing"),
        ("TRAIN", "Val"),
        ("training", "validation"),
        ("Train", "valid"),
    ],
)
def test_splits_by_any_of_their_names(train: str, test: str, tmp_path: Path) -> None:
    pictures(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/2.jpg", f"{test}/dog/3.jpg")
    assert (Folder(tmp_path).labels.tolist(), Folder(tmp_path).class_names) == ([0, 1], ("cat", "dog"))
    assert Folder(tmp_path, "test").labels.tolist() == [1]


def test_validation_images_beside_test_images_are_not_used(tmp_path: Path) -> None:
    pictures(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg", "Test/cat/3.jpg")
    (tmp_path / "annotations").mkdir()
    dataset = Folder(tmp_path, "test")
    assert [dataset.path(row).name for row in range(len(dataset))] == ["3.jpg"]
    assert dataset.left_out == ("val", "annotations")


def test_images_beside_classes_have_no_label(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/2.jpg", "dog/3.jpg", "1.jpg", "4.jpg")
    dataset = Folder(tmp_path)
    assert dataset.labels.tolist() == [0, 1, -1, -1]
    assert [dataset.path(row).name for row in range(4)] == ["2.jpg", "3.jpg", "1.jpg", "4.jpg"]
    pictures(tmp_path / "split", "train/cat/1.jpg", "train/2.jpg", "test/3.jpg")
    assert Folder(tmp_path / "split").labels.tolist() == [0, -1]
    assert Folder(tmp_path / "split", "test").labels.tolist() == [-1]


def test_every_format_is_found(tmp_path: Path) -> None:
    names = [name for each in EXTENSIONS for name in (f"a{each}", f"b{each.upper()}")]
    pictures(tmp_path, *(f"cat/{name}" for name in names), *names)
    dataset = Folder(tmp_path)
    assert [dataset.image(row).size for row in range(len(dataset))] == [(20, 16)] * 4 * len(EXTENSIONS)
    assert f"Files: {', '.join(EXTENSIONS)}" in dataset_card("folder").unpack


def test_hidden_images_do_not_count(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/1.jpg", "cat/._1.jpg", "cat/.ipynb_checkpoints/1.jpg", ".2.jpg")
    assert len(Folder(tmp_path)) == 1


def test_a_class_may_have_any_name_within_a_split(tmp_path: Path) -> None:
    pictures(tmp_path, "train/bus/1.jpg", "train/train/2.jpg", "train/test/3.jpg", "test/train/4.jpg")
    assert Folder(tmp_path).class_names == ("bus", "test", "train")
    assert Folder(tmp_path, "test").labels.tolist() == [2]
    pictures(tmp_path / "stations", "train_station/1.jpg", "bullet train/2.jpg")
    assert Folder(tmp_path / "stations").class_names == ("bullet train", "train_station")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["bus/1.jpg", "car/1.jpg", "Train/1.jpg"], "either splits or classes, but got Train beside bus, car: move"),
        (["cat/1.jpg", "test/1.jpg"], "splits or classes, but got test beside cat"),
        (["training/a/1.jpg", "Train/a/1.jpg"], 'one folder for the split "train", but got Train, training'),
        (["train/a/1.jpg", "test/a/1.jpg", "testing/a/1.jpg"], 'for the split "test", but got test, testing'),
        (["test/a/1.jpg", "val/a/1.jpg"], "a folder `train` beside test, val, but there is none"),
        (["train/a/1.jpg", "test/a/1.jpg", "2.jpg", "3.jpg"], "but got 2 beside train, test, such as 2.jpg"),
        (["seg_train/a/1.jpg", "seg_test/a/1.jpg"], "splits or classes, but got seg_train, seg_test, which look like"),
        (["cat/train/1.jpg", "cat/test/1.jpg"], r"cat to be a class, but it holds train, test: .*`data.root=.*cat`"),
        (["train/cat/1.jpg", "train/notes/1.txt"], r"to be a class with images .* but there are none in notes"),
        (["train/1.jpg", "test/cat/2.jpg"], "to hold classes of the training split, but got cat"),
    ],
)  # fmt: skip
def test_ambiguous_folders_are_an_error(paths: list[str], message: str, tmp_path: Path) -> None:
    for path in paths:
        if path.endswith(".txt"):
            (tmp_path / path).parent.mkdir()
            (tmp_path / path).write_text("no image")
        else:
            picture(tmp_path / path)
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        assert [build_dataset("folder", split, tmp_path) for split in ("train", "test")]


def test_class_unknown_to_the_training_split(tmp_path: Path) -> None:
    for path in ("train/cat/1.jpg", "test/bird/2.jpg"):
        picture(tmp_path / path)
    with pytest.raises(ValueError, match="to hold classes of the training split, but got bird"):
        Folder(tmp_path, "test")


def test_folder_without_images(tmp_path: Path) -> None:
    pictures(tmp_path / "train")
    with pytest.raises(ValueError, match="to hold images .* but there are none"):
        Folder(tmp_path)
    picture(tmp_path / "train" / "cat" / "1.jpg")
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="test to hold images .* but there are none"):
        Folder(tmp_path, "test")
