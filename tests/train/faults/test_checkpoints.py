"""Checkpoints that are truncated, damaged, or not of this package."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hex_ssl.train.callbacks.export import save_backbone
from hex_ssl.train.pretrain import prepare, pretrain

from . import runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run of one epoch."""
    root = tmp_path_factory.mktemp("finished")
    torch.set_num_threads(1)
    pretrain(runs.tiny(root, epochs=1))
    return root


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    draw = random.Random(0)
    for place in range(0, len(content), 50):
        content[place] = draw.randrange(256)
    path.write_bytes(content)


def replace_by_text(path: Path) -> None:
    path.write_text("not a checkpoint")


def replace_by_weights(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def replace_by_another_network(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = {name: each[:1] for name, each in checkpoint["state_dict"].items() if each.dim()}
    torch.save(checkpoint, path)


def replace_by_backbone(path: Path) -> None:
    save_backbone(torch.nn.Linear(2, 2), path, {})


DAMAGES = [
    truncate,
    empty,
    scramble,
    replace_by_text,
    replace_by_weights,
    replace_by_another_network,
    replace_by_backbone,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_or_foreign_checkpoint_is_an_error_before_anything_is_written(
    damage: Callable[[Path], None], finished: Path, tmp_path: Path
) -> None:
    checkpoint = finished / "run" / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    try:
        damage(checkpoint)
        before = runs.contents(finished)
        with pytest.raises(ValueError, match=rf"expected {checkpoint} to be a checkpoint"):
            prepare(runs.resumed(runs.tiny(finished, epochs=1)))
        assert runs.contents(finished) == before
    finally:
        checkpoint.write_bytes(whole)


def test_without_its_checkpoint_a_run_starts_from_the_beginning(finished: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = runs.tiny(tmp_path, epochs=1)
    pretrain(config)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    pretrain(runs.resumed(config))
    runs.check_equal(tmp_path / "run", finished / "run")


@pytest.mark.parametrize("damage", [truncate, empty, scramble, replace_by_text, replace_by_weights])
@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "backbone.safetensors"])
def test_damaged_or_foreign_weights_to_start_from_are_an_error_before_anything_is_written(
    name: str, damage: Callable[[Path], None], finished: Path, tmp_path: Path
) -> None:
    weights = tmp_path / Path(name).name
    weights.write_bytes((finished / "run" / name).read_bytes())
    damage(weights)
    with pytest.raises(ValueError, match=rf"expected {weights} to hold "):
        prepare(runs.tiny(tmp_path / "runs", weights=str(weights)))
    assert not (tmp_path / "runs").exists()
