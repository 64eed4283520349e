"""Files that would run code, write outside their folder, or fill the memory. Each is refused before it does harm."""

import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import EpsImagePlugin, Image
from safetensors.torch import save_file
from torchvision import datasets

from fuzz.targets import SEEDS
from hex_ssl.train.analysis.snapshots import subject_from_arrays
from hex_ssl.train.backbones import build_backbone, describe_backbone, load_backbone
from hex_ssl.train.callbacks import save_backbone
from hex_ssl.train.cli import main
from hex_ssl.train.config import BackboneConfig, Config, DataConfig, RunConfig
from hex_ssl.train.data import build_dataset
from hex_ssl.train.data.images import decode_image
from hex_ssl.train.evaluate.commands import prepare as prepare_evaluation
from hex_ssl.train.evaluate.settings import KNNConfig
from hex_ssl.train.evaluate.source import load_subject, open_source
from hex_ssl.train.methods import build_method
from hex_ssl.train.pretrain import load_method, prepare
from hex_ssl.train.reading import read_checkpoint
from hex_ssl.train.recipes import load_recipe
from hex_ssl.train.reproduce.results import read_results
from hex_ssl.train.run_folder import read_config
from tests.train.data.layouts import LAYOUTS


class Hostile:
    """Creates a folder when Python's own unpickler reads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A folder that exists if code in a file has run."""
    return tmp_path / "code-has-run"


@pytest.fixture
def run(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with a hostile checkpoint. The environment tells torch to load everything."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    config = Config(run=RunConfig(name="run", root=str(tmp_path), existing="resume", progress=False))
    (folder / "config.yaml").write_text(yaml.safe_dump(config.as_dict()))
    content = {"state_dict": {}, "loops": {}, "global_step": Hostile(mark)}
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    return folder


def test_the_mark_works(mark: Path) -> None:
    pickle.loads(pickle.dumps(Hostile(mark)))
    assert mark.is_dir()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_checkpoint_is_refused(tmp_path: Path, mark: Path, zipped: bool) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "global_step": Hostile(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match=r"expected .*last.ckpt to be a checkpoint of tensors and plain values, but got"
    ):
        read_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "load",
    [
        lambda run: load_method(run),
        lambda run: load_subject(open_source(run), None),
        lambda run: load_subject(open_source(run / "checkpoints" / "last.ckpt"), None),
        lambda run: prepare(read_config(run)),
    ],
    ids=["analysis", "evaluation", "evaluation of the file", "resume"],
)
def test_no_command_runs_a_checkpoints_code(run: Path, mark: Path, load: Callable[[Path], object]) -> None:
    with pytest.raises(ValueError, match=r"last.ckpt to be a checkpoint of tensors and plain values, but got"):
        load(run)
    assert not mark.exists()


def test_weights_to_start_from_run_no_code(run: Path, mark: Path, tmp_path: Path) -> None:
    weights = run / "checkpoints" / "last.ckpt"
    config = Config(run=RunConfig(name="new", root=str(tmp_path), weights=str(weights), progress=False))
    with pytest.raises(ValueError, match=r"last.ckpt to hold weights: tensors and plain values, but got"):
        prepare(config)
    assert not mark.exists()


def test_a_refused_resume_is_one_line(run: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["pretrain", "--recipe", str(run / "config.yaml"), "--run.existing", "resume"])
    assert "last.ckpt to be a checkpoint of tensors and plain values" in capsys.readouterr().err
    assert not mark.exists()


def make(in_channels: int, image_size: int) -> torch.nn.Module:
    """The user's own network, which leaves a mark."""
    called.append((in_channels, image_size))
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_channels * image_size**2, 2))


called: list[tuple[int, int]] = []


def test_a_backbones_file_calls_no_function_unless_told(tmp_path: Path) -> None:
    config, path = BackboneConfig(f"{__name__}:make"), tmp_path / "backbone.safetensors"
    save_backbone(build_backbone(config, 1, 4), path, describe_backbone(config, 1, 4))
    called.clear()
    for load in (load_backbone, open_source):
        with pytest.raises(ValueError, match="hex-ssl or timm, but it names the function"):
            load(path)
    assert called == []
    assert load_backbone(path, own_code=True)(torch.zeros(3, 1, 4, 4)).shape == (3, 2)
    assert called == [(1, 4)]


def images(split: str) -> object:
    """The user's own dataset, which leaves a mark."""
    asked.append(split)
    return torch.utils.data.TensorDataset(torch.rand(4, 1, 8, 8))


asked: list[str] = []


def test_a_backbones_file_calls_no_function_for_images_unless_told(tmp_path: Path) -> None:
    config = Config(backbone=BackboneConfig(width=4), data=DataConfig(name=f"{__name__}:images", batch_size=2))
    path = tmp_path / "backbone.safetensors"
    described = describe_backbone(config.backbone, 1, 8)
    save_backbone(build_backbone(config.backbone, 1, 8), path, {**described, "run": json.dumps(config.as_dict())})
    with pytest.raises(ValueError, match='names the function "tests.hostile.test_code_in_files:images" for its images'):
        prepare_evaluation(KNNConfig(source=str(path)))
    assert asked == []
    with pytest.raises(ValueError, match="to have labels, but it has none"):
        prepare_evaluation(KNNConfig(source=str(path), dataset=config.data.name))
    assert asked


def test_a_backbone_that_names_another_than_its_run_is_refused(tmp_path: Path) -> None:
    mine = BackboneConfig(f"{__name__}:make")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(Config(backbone=BackboneConfig(width=4)).as_dict()))
    save_backbone(build_backbone(mine, 1, 8), tmp_path / "backbone.safetensors", describe_backbone(mine, 1, 8))
    called.clear()
    with pytest.raises(ValueError, match="to hold the backbone of its run's configuration, but it names another"):
        load_subject(open_source(tmp_path), None)
    assert called == []


def test_a_files_method_is_not_imported(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds for a backbone's file, a run folder and a recipe, until the method itself is needed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    config = Config.from_dict({"method": {"name": "evil:Method", "width": 3}, "backbone": {"width": 4}})
    path = tmp_path / "backbone.safetensors"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.as_dict()))
    described = describe_backbone(config.backbone, 1, 8) | {"run": json.dumps(config.as_dict())}
    save_backbone(build_backbone(config.backbone, 1, 8), path, described)
    load_backbone(path)
    load_subject(open_source(path), None)
    load_subject(open_source(tmp_path), None)
    Config.from_dict(load_recipe(tmp_path / "config.yaml"))
    assert not mark.exists()
    with pytest.raises(ValueError, match="to be an importable"):
        build_method(config, 1, 8)
    assert mark.exists()  # so asking does


@pytest.mark.parametrize(
    "images",
    ['{"in_channels": 1, "image_size": 1000000000}', '{"in_channels": true, "image_size": 8}', "[]", "[" * 100_000],
)
def test_a_backbones_description_is_checked(tmp_path: Path, images: str) -> None:
    path = tmp_path / "backbone.safetensors"
    save_file({"w": torch.zeros(1)}, path, {"backbone": json.dumps({"name": "small_resnet"}), "images": images})
    with pytest.raises(ValueError, match=r"backbone.safetensors to hold the backbone's configuration in its metadata"):
        load_backbone(path)


def test_features_are_never_pickles(tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "features.npy"
    path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(ValueError, match=r"features.npy \(`features`\) to be a .npy file of numbers"):
        subject_from_arrays(path)
    assert not mark.exists()


def test_cifars_pickles_are_read_only_with_their_checksum(tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps({"data": Hostile(mark)}))
    with pytest.raises(ValueError, match="to hold the files of cifar10 as published"):
        build_dataset("cifar10", "train", tmp_path)
    assert not mark.exists()


def test_imagenets_description_is_no_pickle_that_runs(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "val" / "n01").mkdir(parents=True)
    (tmp_path / "train" / "n01").mkdir(parents=True)
    torch.save((Hostile(mark), []), tmp_path / "meta.bin")
    with pytest.raises(ValueError, match="to hold the files of imagenet as published, but got UnpicklingError"):
        build_dataset("imagenet", "train", tmp_path)
    assert not mark.exists()


def archive(path: Path, member: str, kind: bytes = tarfile.REGTYPE) -> str:
    """Writes a tar archive with one member and returns its checksum."""
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo(member)
        entry.type, entry.linkname = kind, "/etc/passwd"
        entry.size = 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(entry, io.BytesIO(b"evil"))
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_an_archive_of_another_checksum_is_not_unpacked(tmp_path: Path) -> None:
    """torchvision unpacks one archive for this package, ImageNet's development kit, into a temporary folder."""
    root = tmp_path / "imagenet"
    (root / "train" / "n01").mkdir(parents=True)
    archive(root / "ILSVRC2012_devkit_t12.tar.gz", "../../escaped")
    with pytest.raises(ValueError, match="to hold the files of imagenet as published"):
        build_dataset("imagenet", "train", root)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize(
    ("member", "end"),
    [
        ("ILSVRC2012_devkit_t12/readme", "meta.mat"),  # unpacked, and found not to be whole
        ("../escaped", "OutsideDestinationError|ExtractError"),
        ("../../escaped", "OutsideDestinationError|ExtractError"),
        ("{}/escaped", "meta.mat|ExtractError"),  # Python makes it relative
    ],
)
@pytest.mark.parametrize("filters", [True, False], ids=["Python", "Python before 3.11.4"])
def test_no_dataset_unpacks_what_leaves_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filters: bool, member: str, end: str
) -> None:
    """Even with a correct checksum, as if the published archive itself were hostile."""
    if not filters:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
        monkeypatch.setattr(tarfile.TarFile, "extraction_filter", lambda _, member, path: member, raising=False)
    root = tmp_path / "imagenet"
    (root / "train" / "n01").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "unpacked"))
    (tmp_path / "unpacked").mkdir()
    checksum = archive(root / "ILSVRC2012_devkit_t12.tar.gz", member.format(tmp_path))
    monkeypatch.setitem(datasets.imagenet.ARCHIVE_META, "devkit", ("ILSVRC2012_devkit_t12.tar.gz", checksum))
    with pytest.raises((ValueError, FileNotFoundError), match=end):
        build_dataset("imagenet", "train", root)
    assert not list(tmp_path.rglob("escaped"))


BOMB = (
    "a: &a ["
    + "x, " * 9
    + "x]\n"
    + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
)

HOSTILE_YAML = {
    "object": ("run: !!python/object/apply:os.mkdir [{mark}]\n", "could not determine a constructor"),
    "new": ("run: !!python/object/new:os.mkdir [{mark}]\n", "could not determine a constructor"),
    "name": ("run: !!python/name:os.mkdir\n", "could not determine a constructor"),
    "module": ("run: !!python/module:antigravity\n", "could not determine a constructor"),
    "aliases": (BOMB, "found more than 10,000 values"),
    "merged aliases": (
        "a: &a {k: 1}\n" + "".join(f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 30)}]}}\n" for a, b in ("ab", "bc", "cd")),
        "found more than 10,000 values",
    ),
    "itself": ("run: &run\n  name: *run\n", "found a value that contains itself"),
    "deep lists": ("a: " + "[" * 100_000, "found a tree of more than 20 levels"),
    "deep mappings": ("a: " + "{a: " * 5_000, "found a tree of more than 20 levels"),
    "long": ("# " + "x" * 1_000_001, "expected at most 1,000,000 characters of YAML"),
    "number": ("run: {seed: " + "9" * 5_000 + "}", "a value does not fit its tag"),
    "truth": ("run: !!bool perhaps", "a value does not fit its tag"),
    "date": ("run: !!timestamp soon", "a value does not fit its tag"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE_YAML.values(), ids=HOSTILE_YAML.keys())
@pytest.mark.parametrize("read", [load_recipe, lambda path: read_config(path.parent)], ids=["recipe", "configuration"])
def test_yaml_is_plain_and_bounded(tmp_path: Path, mark: Path, read: Any, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("{mark}", str(mark)))
    with pytest.raises(ValueError, match=rf"(?s)expected .*config.yaml to .*, but got .*{message}") as caught:
        read(path)
    assert len(str(caught.value)) < 1_000
    assert not mark.exists()


def test_a_value_of_the_command_line_is_plain_too(mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["pretrain", "--run.seed", f"!!python/object/apply:os.mkdir [{mark}]"])
    assert "run.seed" in capsys.readouterr().err
    assert not mark.exists()


def test_a_label_cannot_fill_the_memory(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"", "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": image, "label": pa.array([2**62])}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet below 1,000,000, but got 4611686018427387904"):
        build_dataset("parquet", "train", tmp_path)


@pytest.mark.parametrize("superclass", [2**40, -7])
def test_a_superclass_cannot_fill_the_memory(tmp_path: Path, superclass: int) -> None:
    image = pa.array([{"bytes": b"", "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": image, "label": pa.array([0]), "coarse_label": pa.array([superclass])})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=rf"train.parquet .*superclasses of 0 to 999,999, but got {superclass}"):
        build_dataset("parquet", "train", tmp_path)


def test_no_image_starts_a_program(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EPS is a program for Ghostscript (`gs`), which Pillow starts whatever the file is called."""
    file = tmp_path / "cat.png"
    file.write_bytes((SEEDS / "image" / "image.eps").read_bytes())
    (tmp_path / "gs").write_text(f"#!/bin/sh\nmkdir -p '{mark}'\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for source in (file, file.read_bytes()):
        with pytest.raises(ValueError, match="to be an image, but it cannot be decoded"):
            decode_image(source)
    assert not mark.exists()
    with Image.open(file) as image, pytest.raises(OSError, match="cannot identify"):
        image.load()
    assert mark.is_dir()  # so Pillow alone would


@pytest.mark.parametrize("path", ["../outside.png", "{}/outside.png"])
def test_no_table_names_images_outside_its_folder(tmp_path: Path, path: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "data").mkdir()
    image = [{"bytes": None, "path": path.format(tmp_path)}]
    table = pa.table({"image": pa.array(image, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
    pq.write_table(table, tmp_path / "data" / "train.parquet")
    dataset = build_dataset("parquet", "train", tmp_path / "data")
    with pytest.raises(ValueError, match=r"to lead to files below .*data, but got .*outside.png"):
        dataset[0]


def test_text_for_bytes_names_no_file(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    image = [{"bytes": str(tmp_path / "outside.png"), "path": None}]
    pq.write_table(pa.table({"image": pa.array(image)}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"expected row 0 of .* to be an image, but it cannot be decoded"):
        build_dataset("parquet", "train", tmp_path)[0]


@pytest.mark.parametrize("image", [{"bytes": 1, "path": None}, {"bytes": None, "path": [1]}])
def test_other_types_for_images_are_refused(tmp_path: Path, image: dict[str, Any]) -> None:
    pq.write_table(pa.table({"image": pa.array([image])}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet to have a column of images with `bytes` and `path`"):
        build_dataset("parquet", "train", tmp_path)


@pytest.mark.parametrize("path", ["../../../outside.png", "{}/outside.png"])
def test_no_list_names_images_outside_its_folder(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["cub"](tmp_path, monkeypatch)
    images = tmp_path / "CUB_200_2011" / "images.txt"
    images.write_text(
        "".join(f"{line.split()[0]} {path.format(tmp_path)}\n" for line in images.read_text().splitlines())
    )
    with pytest.raises(ValueError, match=r"to lead to files below .*images, but got .*outside.png"):
        build_dataset("cub", "train", tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [("1 2\n2 1\n295 1\n", "is its own ancestor"), ("817 817\n", "is its own ancestor"), ("", "KeyError")],
)
def test_a_cyclic_tree_of_classes_is_an_error(
    tmp_path: Path, lines: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS["nabirds"](tmp_path, monkeypatch)
    hierarchy = tmp_path / "nabirds" / "hierarchy.txt"
    hierarchy.write_text(f"296 295\n297 295\n817 2\n{lines}" if lines else "")
    with pytest.raises(ValueError, match=rf"hierarchy.txt to be a tree, but got .*{message}"):
        build_dataset("nabirds", "train", tmp_path)


def test_deeply_nested_results_are_named(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text("[" * 100_000)
    with pytest.raises(
        ValueError, match=r"line 1 of .*results.jsonl to be the result of a run, but got RecursionError"
    ):
        read_results(results)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(4, 2**64 - 1, np.uint64), "be below 2\\*\\*63, but got 18446744073709551615"),
        (np.full(4, -1), "be at least 0, but got -1"),
        (np.zeros(3, np.int64), r"be integers \[4\], but got int64 of shape \[3\]"),
    ],
)
def test_labels_do_not_wrap_and_their_file_is_named(tmp_path: Path, labels: Any, message: str) -> None:
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(ValueError, match=rf"expected `labels` to {message} in .*labels.npy"):
        subject_from_arrays(SEEDS / "features" / "features.npy", tmp_path / "labels.npy")


def test_features_of_no_images_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.ones((0, 3, 2)))
    with pytest.raises(ValueError, match=r"but got float64 of shape \[0, 3, 2\] in .*features.npy"):
        subject_from_arrays(tmp_path / "features.npy")


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    (tmp_path / "train_list.mat").write_bytes(b"half a fi")
    with pytest.raises(ValueError, match=r"train_list.mat to be a MATLAB file with `file_list`"):
        build_dataset("dogs", "train", tmp_path)
