"""The networks to evaluate: run folders, checkpoints, exported backbones, untrained networks."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from hex_ssl.train.config import Config
from hex_ssl.train.evaluate.source import choose_epochs, load_subject, open_source
from hex_ssl.train.pretrain import load_method

IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("epochs", "chosen"),
    [("last", [None]), ("all", [0, 1, 2, None]), ("untrained", [0]), ("2,0", [0, 2]), (" 1 ", [1])],
)
def test_epochs_are_chosen_by_name_and_number(finished: Path, epochs: str, chosen: list[int | None]) -> None:
    assert choose_epochs(open_source(finished), epochs) == chosen


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        ("7", "to be among those that {} keeps (0, 1, 2), but got [7]"),
        ("best", 'expected `epochs` to be "last", "all", "untrained" or epochs such as "0,10,20", but got "best"'),
        ("1,,2", 'but got "1,,2"'),
    ],
)
def test_missing_epochs_are_named(finished: Path, epochs: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message.format(finished))):
        choose_epochs(open_source(finished), epochs)


def test_networks_are_those_of_the_run(finished: Path) -> None:
    source = open_source(finished)
    for epoch, name in ((0, "epoch-0000"), (1, "epoch-0001"), (None, "last")):
        method = load_method(finished, name)
        with torch.no_grad():
            h = load_subject(source, epoch).network(IMAGES)
            z = load_subject(source, epoch, "projection").network(IMAGES)
            torch.testing.assert_close(h, method.backbone(IMAGES), rtol=0, atol=0)
            torch.testing.assert_close(z, method.projector(method.backbone(IMAGES)), rtol=0, atol=0)
    last = load_subject(source, None)
    assert (last.epoch, last.file) == (2, finished / "checkpoints" / "last.ckpt")


def test_the_same_network_from_each_of_its_files(finished: Path) -> None:
    files = ["backbone.safetensors", "checkpoints/last.ckpt", "checkpoints/epoch-0002.ckpt"]
    subjects = []
    for file in files:
        source = open_source(finished / file)
        subjects.append(load_subject(source, choose_epochs(source, "last")[0]))
        assert source.folder == finished
        assert source.config is not None
        assert source.config.data.name == "hierarchy"
    assert len({subject.weights for subject in subjects}) == 1
    assert [subject.epoch for subject in subjects] == [2, 2, 2]
    assert load_subject(open_source(finished), 1).weights != subjects[0].weights


@pytest.mark.parametrize("space", ["backbone", "projection"])
def test_the_untrained_network_is_the_one_that_the_run_began_with(folder: Path, space: str) -> None:
    kept = load_subject(open_source(folder), 0, space)  # type: ignore[arg-type]
    (folder / "checkpoints" / "epoch-0000.ckpt").unlink()
    state = torch.random.get_rng_state()
    fresh = load_subject(open_source(folder), 0, space)  # type: ignore[arg-type]
    assert (kept.file is None, fresh.file is None) == (False, True)
    assert fresh.weights == kept.weights
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_run_that_has_not_ended_is_evaluated_by_its_checkpoint(folder: Path) -> None:
    whole = load_subject(open_source(folder), None).weights
    (folder / "backbone.safetensors").unlink()
    source = open_source(folder)
    assert source.shape == (3, 16)
    assert load_subject(source, None).weights == whole


def test_a_backbone_without_a_run_has_no_epoch_and_no_configuration(finished: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(str(finished / "backbone.safetensors"), framework="pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != "run"}
    lone = tmp_path / "lone.safetensors"
    save_file(load_file(finished / "backbone.safetensors"), lone, metadata)
    source = open_source(lone)
    assert source.config is None
    assert load_subject(source, None).epoch is None
    with pytest.raises(
        ValueError, match="expected a checkpoint for the projection space, but .* holds only the backbone"
    ):
        load_subject(source, None, "projection")


def test_missing_sources_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(ValueError, match=r"run folder, .ckpt or .safetensors, but got .*notes.txt"):
        open_source(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="expected a run folder, with a config.yaml in it"):
        open_source(tmp_path)
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"half a fi")
    with pytest.raises(ValueError, match=r"last.ckpt to be a checkpoint of tensors and plain values, but got"):
        load_subject(open_source(folder), None)
    torch.save({"weights": torch.zeros(1)}, folder / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt to be a checkpoint of tensors and plain values, but got KeyError"):
        load_subject(open_source(folder), None)
    (folder / "config.yaml").write_text("- 1")
    with pytest.raises(ValueError, match=r"config.yaml to hold the configuration of a run, but"):
        open_source(folder)


def test_a_checkpoint_of_another_backbone_is_an_error(folder: Path) -> None:
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["backbone"]["width"] = 8
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    assert Config.from_dict(settings).backbone.width == 8
    with pytest.raises(ValueError, match="to hold the backbone of its run's configuration, but"):
        load_subject(open_source(folder), 1)
