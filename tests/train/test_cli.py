"""The command line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hex_ssl
from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.cli import main
from hex_ssl.train.config import Config
from hex_ssl.train.methods import METHODS
from hex_ssl.train.recipes import load_recipe
from hex_ssl.train.run_folder import read_config


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


def test_pretrain_trains_and_shows_its_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrain", "--run.root", str(tmp_path), "--run.epochs", "1", "--backbone.width", "4"])
    out = capsys.readouterr().out
    assert out.startswith("digits: train 1,437 images, all labelled, 10 classes; test 360 images, all labelled\n")
    assert re.search(r"k-NN accuracy \d+\.\d %, classifier accuracy \d+\.\d %, on the test images; everything is", out)
    assert "epoch 1/1  loss " in out
    assert (tmp_path / "quick-simclr-hex" / "backbone.safetensors").is_file()


MARGIN = ("--loss.hex", "margin", "--loss.threshold_arguments.margin", "-0.1")


@pytest.mark.parametrize(
    ("options", "threshold_arguments"),
    [
        (MARGIN, {"margin": -0.1}),
        ((*MARGIN, "--loss.formulation", "elimination"), {"margin": -0.1}),
        (
            (*MARGIN, "--loss.threshold_arguments.relative", "true", "--loss.formulation", "elimination"),
            {"margin": -0.1, "relative": True},
        ),
        (("--loss.hex", "supervised", "--loss.formulation", "elimination"), {}),
        (("--loss.formulation", "elimination", "--loss.threshold_arguments.quantile", "0.9"), {"quantile": 0.9}),
    ],
    ids=["margin", "elimination by a margin", "by a relative one", "by labels", "by the adaptive threshold"],
)
def test_pretrain_with_false_negatives(
    options: tuple[str, ...], threshold_arguments: dict[str, object], tmp_path: Path
) -> None:
    short = ["--backbone.width", "4", "--data.fraction", "0.2", "--data.batch_size", "128", "--run.epochs", "1"]
    main(["pretrain", "--run.root", str(tmp_path), *short, "--run.progress", "false", *options])
    loss = read_config(tmp_path / "quick-simclr-hex").loss
    assert loss.threshold_arguments == threshold_arguments
    assert loss.formulation == ("elimination" if "elimination" in options else "importance")
    last = read_metrics(tmp_path / "quick-simclr-hex")[-1]
    assert last["hierarchical_negatives"] > 0
    assert (last["threshold"] == pytest.approx(-0.1)) == ("margin" in options)


def test_without_arguments_it_is_the_quick_recipe_with_hex(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys)
    assert config["loss"]["hex"] == "adaptive"
    assert config["run"]["name"] == "quick-simclr-hex"


def test_overrides_come_after_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("loss: {base: dcl, temperature: 0.3}\nrun: {epochs: 7}\n")
    config = printed_config(capsys, "--config", str(tmp_path / "own.yaml"), "--loss.temperature", "0.7")
    assert (config["loss"]["base"], config["loss"]["temperature"], config["run"]["epochs"]) == ("dcl", 0.7, 7)


def test_settings_of_a_method_in_a_separate_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "method.yaml").write_text("{name: nnclr, queue_size: 32}\n")
    method = printed_config(capsys, "--method", str(tmp_path / "method.yaml"))["method"]
    assert (method["name"], method["queue_size"], method["predictor_dim"]) == ("nnclr", 32, 4096)


@pytest.mark.parametrize("option", ["--recipe", "--config"])
def test_recipe_and_config_are_the_same_option(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, option, "cifar/vicreg", "--run.epochs=3")
    assert (config["method"]["name"], config["run"]["epochs"], config["loss"]["hex"]) == ("vicreg", 3, "off")


def test_printed_configuration_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--recipe", "paper/byol", "--print_config"])
    (tmp_path / "whole.yaml").write_text(capsys.readouterr().out)
    assert printed_config(capsys, "--recipe", str(tmp_path / "whole.yaml")) == printed_config(
        capsys, "--recipe", "paper/byol"
    )


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 50
    assert "quick/simclr_hex        SimCLR with HEX: the loss differs, nothing else." in lines
    main(["recipes", "quick/simclr_hex"])
    assert yaml.safe_load(capsys.readouterr().out) == load_recipe("quick/simclr_hex")
    assert 'did you mean "quick/simclr"?' in fails(capsys, "recipes", "quick/simclear")


def test_datasets_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["datasets"])
    assert "cifar100" in capsys.readouterr().out
    main(["datasets", "cifar100"])
    assert "100" in capsys.readouterr().out
    assert "cifar100" in fails(capsys, "datasets", "cifar-100")


def test_help_has_one_line_for_each_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    described = dict(re.findall(r"^ {4}([a-z]+) +(\S.*)$", capsys.readouterr().out, re.MULTILINE))
    assert described["reproduce"].startswith("runs an experiment of the paper")
    assert {"pretrain", "knn", "analyze", "report", "demo"} <= described.keys()
    assert len(set(described.values())) == len(described)


def test_threshold_arguments_can_be_dotted(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(capsys, "--loss.threshold_arguments.quantile", "0.95")
    assert config["loss"]["threshold_arguments"] == {"quantile": 0.95}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--loss.temprature", "0.2"], 'did you mean "loss.temperature" for "loss.temprature"?'),
        (["--run.epoch", "3"], 'did you mean "run.epochs" for "run.epoch"?'),
        (["--loss.hex", "adaptiv"], 'did you mean "adaptive" for "adaptiv"?'),
        (["--method.name", "simclar"], 'did you mean "simclr" for "simclar"?'),
        (["--method", "simclr"], "expected `method` to be settings, such as `method.name`, but got 'simclr'"),
        (["--epochs", "3"], 'did you mean "run.epochs" for "epochs"?'),
        (["--lr=3"], 'did you mean "optimizer.learning_rate" for "lr"?'),
        (["--batch-size", "3"], 'did you mean "data.batch_size" for "batch-size"?'),
        (["--root", "x"], 'did you mean "data.root" or "run.root" for "root"?'),
        (["--foo", "3"], "error: unrecognized arguments: --foo 3\ntip"),
        (["cifar/simclr"], 'did you mean "--recipe cifar/simclr"?'),
        (["--run.epochs", "x"], "expected `run.epochs` to be a whole number, but got x\ntip"),
        (
            ["--run.loggers", "foo"],
            'expected `run.loggers` to be a list, each one of "tensorboard", "wandb", but got foo',
        ),
        (["--run.accelerator", "tpu"], "but got `run.accelerator` tpu, `run.devices` 1, "),
        (["--backbone.name", "timm/vit_tiny_patch16_224"], "to be a network for images [1, 1, 8, 8]"),
        (["--data.root", "$NOWHERE_AT_ALL/x"], "expected `data.root` to name environment variables that are set"),
        (["--run.profiler", "simpel"], 'did you mean "simple" for "simpel"?'),
        (["--config", "nowhere.yaml"], "but there is no file nowhere.yaml"),
        (["--recipe", "quick/simclrhex"], 'did you mean "quick/simclr_hex"?'),
        (["--backbone.name", "resnet19"], 'did you mean "resnet18"?'),
        (["--data.batch_size", "5000"], "expected `data.batch_size` to be at most 1437"),
        (["--loss.temperature", "-1"], "temperature"),
        (["--run.epochs", "0"], "expected `run.epochs` to be at least 1, but got 0"),
        (["--run.virtual_batch_size", "300"], "to be a multiple of `data.batch_size` (256), but got 300"),
        (["--loss.hex", "fixed"], "`loss.threshold_arguments` of fixed"),
        (["--loss.threshold_arguments.quantil", "0.9"], "to be among ['quantile'], but got ['quantil']"),
        (
            ["--method.queue_size", "64"],
            "expected settings of simclr, hidden_dim, output_dim, but got `method.queue_size`",
        ),
        (["--method.output_dims=9"], 'but got `method.output_dims`; did you mean "method.output_dim" for "method.outp'),
        (["--method.output_dim", "x"], "expected `method.output_dim` to be a whole number, but got x"),
        (["--method.output_dim", "0"], "expected `method.output_dim` to be at least 1, but got 0"),
        (["--method", "{name: byol}", "--method.lamb", "1"], "momentum, final_momentum, but got `method.lamb`"),
        (
            ["--recipe", "quick/nnclr", "--method.name", "simclr"],
            "--recipe quick/nnclr: expected settings of simclr, hidden_dim, output_dim, but got `method.predictor_dim`",
        ),
        (["--run.accelerator", "abacus"], "abacus"),
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
    assert len(message.splitlines()) < 10  # no usage of 70 settings around it
    assert 'did you mean "optimizer.learning_rate" for "optimizer.learning_rat"?' in message


def test_existing_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    message = fails(capsys, "pretrain", "--run.root", str(tmp_path), "--run.name", "taken")
    assert "to be new or empty, but it is not" in message
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pretrian"], 'did you mean "pretrain" for "pretrian"?\ntip: `hex-ssl --help` lists all commands'),
        ([], "error: expected a command, but got none\ntip: `hex-ssl --help` lists all commands"),
        (
            ["knn"],
            "expected a run folder: write hex-ssl knn runs/NAME\ntip: `hex-ssl knn --help` lists all settings of knn",
        ),
        (["probe", "x", "--solver", "sgdd"], 'expected `solver` to be one of "logistic", "sgd", but got sgdd; did you'),
        (["knn", "x", "--lr", "1"], "error: unrecognized arguments: --lr 1\ntip"),
        (["probe", "x", "--lr", "1"], 'did you mean "learning_rate" for "lr"?'),
        (
            ["pretrain", "--recipe", "quick/simclr", "--loss.threshold_arguments.quantile", "0.9"],
            'that `loss.threshold_arguments` are for, such as "adaptive", but got "off"\ntip',
        ),
        (
            ["pretrain", "--recipe", "quick/simclr", "--loss.formulation", "elimination"],
            'to tell which negatives `loss.formulation` "elimination" leaves out, such as "margin", but got "off"\ntip',
        ),
        (
            ["pretrain", "--loss.hex", "margin", "--loss.threshold_arguments.relative", "relative"],
            "`loss.threshold_arguments` of margin: expected `relative` to be True or False, but got 'relative'",
        ),
        (["report", "foo"], "but got foo\ntip: `hex-ssl report --help` lists"),
        (["demo", "--seeds", "0"], "expected `seeds` to be at least 1, but got 0\ntip: `hex-ssl demo --help` lists"),
        (["recipes", "quick/foo"], 'but got "quick/foo"\ntip'),
        (
            ["knn", "/nowhere", "--device", "abacus"],
            'expected `device` to be one that this machine has, but got "abacus"',
        ),
        (["analyze", "--features", "/etc/hostname", "--output", "/nowhere"], "to be a .npy file of numbers"),
        (["reproduce", "/"], "expected a YAML file or one of the experiments, but / is no file"),
    ],
)
def test_mistakes_in_other_commands(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in fails(capsys, *arguments)


@pytest.mark.parametrize("name", [None, *METHODS])
def test_help_of_pretrain_lists_all_settings_of_the_method(
    name: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", *(() if name is None else ("--method.name", name)), "--help"])
    listed = set(re.findall(r"^ +--(\w+\.\w+) ", capsys.readouterr().out, re.MULTILINE))
    settings = Config(method=METHODS[name or "simclr"]()).as_dict()
    assert listed == {f"{group}.{setting}" for group in settings for setting in settings[group]}


def test_recipe_with_a_key_twice_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("loss:\n  hex: adaptive\nloss:\n  temperature: 0.2\n")
    line, _ = fails(capsys, "pretrain", "--recipe", str(own)).splitlines()
    assert line.endswith("the key `loss` twice, in line 1 and in line 3")
    assert str(own) in line


def test_wrong_type_in_a_recipe_names_file_and_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("loss: {temperature: warm}\n")
    line, _ = fails(capsys, "pretrain", "--recipe", str(own)).splitlines()
    assert line == f"error: --recipe {own}: expected `loss.temperature` to be a number, but got 'warm'"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["recipes"], ["datasets"], ["pretrain", "--help"]])
def test_commands_that_only_print_do_not_import_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from hex_ssl.train.cli import main
try:
    main({arguments})
except SystemExit as exit_:
    assert exit_.code == 0
heavy = "torch numpy lightning torchvision torchmetrics timm sklearn scipy umap matplotlib PIL pyarrow".split()
print(*[name for name in heavy if name in sys.modules], file=sys.stderr)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert finished.stderr.split() == []
    assert finished.stdout


def test_version_prints_the_installed_versions(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert re.fullmatch(rf"hex-ssl {hex_ssl.__version__}, torch 2\.\S+, Python 3\.\S+\n", capsys.readouterr().out)


def test_closed_pipe_gives_no_traceback() -> None:
    code = "from hex_ssl.train.cli import main; main(['recipes'])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
