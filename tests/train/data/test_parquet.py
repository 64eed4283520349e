"""Images in Parquet files, in Hugging Face's format."""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hex_ssl.train.config import DataConfig
from hex_ssl.train.data import PretrainData, build_dataset

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(shade: int, size: tuple[int, int] = (6, 4)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(file, format="png")
    return file.getvalue()


def write(file: Path, images: list[dict[str, Any]], features: dict[str, Any] | None = None, **columns: Any) -> None:
    name = columns.pop("image_column", "image")
    table = pa.table({name: pa.array(images, IMAGE), **{key: pa.array(values) for key, values in columns.items()}})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=2)


def rows(*shades: int) -> list[dict[str, Any]]:
    return [{"bytes": encoded(shade), "path": None} for shade in shades]


def shade_of(dataset: Any, row: int) -> int:
    image, _ = dataset[row]
    assert (image.dtype, image.shape) == (torch.uint8, (3, 4, 6))
    assert image.unique().numel() == 1
    return int(image[0, 0, 0])


def test_shards_with_names_and_superclasses(tmp_path: Path) -> None:
    features = {
        "img": {"_type": "Image"},
        "fine_label": {"names": ["oak", "cat", "dog"], "_type": "ClassLabel"},
        "coarse_label": {"names": ["animal", "plant"], "_type": "ClassLabel"},
    }
    shards = {"00000-of-00002": ([10, 20, 30], [0, 1, 2], [1, 0, 0]), "00001-of-00002": ([40], [2], [0])}
    for shard, (shades, fine, coarse) in shards.items():
        file = tmp_path / "data" / f"train-{shard}.parquet"
        write(file, rows(*shades), features, fine_label=fine, coarse_label=coarse, image_column="img")
    write(
        tmp_path / "data" / "test-00000-of-00001.parquet",
        rows(50),
        features,
        fine_label=[1],
        coarse_label=[0],
        image_column="img",
    )
    train, test = build_dataset("parquet", "train", tmp_path), build_dataset("parquet", "test", tmp_path)
    assert [shade_of(train, row) for row in range(4)] == [10, 20, 30, 40]
    assert train.labels.tolist() == [0, 1, 2, 2]
    assert train.class_names == ("oak", "cat", "dog")
    assert train.superclasses is not None
    assert train.superclasses.tolist() == [1, 0, 0]
    assert train.superclass_names == ("animal", "plant")
    assert (test.labels.tolist(), test.classes, shade_of(test, 0)) == ([1], 3, 50)


def test_one_file_without_labels(tmp_path: Path) -> None:
    write(tmp_path / "unlabelled.parquet", rows(1, 2, 3), image_column="img")
    dataset = build_dataset("parquet", root=tmp_path / "unlabelled.parquet")
    assert dataset.labels.tolist() == [-1, -1, -1]
    assert (dataset.classes, dataset.superclasses, shade_of(dataset, 2)) == (0, None, 3)
    with pytest.raises(FileNotFoundError, match=r'to hold files test\*.parquet or .* for the split "test"'):
        build_dataset("parquet", "test", tmp_path / "unlabelled.parquet")


def test_labels_without_names_and_missing_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1, 2, 3), label=[4, None, 0])
    dataset = build_dataset("parquet", root=tmp_path)
    assert (dataset.labels.tolist(), dataset.classes, dataset.class_names) == ([4, -1, 0], 5, ())


def test_contradictory_superclasses_are_ignored(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1, 2, 3), label=[0, 1, 1], coarse_label=[0, 0, 1])
    assert build_dataset("parquet", root=tmp_path).superclasses is None


def test_images_in_files_beside(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(encoded(77))
    write(tmp_path / "validation.parquet", [{"bytes": None, "path": "one.png"}, {"bytes": encoded(78), "path": None}])
    dataset = build_dataset("parquet", "test", tmp_path)
    assert [shade_of(dataset, row) for row in range(2)] == [77, 78]


def test_rows_without_an_image(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [*rows(1), {"bytes": None, "path": None}, None], label=[0, 0, 0])
    with pytest.raises(ValueError, match="expected each row of .* to have an image, but row 1 has none, and 1 more"):
        build_dataset("parquet", root=tmp_path)


def test_split_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "train" / "0000.parquet", rows(5), label=[0])
    assert shade_of(build_dataset("parquet", root=tmp_path), 0) == 5


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_images_in_a_plain_column(kind: pa.DataType, tmp_path: Path) -> None:
    images = pa.array([encoded(5), encoded(6)], kind)
    pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / "train.parquet")
    dataset = build_dataset("parquet", root=tmp_path)
    assert [shade_of(dataset, row) for row in range(2)] == [5, 6]


def test_no_column_of_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [1, 2], "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(
        ValueError,
        match=r"to have a column of images, such as `image`, which holds encoded images or a struct of `bytes` and "
        r"`path`, but got image \(int64\), label \(int64\)",
    ):
        build_dataset("parquet", root=tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat"], "expected column `label` of .*train.parquet to hold whole numbers, but got string"),
        ([0.5], "expected .*train.parquet to hold whole numbers in column `label`, but got ArrowInvalid"),
        (
            pa.array([2**64 - 1], pa.uint64()),
            "expected .*train.parquet to hold whole numbers in column `label`, but got",
        ),
        ([-2], "expected labels in .*train.parquet of 0 and more, or -1 without, but got -2"),
    ],
    ids=["text", "fractions", "too large", "negative"],
)
def test_labels_that_are_no_numbers_of_classes(labels: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(5), label=labels)
    with pytest.raises(ValueError, match=message):
        build_dataset("parquet", root=tmp_path)


def test_shards_of_several_types(tmp_path: Path) -> None:
    """Integers of any width and sign, floats as pandas writes missing integers, and only missing values."""
    labels = [
        pa.array([2, None], pa.int8()),
        pa.array([1, 0], pa.uint64()),
        pa.array([1.0, float("nan")], pa.float64()),
        pa.array([None, None], pa.null()),
        pa.array([True, False], pa.bool_()),
    ]
    for shard, column in enumerate(labels):
        write(tmp_path / f"train-{shard}.parquet", rows(10 * shard, 10 * shard + 1), label=column)
    plain = pa.table({"image": pa.array([encoded(50)], pa.large_binary()), "label": [0]})
    pq.write_table(plain, tmp_path / "train-5.parquet")
    dataset = build_dataset("parquet", root=tmp_path)
    assert dataset.labels.tolist() == [2, -1, 1, 0, 1, -1, -1, -1, 1, 0, 0]
    assert [shade_of(dataset, row) for row in range(11)] == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 50]


def test_a_shard_without_a_column_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", rows(1), label=[0])
    write(tmp_path / "train-1.parquet", rows(2))
    with pytest.raises(ValueError, match="expected .*train-1.parquet to be a parquet file with .* image, label"):
        build_dataset("parquet", root=tmp_path)


def test_null_labels_are_no_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1, 2), label=[None, None])
    dataset = build_dataset("parquet", root=tmp_path)
    assert (dataset.labels.tolist(), dataset.classes) == ([-1, -1], 0)


def named(*names: str) -> dict[str, Any]:
    return {"label": {"names": list(names), "_type": "ClassLabel"}}


def test_classes_are_those_of_the_training_split(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1, 2, 3), label=[0, 1, 2], coarse_label=[1, 0, 1])
    write(tmp_path / "test.parquet", rows(4), label=[1], coarse_label=[0])
    test = build_dataset("parquet", "test", tmp_path)
    assert test.classes == 3
    assert test.superclasses is not None
    assert test.superclasses.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (([0, 2], None), ([0, 3, 3, 4], None), "test.parquet to be classes .*, 0 to 2, but got 3, 4"),
        (([None, None], None), ([0], None), "test.parquet to be classes .*, none, but got 0"),
        (([0, 1], named("a", "b")), ([0], named("b", "a")), "test.parquet to be called as in .*, a, b, but got b, a"),
        (([0, 2], named("a", "b")), ([0], None), "labels in .*train.parquet below 2, as .* names, but got 2"),
    ],
    ids=["beyond", "unlabelled", "other names", "beyond the names"],
)  # fmt: skip
def test_labels_of_the_test_split_that_the_training_split_lacks(
    train: tuple[list[int | None], Any], test: tuple[list[int], Any], message: str, tmp_path: Path
) -> None:
    for split, (labels, features) in (("train", train), ("test", test)):
        write(tmp_path / f"{split}.parquet", rows(*range(len(labels))), features, label=labels)
    with pytest.raises(ValueError, match=f"expected .*{message}"):
        PretrainData(DataConfig(name="parquet", root=str(tmp_path), batch_size=2, image_size=8), seed=0)


@pytest.mark.parametrize("labels", [[0, 1], [None, None]], ids=["labelled", "unlabelled"])
def test_training_split_without_a_column_of_labels(labels: list[int | None], tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1, 2, 3))
    write(tmp_path / "test.parquet", rows(4, 5), label=labels)
    if labels == [0, 1]:
        with pytest.raises(ValueError, match="test.parquet to be classes of the training split, none, but got 0, 1"):
            build_dataset("parquet", "test", tmp_path)
    else:
        assert build_dataset("parquet", "test", tmp_path).labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("train", "test"), [("Train-0.parquet", "TEST-0.parquet"), ("data/training.parquet", "Validation/0.PARQUET")]
)
def test_splits_in_any_case(train: str, test: str, tmp_path: Path) -> None:
    write(tmp_path / train, rows(1), label=[0])
    write(tmp_path / test, rows(2), label=[0])
    assert [shade_of(build_dataset("parquet", split, tmp_path), 0) for split in ("train", "test")] == [1, 2]


@pytest.mark.parametrize("beside", [False, True], ids=["one file", "a folder"])
def test_superclasses_from_a_file_of_the_user(beside: bool, tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1, 2, 3), None if beside else named("a", "b", "c"), label=[0, 1, 2])
    lines = [f"{each},{group}" for each, group in zip("012" if beside else "abc", "yxx", strict=True)]
    (tmp_path / "superclasses.csv").write_text("\n".join(lines))
    dataset = build_dataset("parquet", root=tmp_path if beside else tmp_path / "train.parquet")
    assert dataset.superclasses is not None
    assert (dataset.superclasses.tolist(), dataset.superclass_names) == ([1, 0, 0], ("x", "y"))


def test_images_are_decoded_as_those_of_folders_are(tmp_path: Path) -> None:
    """Upright, of 16 bits and on white."""
    turned, deep, clear = BytesIO(), BytesIO(), BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(turned, format="png", exif=exif)
    Image.fromarray(np.full((4, 6), 32896, np.uint16)).save(deep, format="png")
    Image.new("RGBA", (6, 4), (0, 0, 0, 0)).save(clear, format="png")
    files = [each.getvalue() for each in (turned, deep, clear)]
    write(tmp_path / "parquet" / "train.parquet", [{"bytes": each, "path": None} for each in files])
    (tmp_path / "folder").mkdir()
    for row, content in enumerate(files):
        (tmp_path / "folder" / f"{row}.png").write_bytes(content)
    for name in ("parquet", "folder"):
        dataset = build_dataset(name, root=tmp_path / name)
        images = [dataset.image(row) for row in range(3)]
        assert [(image.size, image.getpixel((0, 0))) for image in images] == [
            ((4, 6), (0, 0, 0)),
            ((6, 4), (128, 128, 128)),
            ((6, 4), (255, 255, 255)),
        ]


def test_broken_image_names_its_row(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [{"bytes": b"broken", "path": None}], label=[0])
    with pytest.raises(ValueError, match="expected row 0 of .* to be an image, but it cannot be decoded"):
        build_dataset("parquet", root=tmp_path)[0]


@pytest.mark.parametrize("sizes", [[(6, 4), (4, 6)], [(65, 4), (65, 4)]], ids=["two sizes", "large"])
def test_images_of_several_sizes_or_large_ones_stay_encoded(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    images = [{"bytes": encoded(shade, size), "path": None} for shade, size in enumerate(sizes)]
    write(tmp_path / "train.parquet", images, label=[0, 1])
    dataset = build_dataset("parquet", root=tmp_path)
    assert not dataset.in_memory
    assert [dataset.image(row).size for row in range(2)] == sizes
    assert [dataset.image(row).getpixel((0, 0)) for row in range(2)] == [(0, 0, 0), (1, 1, 1)]


def photographs(root: Path, count: int = 40) -> int:
    """Writes two shards of incompressible images, one of which is in a separate file. Returns the number of bytes."""
    generator, written = np.random.default_rng(0), 0
    for shard in range(2):
        images: list[dict[str, Any]] = []
        for _ in range(count // 2):
            file = BytesIO()
            Image.fromarray(generator.integers(0, 256, (80, 100, 3), np.uint8)).save(file, format="png")
            images.append({"bytes": file.getvalue(), "path": None})
            written += len(file.getvalue())
        if shard:
            (root / "beside.png").write_bytes(images[3]["bytes"])
            images[3] = {"bytes": None, "path": "beside.png"}
        write(root / f"train-{shard}.parquet", images, label=list(range(count // 2)))
    return written


@pytest.fixture
def mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the copies, with a threshold so low that even few images are mapped."""
    monkeypatch.setattr("hex_ssl.train.data.parquet.IN_MEMORY", 1000)
    monkeypatch.setenv("HEX_SSL_CACHE", str(tmp_path / "copies"))
    return tmp_path / "copies"


POOLS: list[Any] = []
"""Memory pools, which have to live as long as the tables allocated in them."""


@contextmanager
def counted_memory() -> Iterator[Any]:
    """Counts what pyarrow allocates inside the context."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        yield pool
    finally:
        pa.set_memory_pool(before)


def test_many_images_are_mapped_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "images"
    root.mkdir()
    written = photographs(root)
    with counted_memory() as pool:
        kept = build_dataset("parquet", root=root)
        assert pool.bytes_allocated() > 0.9 * written
    monkeypatch.setattr("hex_ssl.train.data.parquet.IN_MEMORY", 1000)
    monkeypatch.setattr("hex_ssl.train.data.mapped_images.ROWS", 2)
    monkeypatch.setenv("HEX_SSL_CACHE", str(tmp_path / "copies"))
    with counted_memory() as pool:
        dataset = build_dataset("parquet", root=root)
        assert pool.bytes_allocated() < 0.05 * written
        assert pool.max_memory() < 0.5 * written  # while they were copied, too
    for row in range(40):
        assert dataset.image(row) == kept.image(row)  # type: ignore[attr-defined]
    assert torch.equal(dataset.labels, kept.labels)


def test_a_copy_is_made_once_for_the_same_files(
    mapping: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "train.parquet", rows(*range(30)))
    build_dataset("parquet", root=tmp_path)
    (copy,) = mapping.glob("*.arrow")
    assert f"copying 0.0 GB of images of {tmp_path} to {copy}, once" in capsys.readouterr().err
    build_dataset("parquet", root=tmp_path)
    assert capsys.readouterr().err == ""
    write(tmp_path / "train.parquet", rows(*range(30, 61)))
    changed = build_dataset("parquet", root=tmp_path)
    assert len(list(mapping.glob("*.arrow"))) == 2
    assert shade_of(changed, 0) == 30


def test_another_process_maps_the_copy_itself(mapping: Path, tmp_path: Path) -> None:
    photographs(tmp_path)
    dataset = build_dataset("parquet", root=tmp_path)
    sent = pickle.dumps(dataset)
    assert len(sent) < 10_000
    assert pickle.loads(sent).image(23) == dataset.image(23)  # type: ignore[attr-defined]


def test_too_little_disk_space_for_a_copy(mapping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=5))
    with pytest.raises(OSError, match=r"expected .*copies to have 0.0 GB free for a copy of the images of .*, but it"):
        build_dataset("parquet", root=tmp_path)
    assert not list(mapping.glob("*.arrow*"))


def test_a_damaged_copy_is_named(mapping: Path, tmp_path: Path) -> None:
    photographs(tmp_path)
    build_dataset("parquet", root=tmp_path)
    (copy,) = mapping.glob("*.arrow")
    copy.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"\.arrow to be a copy of images \(if you delete it, it is written again\)"):
        build_dataset("parquet", root=tmp_path)
