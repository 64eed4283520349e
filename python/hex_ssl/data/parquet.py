"""Images in parquet files, laid out as Hugging Face's `datasets` writes them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from hex_ssl.data.images import MOST_CLASSES, UNLABELLED, ImageDataset, decode_image, within
from hex_ssl.reading import reading

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png")
LABEL_COLUMNS = ("fine_label", "label", "labels", "cls", "class", "target")
SUPERCLASS_COLUMNS = ("coarse_label", "superclass", "super_label")

SPLITS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
"""How the files of each split may begin; the first kind that there is counts."""


class Parquet(ImageDataset):
    """A split in parquet files: a column of images, and labels, superclasses and their names where there are any.

    The image column is a struct of `bytes`, an encoded image, and `path`, its file below the folder where the bytes
    are left out, as the `Image` feature has it. Labels are whole numbers, -1 or null without, named by the
    `ClassLabel` feature. The encoded images are kept in memory.

    Args:
        root: One file, or a folder: with the files of a split in a subfolder or with a name that begins with
            "train", or with "test" or "validation", in it or in `data`.
        split: "train" or "test".

    Raises:
        FileNotFoundError: There is no file of this split.
        ValueError: The columns are others, or a label or a superclass is out of its range.
    """

    def __init__(self, root: Path, split: str = "train") -> None:
        self.files = find_parquet(root, split)
        self.root = root if root.is_dir() else root.parent
        with reading(self.files[0], "to be a parquet file"):
            schema = pq.read_schema(self.files[0])
        names = {name: _column(schema, name) for name in ("image", "label", "superclass")}
        if names["image"] is None:
            found = ", ".join(schema.names)
            raise ValueError(f"expected {self.files[0]} to have a column of images, such as `image`, but got {found}")
        columns = [name for name in names.values() if name is not None]
        table = pa.concat_tables([_read(file, columns) for file in self.files])
        with reading(self.files[0], "to have a column of images with `bytes` and `path`"):
            self.encoded: Any = pc.struct_field(table[names["image"]], "bytes").cast(pa.large_binary())
            self.files_beside: Any = pc.struct_field(table[names["image"]], "path").cast(pa.large_string())
        labels = _integers(table, names["label"])
        with reading(self.files[0], "to name its classes as `ClassLabel` does"):
            class_names, superclass_names = (_class_names(schema, names[kind]) for kind in ("label", "superclass"))
        classes = max(len(class_names), int(labels.max()) + 1 if len(labels) else 0)
        if classes > MOST_CLASSES:
            raise ValueError(f"expected labels in {self.files[0]} below {MOST_CLASSES:,}, but got {int(labels.max())}")
        with reading(self.files[0], "to hold labels and superclasses"):
            super().__init__(
                labels,
                classes,
                class_names=class_names,
                superclasses=_superclasses(labels, _integers(table, names["superclass"]), classes),
                superclass_names=superclass_names,
            )

    def image(self, index: int) -> Image.Image:
        """The image, in colour."""
        encoded = self.encoded[index].as_py()
        if encoded is not None:
            return decode_image(encoded, name=f"row {index} of {self.files[0].parent}")
        with reading(self.files[0].parent, f"to name a file in row {index}"):  # which may be no UTF-8
            file = self.files_beside[index].as_py()
        if file is None:
            raise ValueError(f"expected row {index} of {self.files[0].parent} to have an image, but it has none")
        return decode_image(self.root / within(self.root, file))


def find_parquet(root: Path, split: str) -> list[Path]:
    """The files of a split, in the order of their names.

    Args:
        root: One file, which is the training split, or a folder.
        split: "train" or "test".

    Raises:
        FileNotFoundError: There are none.
    """
    if root.is_file() and split == "train":
        return [root]
    for beginning in SPLITS.get(split, (split,)):
        for pattern in (f"{beginning}*.parquet", f"data/{beginning}*.parquet", f"{beginning}/*.parquet"):
            if files := sorted(root.glob(pattern)):
                return files
    beginnings = " or ".join(f"{beginning}*.parquet" for beginning in SPLITS.get(split, (split,)))
    raise FileNotFoundError(
        f'expected `data.root` ({root}) to hold files {beginnings} for the split "{split}", but there are none; '
        "a file of its own is taken as the training split"
    )


def _read(file: Path, columns: list[str]) -> pa.Table:
    with reading(file, f"to be a parquet file with the columns {', '.join(columns)}"):
        return pq.read_table(file, columns=columns)


def _column(schema: pa.Schema, kind: str) -> str | None:
    candidates = {"image": IMAGE_COLUMNS, "label": LABEL_COLUMNS, "superclass": SUPERCLASS_COLUMNS}[kind]
    for name in candidates:
        if name in schema.names and (kind != "image" or pa.types.is_struct(schema.field(name).type)):
            return name
    if kind != "image":
        return None
    structs = [
        field.name for field in schema if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    return structs[0] if structs else None


def _integers(table: pa.Table, name: str | None) -> Tensor:
    if name is None:
        return torch.full((table.num_rows,), UNLABELLED)
    if not pa.types.is_integer(table.schema.field(name).type):
        raise ValueError(f"expected column `{name}` to hold whole numbers, but got {table.schema.field(name).type}")
    return torch.tensor(pc.fill_null(table[name].cast(pa.int64()), UNLABELLED).to_numpy())


def _class_names(schema: pa.Schema, name: str | None) -> list[str]:
    """The names that Hugging Face's `ClassLabel` feature keeps beside the columns."""
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = described.get("info", {}).get("features", {}).get(name, {}) if name is not None else {}
    names = feature.get("names", []) if isinstance(feature, dict) else []
    return [str(each) for each in names]


def _superclasses(labels: Tensor, superlabels: Tensor, classes: int) -> Tensor | None:
    """The superclass of each class, where every class has exactly one."""
    both = (labels != UNLABELLED) & (superlabels != UNLABELLED)
    mapping = torch.full((classes,), UNLABELLED)
    mapping[labels[both]] = superlabels[both]
    consistent = torch.equal(mapping[labels[both]], superlabels[both])
    return mapping if classes and consistent and bool((mapping != UNLABELLED).all()) else None
