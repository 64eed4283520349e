"""The evaluation commands on the command line."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from hex_ssl.train.cli import main


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    assert exit_.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("lists", [["--k", "3,7", "--fractions=0.1,1"], ["--k=[3, 7]", "--fractions", "[0.1,1.0]"]])
def test_knn_prints_lines_table_and_protocol(
    lists: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["knn", str(folder), "--epochs", "0,2", *lists])
    out = capsys.readouterr().out
    assert re.search(
        r"^hierarchy  knn  epoch 2  10 % of the labels  top-1 \d+\.\d\d %  \(\d+\.\d s\)$", out, re.MULTILINE
    )
    assert len(re.findall(r"^\| hierarchy \| [02]     \| knn \| 10+ %", out, re.MULTILINE)) == 8
    assert "- k-NN: cosine, k = 3, 7, votes exp(cos / T), T = 0.07" in out
    file = Path(out.splitlines()[-1].removeprefix("results: "))
    assert file.parent == folder / "evaluation"
    assert json.loads(file.read_text())["protocol"]["settings"]["knn"]["k"] == [3, 7]


def test_each_command_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [str(folder), "--fractions", "0.1", "--num_workers", "0"]
    main(["probe", *few, "--solver", "sgd", "--probe_epochs", "1"])
    main(["finetune", *few, "--finetune_epochs", "1"])
    main(["transfer", *few, "--datasets", "digits", "--by", "knn", "--knn.k", "3"])
    out = capsys.readouterr().out
    assert "linear probe: SGD on the images as they are, learning rate 1," in out
    assert "fine-tuning: sgd, momentum 0.9 on random crops and flips" in out
    assert re.search(r"\| digits  \| 2     \| knn \| 10 %   \| 3 \| 0.07 \| \d", out)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--holdot", "0.1"], 'did you mean "holdout" for "holdot"?'),
        (["--distance", "manhattan"], "manhattan"),
        (["--fractions", "0.1,2"], "expected `fractions` to be in (0, 1], but got [0.1, 2.0]"),
        (["--epochs", "9"], "but got [9]"),
        (["--dataset", "cifar1000"], 'did you mean "cifar100"?'),
        (["--dataset", "cifar100"], "expected `data.root` to be the folder that holds cifar100, but got None"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    arguments: list[str], expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in fails(capsys, "knn", str(folder), *arguments)
    assert not (folder / "evaluation").exists()


def test_no_run_is_a_mistake_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"but there is no {tmp_path / 'run'}" in fails(capsys, "probe", str(tmp_path / "run"))
    assert "write hex-ssl knn runs/NAME" in fails(capsys, "knn")


@pytest.mark.parametrize("command", ["knn", "probe"])
def test_images_of_one_class_are_an_error_before_anything_is_measured(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        (tmp_path / "images" / split / "albatross").mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "images" / split / "albatross" / f"{number}.png")
    message = fails(capsys, command, str(folder), "--dataset", "folder", "--root", str(tmp_path / "images"))
    assert message.startswith("error: expected the training images of folder to have at least 2 classes, but all have")
    assert not (folder / "evaluation").exists()


def test_device_that_is_not_there_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("knn", "analyze"):
        message = fails(capsys, command, str(folder), "--device", "abacus")
        assert 'error: expected `device` to be one that this machine has, but got "abacus": ' in message
