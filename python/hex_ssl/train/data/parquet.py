"""Images in parquet files, in the format that Hugging Face's `datasets` writes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from hex_ssl.train.data.images import MOST_CLASSES, UNLABELLED, ImageDataset, decode_image, within
from hex_ssl.train.data.jpeg import decode_pixels
from hex_ssl.train.data.mapped_images import IN_MEMORY, copy_of, encoded_size, mapped
from hex_ssl.train.reading import reading

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png")
LABEL_COLUMNS = ("fine_label", "label", "labels", "cls", "class", "target")
SUPERCLASS_COLUMNS = ("coarse_label", "superclass", "super_label")

SPLITS = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
"""Prefixes of the file names of each split. The first prefix with any files is used."""


class Parquet(ImageDataset):
    """A split in parquet files: a column of images, and optionally columns of labels and superclasses.

    The image column holds encoded images, or structs of `bytes`, an encoded image, and `path`, a file below `root` that
    is read if `bytes` is null, like the `Image` feature of `datasets`. Labels are integers, -1 or null for images
    without a label, and the `ClassLabel` feature gives the names of the classes. The classes and their superclasses
    are those of the training split. Up to 1 GiB of encoded images are kept in memory. More are mapped from a copy, see
    `hex_ssl.train.data.mapped_images`.

    Args:
        root: One file, which is the training split, or a folder. File names in the folder or in its subfolder `data`
            begin with "train", or with "test", "validation", "valid" or "val", or the files are in a subfolder with one
            of these names. Case does not matter.
        split: "train" or "test".

    Raises:
        FileNotFoundError: There is no file of this split.
        ValueError: There is no column of images, a column has another type, a row has no image, a label or a superclass
            is out of range, or a label of the test split is not a class of the training split.
    """

    def __init__(self, root: Path, split: str = "train") -> None:
        self.files = find_parquet(root, split)
        self.root = root if root.is_dir() else root.parent
        table = _read(self.files)
        self.mapped = table.mapped
        self.encoded: Any = table.columns["bytes"]
        self.files_beside: Any = table.columns["path"]
        empty = pc.and_(pc.is_null(self.encoded), pc.is_null(self.files_beside)).to_numpy().nonzero()[0]
        if len(empty):
            raise ValueError(
                f"expected each row of {self.files[0].parent} to have an image, but row {empty[0]} has none"
                f"{f', and {len(empty) - 1} more' if len(empty) > 1 else ''}"
            )
        trained = table if split == "train" else _training_labels(root) or table
        classes = _count_classes(trained)
        if trained is not table:
            _check_classes(table, trained, classes)
        with reading(self.files[0], "to hold labels and superclasses"):
            super().__init__(
                table.labels("label"),
                classes,
                class_names=trained.names["label"],
                superclasses=_superclasses(trained.labels("label"), trained.labels("superclass"), classes),
                superclass_names=trained.names["superclass"],
            )

    def __getstate__(self) -> dict[str, Any]:
        """Omits the mapped table: another process maps the file itself."""
        mapped = ("encoded", "files_beside") if self.mapped is not None else ()
        return {name: value for name, value in self.__dict__.items() if name not in mapped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.mapped is not None:
            table = mapped(self.mapped)
            self.encoded, self.files_beside = table["bytes"], table["path"]

    def image(self, index: int) -> Image.Image:
        """The image, in colour."""
        return decode_image(*self._source(index))

    def pixels(self, index: int) -> Image.Image | Tensor:
        """See `ImageDataset`."""
        return decode_pixels(*self._source(index))

    def _source(self, index: int) -> tuple[Path | bytes, str]:
        """The file or the bytes of the image, and its name for error messages."""
        name = f"row {index} of {self.files[0].parent}"
        encoded = self.encoded[index].as_py()
        if encoded is not None:
            return encoded, name
        with reading(self.files[0].parent, f"to name a file in row {index}"):  # the path may be invalid UTF-8
            file = self.files_beside[index].as_py()
        return self.root / within(self.root, file), name


def find_parquet(root: Path, split: str) -> list[Path]:
    """The files of a split, sorted by name.

    Args:
        root: One file, which is the training split, or a folder.
        split: "train" or "test".

    Raises:
        FileNotFoundError: There are no such files.
    """
    if root.is_file() and split == "train":
        return [root]
    for beginning in SPLITS.get(split, (split,)):
        for folder in (root, root / "data", *_folders_called(root, beginning)):
            begins = "" if folder.name.lower() == beginning and folder != root else beginning
            if files := [each for each in _parquet_files(folder) if each.name.lower().startswith(begins)]:
                return files
    beginnings = " or ".join(f"{beginning}*.parquet" for beginning in SPLITS.get(split, (split,)))
    raise FileNotFoundError(
        f'expected `data.root` ({root}) to hold files {beginnings} for the split "{split}", but there are none; '
        "a single file is the training split"
    )


def _folders_called(root: Path, name: str) -> list[Path]:
    folders = root.iterdir() if root.is_dir() else ()
    return sorted(each for each in folders if each.is_dir() and each.name.lower() == name)


def _parquet_files(folder: Path) -> list[Path]:
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(each for each in files if each.suffix.lower() == ".parquet" and not each.name.startswith("."))


@dataclass(frozen=True)
class _Table:
    """The content of the files of a split, converted to common types.

    Attributes:
        file: The first file.
        rows: Number of rows.
        columns: "bytes" and "path" of the images, and "label" and "superclass" if present.
        names: The names of the classes ("label") and of the superclasses ("superclass").
        mapped: The copy of the images, if they are mapped.
    """

    file: Path
    rows: int
    columns: dict[str, Any]
    names: dict[str, list[str]]
    mapped: Path | None

    def labels(self, kind: str) -> Tensor:
        """int64 [rows], the column "label" or "superclass", -1 for rows without a value."""
        if kind not in self.columns:
            return torch.full((self.rows,), UNLABELLED)
        return torch.tensor(pc.fill_null(self.columns[kind], UNLABELLED).to_numpy())


def _read(files: list[Path], images: bool = True) -> _Table:
    with reading(files[0], "to be a parquet file"):
        schema = pq.read_schema(files[0])
    kinds = ("image", "label", "superclass") if images else ("label", "superclass")
    names = {kind: name for kind in kinds if (name := _column(schema, kind)) is not None}
    if images and "image" not in names:
        found = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise ValueError(
            f"expected {files[0]} to have a column of images, such as `image`, which holds encoded images or a struct "
            f"of `bytes` and `path`, but got {found}"
        )
    size = encoded_size(files, names["image"]) if images else 0
    copy = copy_of(files, names["image"], size, _images) if size > IN_MEMORY else None
    read = {kind: name for kind, name in names.items() if kind != "image" or copy is None}
    rows, shards = 0, list[dict[str, Any]]()
    for file in files:
        with reading(file, f"to be a parquet file with the columns {', '.join(names.values())}"):
            table = pq.read_table(file, columns=list(read.values()))
            columns = {kind: table[name] for kind, name in read.items()}
            rows += pq.read_metadata(file).num_rows
        shards.append(_images(columns.pop("image"), names["image"], file) if "image" in columns else {})
        shards[-1] |= {kind: _integers(column, names[kind], file) for kind, column in columns.items()}
    with reading(files[0], "to name its classes as `ClassLabel` does"):
        called = {kind: _class_names(schema, names.get(kind)) for kind in ("label", "superclass")}
    joined = {
        kind: pa.chunked_array([c for shard in shards for c in shard[kind].chunks], shards[0][kind].type)
        for kind in shards[0]
    }
    if copy is not None:
        table = mapped(copy)
        joined |= {kind: table[kind] for kind in ("bytes", "path")}
    return _Table(files[0], rows, joined, called, copy)


def _training_labels(root: Path) -> _Table | None:
    """The labels of the training split, or None if there is no training split."""
    try:
        return _read(find_parquet(root, "train"), images=False)
    except FileNotFoundError:
        return None


def _count_classes(table: _Table) -> int:
    labels, names = table.labels("label"), table.names["label"]
    lowest, highest = (int(labels.min()), int(labels.max())) if len(labels) else (UNLABELLED, UNLABELLED)
    if lowest < UNLABELLED:
        raise ValueError(f"expected labels in {table.file} of 0 and more, or -1 without, but got {lowest}")
    if highest >= MOST_CLASSES:
        raise ValueError(f"expected labels in {table.file} below {MOST_CLASSES:,}, but got {highest}")
    if names and highest >= len(names):
        raise ValueError(
            f"expected labels in {table.file} below {len(names)}, as many as it has names, but got {highest}"
        )
    return len(names) or highest + 1


def _check_classes(test: _Table, train: _Table, classes: int) -> None:
    """Checks that the classes of the test split are classes of the training split."""
    labels, names = test.labels("label"), test.names["label"]
    if names and train.names["label"] and names != train.names["label"]:
        raise ValueError(
            f"expected the classes in {test.file} to be called as in {train.file}, {_shown(train.names['label'])}, "
            f"but got {_shown(names)}"
        )
    unknown = sorted(set(labels[labels >= classes].tolist()))
    if unknown:
        known = f"0 to {classes - 1}" if classes else "none"
        raise ValueError(
            f"expected the labels in {test.file} to be classes of the training split, {known}, "
            f"but got {_shown(unknown)}"
        )


def _shown(values: list[Any]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")


def _column(schema: pa.Schema, kind: str) -> str | None:
    candidates = {"image": IMAGE_COLUMNS, "label": LABEL_COLUMNS, "superclass": SUPERCLASS_COLUMNS}[kind]
    for name in candidates:
        if name in schema.names and (kind != "image" or _holds_images(schema.field(name).type)):
            return name
    if kind != "image":
        return None
    structs = [
        field.name for field in schema if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    return structs[0] if structs else None


def _holds_images(type_: pa.DataType) -> bool:
    return pa.types.is_struct(type_) or pa.types.is_binary(type_) or pa.types.is_large_binary(type_)


def _images(column: Any, name: str, file: Path) -> dict[str, Any]:
    """The encoded images of a column, and the paths of images that are in separate files."""
    with reading(file, f"to have a column of images with `bytes` and `path`, or of encoded images, in `{name}`"):
        if not pa.types.is_struct(column.type):
            return {"bytes": column.cast(pa.large_binary()), "path": _nulls(column)}
        paths = pc.struct_field(column, "path") if column.type.get_field_index("path") >= 0 else _nulls(column)
        encoded = pc.struct_field(column, "bytes")
        return {"bytes": encoded.cast(pa.large_binary()), "path": paths.cast(pa.large_string())}


def _nulls(column: Any) -> Any:
    return pa.chunked_array([pa.nulls(len(column), pa.large_string())])


def _integers(column: Any, name: str, file: Path) -> Any:
    """A column of integers as int64. NaN becomes null: pandas writes missing integers as NaN."""
    types = pa.types
    if types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    elif not (types.is_integer(column.type) or types.is_boolean(column.type) or types.is_null(column.type)):
        raise ValueError(f"expected column `{name}` of {file} to hold whole numbers, but got {column.type}")
    with reading(file, f"to hold whole numbers in column `{name}`"):
        return column.cast(pa.int64())


def _class_names(schema: pa.Schema, name: str | None) -> list[str]:
    """The class names of Hugging Face's `ClassLabel` feature, from the metadata of the schema."""
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = described.get("info", {}).get("features", {}).get(name, {}) if name is not None else {}
    names = feature.get("names", []) if isinstance(feature, dict) else []
    return [str(each) for each in names]


def _superclasses(labels: Tensor, superlabels: Tensor, classes: int) -> Tensor | None:
    """The superclass of each class, or None if a class has none or several."""
    both = (labels != UNLABELLED) & (superlabels != UNLABELLED)
    mapping = torch.full((classes,), UNLABELLED)
    mapping[labels[both]] = superlabels[both]
    consistent = torch.equal(mapping[labels[both]], superlabels[both])
    return mapping if classes and consistent and bool((mapping != UNLABELLED).all()) else None
