"""What parses bytes, each as a function of bytes that either takes them or says clearly why not.

A clear refusal is an error of the file system or a `ValueError` that names the file and is short. Anything else that is
raised, a crash, a command, a connection, a file written outside the folder, more than 2 GB of memory or more than 20
seconds for one input is a finding.
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

from hex_ssl.analysis.report import ReportConfig, report
from hex_ssl.analysis.snapshots import subject_from_arrays
from hex_ssl.backbones import load_backbone
from hex_ssl.config import Config
from hex_ssl.data import build_dataset
from hex_ssl.data.images import decode_image
from hex_ssl.evaluate import read_results
from hex_ssl.reading import epochs_done, read_checkpoint, reading
from hex_ssl.recipes import load_recipe
from hex_ssl.run_folder import CONFIG, read_config

FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect")
"""Python's names of what no input may bring about."""

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
    with refusing(path), reading(path, "to hold labels"):  # its errors name the argument
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
    parts = [*data.split(b"\0", 4), b"", b"", b"", b"", b""]
    for name, part in zip(names, parts, strict=False):
        _written(folder / "CUB_200_2011" / f"{name}.txt", part)
    (folder / "CUB_200_2011" / "images").mkdir(exist_ok=True)
    if parts[4]:
        _written(folder / "superclasses.csv", parts[4])
    _dataset("cub", folder)


def image(data: bytes, folder: Path) -> None:
    """An encoded image."""
    path = _written(folder / "image.png", data)
    with refusing(path):
        decode_image(path)


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (
        recipe, config, checkpoint, backbone, results, features, labels, page, parquet, matlab, lists, image
    )
}  # fmt: skip
SEEDS = Path(__file__).parent / "corpus"


def run(name: str, data: bytes) -> None:
    """One input to one target, in a folder of its own that is removed."""
    folder = Path(tempfile.mkdtemp(prefix="hex-ssl-fuzz-"))
    _watching.append(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[name](data, folder)
    finally:
        _watching.clear()
        shutil.rmtree(folder)


class EscapeError(BaseException):
    """An input has brought about what it may not; no `except Exception` takes it for a refusal."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in FORBIDDEN:
        raise EscapeError(f"{event} {arguments}")
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if not path.startswith((tempfile.gettempdir(), os.devnull)):
            raise EscapeError(f"{path} was opened to be written")


_watching: list[str] = []
sys.addaudithook(_watch)


def _dataset(name: str, folder: Path) -> None:
    with refusing(folder):
        dataset = build_dataset(name, "train", folder)
        for row in range(min(len(dataset), 3)):
            dataset[row]


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
