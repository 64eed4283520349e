"""A memory-mapped Arrow file with the encoded images of parquet files, so that only the images in use take memory.

Parquet itself cannot be mapped: its values are in compressed pages, so reading one random image means reading a page or
a whole row group. Like Hugging Face's `datasets`, this module therefore copies the encoded images once.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from hex_ssl.train.reading import reading
from hex_ssl.train.whole_file import whole_file

CACHE = "HEX_SSL_CACHE"
"""Environment variable with the folder of the copies."""

IN_MEMORY = 1 << 30
"""Up to this number of bytes, encoded images are kept in memory. More are mapped."""

ROWS = 32
"""Number of images that are copied at a time."""

SCHEMA = pa.schema({"bytes": pa.large_binary(), "path": pa.large_string()})


def encoded_size(files: list[Path], column: str) -> int:
    """Number of bytes that the encoded images of parquet files take in memory.

    Args:
        files: The files.
        column: The column that holds the images.

    Raises:
        ValueError: A file is not a parquet file.
    """
    size = 0
    for file in files:
        with reading(file, f"to be a parquet file with the column {column}"):
            metadata = pq.read_metadata(file)
            groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
            chunks = (group.column(number) for group in groups for number in range(group.num_columns))
            size += sum(each.total_uncompressed_size for each in chunks if each.path_in_schema.split(".")[0] == column)
    return size


def copy_of(files: list[Path], column: str, size: int, images: Any) -> Path:
    """The Arrow file with the images of parquet files. It is written to `cache_folder()` on the first call.

    The name of the copy depends on the paths, sizes and modification times of the parquet files.

    Args:
        files: The files.
        column: The column that holds the images.
        size: Number of bytes of the images.
        images: Returns `bytes` and `path` for a column of images. Called with the column, its name and its file.

    Returns:
        The path of the Arrow file.

    Raises:
        OSError: The disk has too little space, or the copy cannot be written.
        ValueError: A file is not a parquet file with such a column.
    """
    folder = cache_folder()
    known = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    path = folder / f"{hashlib.sha256(repr((column, known)).encode()).hexdigest()[:32]}.arrow"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # other processes of the run need the same file
        if not path.exists():
            _check_room(folder, size, files[0].parent)
            print(f"copying {size / 1e9:.1f} GB of images of {files[0].parent} to {path}, once", file=sys.stderr)
            with whole_file(path) as file, pa.ipc.new_file(file, SCHEMA) as writer:
                for batch in _batches(files, column, images):
                    writer.write_table(batch)
    return path


def mapped(path: Path) -> Any:
    """The memory-mapped table of `bytes` and `path`."""
    with reading(path, "to be a copy of images (if you delete it, it is written again)"):
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def cache_folder() -> Path:
    """The folder of the copies: `$HEX_SSL_CACHE`, or else `hex-ssl` in `$XDG_CACHE_HOME` or `~/.cache`."""
    named = os.environ.get(CACHE)
    return Path(named).expanduser() if named else _users_cache() / "hex-ssl"


def _users_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _batches(files: list[Path], column: str, images: Any) -> Iterator[Any]:
    for file in files:
        with reading(file, f"to be a parquet file with the column {column}"):
            source = pq.ParquetFile(file, memory_map=True)
        with source:
            batches = source.iter_batches(ROWS, columns=[column], use_threads=False)
            while True:
                with reading(file, f"to hold images in column {column}"):
                    batch = next(batches, None)
                if batch is None:
                    break
                yield pa.table(images(pa.chunked_array([batch.column(0)]), column, file), SCHEMA)


def _check_room(folder: Path, size: int, source: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(
            f"expected {folder} to have {size / 1e9:.1f} GB free for a copy of the images of {source}, but it has "
            f"{free / 1e9:.1f} GB; {CACHE} names another folder"
        )
