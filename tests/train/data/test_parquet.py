"""Images in parquet files, as Hugging Face writes them."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hex_ssl.data import build_dataset

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


def test_superclasses_that_contradict_each_other_are_none(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(1, 2, 3), label=[0, 1, 1], coarse_label=[0, 0, 1])
    assert build_dataset("parquet", root=tmp_path).superclasses is None


def test_images_in_files_beside(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(encoded(77))
    write(
        tmp_path / "validation.parquet",
        [{"bytes": None, "path": "one.png"}, {"bytes": None, "path": None}],
        label=[0, 0],
    )
    dataset = build_dataset("parquet", "test", tmp_path)
    assert dataset.image(0).getpixel((0, 0)) == (77, 77, 77)
    with pytest.raises(ValueError, match="expected row 1 of .* to have an image, but it has none"):
        dataset[1]


def test_split_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "train" / "0000.parquet", rows(5), label=[0])
    assert shade_of(build_dataset("parquet", root=tmp_path), 0) == 5


def test_no_column_of_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [1, 2], "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="to have a column of images, such as `image`, but got image, label"):
        build_dataset("parquet", root=tmp_path)


def test_labels_that_are_no_numbers(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows(5), label=["cat"])
    with pytest.raises(ValueError, match="expected column `label` to hold whole numbers, but got string"):
        build_dataset("parquet", root=tmp_path)


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
