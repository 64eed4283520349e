"""What parses bytes, each as a function of bytes that either takes them or says clearly why not.

A clear refusal is an error of the file system or a `ValueError` that names the file and is short. Anything else that is
raised, a crash, a command, a connection, a link, a change outside the input's own folder, a package that is imported,
more than 2 GB of memory or more than 20 seconds for one input is a finding.
"""

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.dataset  # noqa: F401  # before anything is watched, like Pillow's plugins below
from PIL import Image

from hex_ssl.train.analysis.report import ReportConfig, report
from hex_ssl.train.analysis.snapshots import subject_from_arrays
from hex_ssl.train.backbones import load_backbone
from hex_ssl.train.config import Config
from hex_ssl.train.data import build_dataset
from hex_ssl.train.data.images import decode_image
from hex_ssl.train.evaluate import read_results
from hex_ssl.train.reading import epochs_done, read_checkpoint, reading
from hex_ssl.train.recipes import load_recipe
from hex_ssl.train.run_folder import CONFIG, read_config

FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen",
    "socket.connect", "os.symlink", "os.link",
)  # fmt: skip
"""Python's names of what no input may bring about."""

CHANGES = ("os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree")
"""Those of what it may only in its own folder; opening a file to write is another."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

LAZY = ("pandas",)
"""Packages that pyarrow looks for whatever the input is."""

LONGEST_MESSAGE = 20_000
"""Characters; the list of all recipes, or of what to put where, has thousands."""

Target = Callable[[bytes, Path], None]


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Around a call that may refuse, clearly, what `path` holds."""
    try:
        yield
    except (OSError, ValueError) as error:
        message = str(error)
        if str(path) not in message or len(message) > LONGEST_MESSAGE:
            raise RuntimeError(f"expected a short error that names {path}, but got {message[:1000]}") from error


def recipe(data: bytes, folder: Path) -> None:
    """A recipe, as YAML 1.2, to a configuration."""
    path = _written(folder / "recipe.yaml", data)
    with refusing(path):
        settings = load_recipe(path)
        with reading(path, "to configure a run"):
            Config.from_dict(settings).as_dict()


def config(data: bytes, folder: Path) -> None:
    """A run's configuration."""
    path = _written(folder / CONFIG, data)
    with refusing(path):
        assert Config.from_dict(read_config(folder).as_dict()) == read_config(folder)


def checkpoint(data: bytes, folder: Path) -> None:
    """A checkpoint: a zip archive with a pickle in it, or a pickle."""
    path = _written(folder / "last.ckpt", data)
    with refusing(path), reading(path, "to say how long it was trained"):
        epochs_done(read_checkpoint(path))


def backbone(data: bytes, folder: Path) -> None:
    """A backbone's safetensors."""
    path = _written(folder / "backbone.safetensors", data)
    with refusing(path):
        load_backbone(path)


def results(data: bytes, folder: Path) -> None:
    """An evaluation's results."""
    path = _written(folder / "knn.json", data)
    with refusing(path):
        read_results(path).table()


def features(data: bytes, folder: Path) -> None:
    """Features as .npy."""
    path = _written(folder / "features.npy", data)
    with refusing(path):
        for snapshot in islice(subject_from_arrays(path).snapshots(), 2):
            snapshot.spaces["features"].sum()


def labels(data: bytes, folder: Path) -> None:
    """Labels as .npy."""
    path = _written(folder / "labels.npy", data)
    with refusing(path):
        subject_from_arrays(SEEDS / "features" / "features.npy", path)


def page(data: bytes, folder: Path) -> None:
    """What `hex-ssl report` reads: metrics and analysis, a zero byte between them."""
    _written(folder / CONFIG, b"{}")
    metrics, _, analysis = data.partition(b"\0")
    _written(folder / "metrics.jsonl", metrics)
    if analysis:
        _written(folder / "analysis" / "analysis.json", analysis)
    with refusing(folder):
        report(ReportConfig([str(folder)], output=str(folder / "report.html")))


def parquet(data: bytes, folder: Path) -> None:
    """Images in parquet."""
    _written(folder / "train.parquet", data)
    _dataset("parquet", folder)


def matlab(data: bytes, folder: Path) -> None:
    """Stanford Dogs' list."""
    (folder / "Images" / "n01-Chihuahua").mkdir(parents=True, exist_ok=True)
    _written(folder / "train_list.mat", data)
    _dataset("dogs", folder)


def lists(data: bytes, folder: Path) -> None:
    """CUB's four lists and the table of superclasses, zero bytes between them."""
    names = ("classes", "images", "image_class_labels", "train_test_split")
    superclasses = _lists("CUB_200_2011", names, data, folder)
    if superclasses:
        _written(folder / "superclasses.csv", superclasses)
    _dataset("cub", folder)


def birds(data: bytes, folder: Path) -> None:
    """NABirds' five lists, zero bytes between them."""
    _lists("nabirds", ("classes", "hierarchy", "images", "image_class_labels", "train_test_split"), data, folder)
    _dataset("nabirds", folder)


def image(data: bytes, folder: Path) -> None:
    """An encoded image."""
    path = _written(folder / "image.png", data)
    with refusing(path):
        decode_image(path)


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (
        recipe, config, checkpoint, backbone, results, features, labels, page, parquet, matlab, lists, birds, image
    )
}  # fmt: skip
SEEDS = Path(__file__).parent / "corpus"


def run(name: str, data: bytes) -> None:
    """One input to one target, in a folder of its own that is removed."""
    folder = Path(tempfile.mkdtemp(prefix="hex-ssl-fuzz-"))
    _watched.append(f"{folder}{os.sep}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[name](data, folder)
    finally:
        _watched.clear()
        shutil.rmtree(folder)


class EscapeError(BaseException):
    """An input has brought about what it may not; no `except Exception` takes it for a refusal."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event in FORBIDDEN:
        raise EscapeError(f"{event} {arguments}")
    changed = arguments if event in CHANGES else ()
    if event == "open" and arguments[2] & WRITING:
        changed = arguments[:1]
    for path in (os.fsdecode(each) for each in changed if isinstance(each, (str, bytes, os.PathLike))):
        if not f"{os.path.abspath(path)}{os.sep}".startswith((_watched[0], os.devnull)):
            raise EscapeError(f"{event} of {path}, outside {_watched[0]}")


class _Imports:
    """Sees every package that is not yet imported, whichever way; of these, no audit hook is told all."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if _watched and path is None and name not in LAZY:
            raise EscapeError(f"import of {name}")


_watched: list[str] = []
"""The folder of the input that is read, while it is."""

Image.init()
sys.addaudithook(_watch)
sys.meta_path.insert(0, _Imports)


def _dataset(name: str, folder: Path) -> None:
    with refusing(folder):
        dataset = build_dataset(name, "train", folder)
        for row in range(min(len(dataset), 3)):
            dataset[row]


def _lists(name: str, names: tuple[str, ...], data: bytes, folder: Path) -> bytes:
    """Writes a dataset's lists; returns what is behind them."""
    parts = [*data.split(b"\0", len(names)), *[b""] * len(names)]
    for each, part in zip(names, parts, strict=False):
        _written(folder / name / f"{each}.txt", part)
    (folder / name / "images").mkdir(exist_ok=True)
    return parts[len(names)]


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
