"""The command line."""

from pathlib import Path

import pytest
import yaml

from hex_ssl.cli import main, suggest


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    assert exit_.value.code == 2
    return capsys.readouterr().err


def printed_config(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, object]]:
    with pytest.raises(SystemExit) as exit_:
        main(["pretrain", *arguments, "--print_config"])
    assert exit_.value.code == 0
    config: dict[str, dict[str, object]] = yaml.safe_load(capsys.readouterr().out)
    return config


def test_pretrain_trains_with_a_progress_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrain", "--run.root", str(tmp_path), "--run.epochs", "1", "--backbone.width", "4"])
    out = capsys.readouterr().out
    assert "k-NN accuracy" in out
    assert "Epoch 0/0" in out
    assert (tmp_path / "quick-simclr-hex" / "backbone.safetensors").is_file()


def test_without_arguments_it_is_the_quick_recipe_with_hex(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys)
    assert config["loss"]["name"] == "hex"
    assert config["run"]["name"] == "quick-simclr-hex"


def test_overrides_come_after_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("loss: {name: dcl, temperature: 0.3}\nrun: {epochs: 7}\n")
    config = printed_config(capsys, "--config", str(tmp_path / "own.yaml"), "--loss.temperature", "0.7")
    assert (config["loss"]["name"], config["loss"]["temperature"], config["run"]["epochs"]) == ("dcl", 0.7, 7)


def test_threshold_arguments_can_be_dotted(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, "--loss.threshold_arguments.quantile", "0.95")
    assert config["loss"]["threshold_arguments"] == {"quantile": 0.95}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--loss.temprature", "0.2"], 'did you mean "loss.temperature" for "loss.temprature"?'),
        (["--run.epoch", "3"], 'did you mean "run.epochs" for "run.epoch"?'),
        (["--loss.name", "ntxnet"], 'did you mean "ntxent" for "ntxnet"?'),
        (["--config", "nowhere.yaml"], 'but got "nowhere.yaml"'),
        (["--data.batch_size", "5000"], "expected `data.batch_size` to be at most 1437"),
        (["--loss.temperature", "-1"], "temperature"),
        (["--run.epochs", "0"], "expected `run.epochs` to be at least 1, but got 0"),
        (["--loss.threshold", "fixed"], "`loss.threshold_arguments` of fixed"),
        (["--loss.threshold_arguments.quantil", "0.9"], "to be among ['quantile'], but got ['quantil']"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in fails(capsys, "pretrain", "--run.root", str(tmp_path), *arguments)
    assert list(tmp_path.iterdir()) == []


def test_unknown_key_in_a_file_suggests_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("optimizer: {learning_rat: 0.1}\n")
    message = fails(capsys, "pretrain", "--config", str(tmp_path / "own.yaml"))
    assert 'did you mean "optimizer.learning_rate" for "optimizer.learning_rat"?' in message


def test_existing_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    message = fails(capsys, "pretrain", "--run.root", str(tmp_path), "--run.name", "taken")
    assert "to be new or empty, but it is not" in message
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_no_suggestion_where_nothing_is_near() -> None:
    assert suggest("Option 'zzz' is not accepted") == ""
