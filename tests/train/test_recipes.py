"""Recipes and the configuration that they become."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hex_ssl.cli_parser import build_parser
from hex_ssl.config import Config
from hex_ssl.methods import METHODS as BUILT
from hex_ssl.methods import build_method
from hex_ssl.recipes import describe_recipe, list_recipes, load_recipe, parse_yaml

METHODS = ("simclr", "nnclr", "all4one", "barlow_twins", "byol", "mocov2", "vicreg", "simsiam")
FOLDERS = ("quick", "cifar", "paper")


def config_of(name: str) -> dict[str, dict[str, Any]]:
    return Config.from_dict(load_recipe(name)).as_dict()


def flat(nested: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{group}.{key}": value for group, settings in nested.items() for key, value in settings.items()}


def test_each_method_has_a_recipe_of_each_kind_and_one_with_hex() -> None:
    names = [f"{folder}/{method}{hex_}" for folder in FOLDERS for method in METHODS for hex_ in ("", "_hex")]
    assert list_recipes() == sorted(names)


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_are_valid_and_the_parser_reads_the_same(name: str) -> None:
    parsed = build_parser().parse_args(["pretrain", "--recipe", name]).pretrain.as_dict()
    config = config_of(name)
    # The parser also checks the type of each value.
    assert {group: parsed[group] for group in config} == config
    method = config["method"]["name"]
    assert (name.split("/")[1].removesuffix("_hex"), name.endswith("_hex")) == (method, config["loss"]["hex"] != "off")
    assert config["run"]["name"] == name.replace("/", "-").replace("_", "-")
    assert describe_recipe(name).endswith((".", "`"))


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("method", METHODS)
def test_hex_recipe_says_only_what_differs(folder: str, method: str) -> None:
    plain, with_hex = (flat(config_of(f"{folder}/{method}{hex_}")) for hex_ in ("", "_hex"))
    different = {key for key in plain if plain[key] != with_hex[key]}
    assert different == {"loss.hex", "run.name"} | (set() if folder == "quick" else {"loss.warmup_epochs"})
    assert with_hex["loss.hex"] == "adaptive"


@pytest.mark.parametrize("name", [name for name in list_recipes() if "/simsiam" in name or "/all4one" in name])
def test_recipes_build_their_method(name: str) -> None:
    config = Config.from_dict(load_recipe(name))
    small = replace(config.method, queue_size=64) if config.method.queue_size else config.method
    method = build_method(replace(config, method=small), channels=3, image_size=32)
    assert type(method) is BUILT[config.method.name]


# Table 6 of the supplement: hidden, output, predictor, queue, temperature, optimizer, learning rate, decay.
TABLE_6 = {
    "simclr": (2048, 128, None, None, 0.1, "lars", 0.4, 1e-5),
    "nnclr": (2048, 256, 4096, 98304, 0.2, "lars", 1.0, 1e-5),
    "all4one": (2048, 256, 4096, 98304, 0.2, "lars", 1.0, 1e-5),
    "barlow_twins": (2048, 2048, None, None, None, "lars", 0.3, 1e-4),
    "byol": (4096, 256, 4096, None, None, "lars", 1.0, 1e-5),
    "mocov2": (2048, 256, None, 65536, 0.2, "sgd", 0.3, 1e-4),
    "vicreg": (2048, 2048, None, None, None, "lars", 0.3, 1e-4),
    "simsiam": (2048, 2048, 512, None, None, "sgd", 0.5, 1e-5),
}


@pytest.mark.parametrize("method", METHODS)
def test_paper_recipes_are_table_6(method: str) -> None:
    config = Config.from_dict(load_recipe(f"paper/{method}"))
    heads = (config.method.hidden_dim, config.method.output_dim, config.method.predictor_dim, config.method.queue_size)
    temperature = config.loss.temperature if TABLE_6[method][4] else None
    optimizer = (config.optimizer.name, config.optimizer.learning_rate, config.optimizer.weight_decay)
    assert (*heads, temperature, *optimizer) == TABLE_6[method]
    assert (config.backbone.name, config.data.batch_size) == ("resnet50", 256)


def test_off_is_a_word_in_recipes_and_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("loss: {hex: off}\nrun: {name: no, sync_batchnorm: false}\n")
    assert load_recipe(tmp_path / "own.yaml") == {
        "loss": {"hex": "off"},
        "run": {"name": "no", "sync_batchnorm": False},
    }
    for arguments in (["--recipe", str(tmp_path / "own.yaml")], ["--loss", "{hex: off}"], ["--loss.hex", "off"]):
        assert build_parser().parse_args(["pretrain", *arguments]).pretrain.loss.hex == "off"
    assert Config.from_dict(parse_yaml(yaml.safe_dump(Config().as_dict()))) == Config()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("-2.5E+3", -2500.0), (".5", 0.5), ("3", 3), ("true", True), ("on", "on"), ("null", None)],
)
def test_yaml_of_recipes(text: str, value: object) -> None:
    found = parse_yaml(f"key: {text}")["key"]
    assert (found, type(found)) == (value, type(value))


def test_extends_merges_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("loss: {hex: fixed, temperature: 0.2}\nrun: {epochs: 3}\n")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\nloss: {temperature: 0.5}\n")
    assert load_recipe(tmp_path / "own.yaml") == {"loss": {"hex": "fixed", "temperature": 0.5}, "run": {"epochs": 3}}


def test_file_elsewhere_extends_packaged_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("extends: quick/simclr_hex\nloss: {temperature: 0.5}\n")
    expected = load_recipe("quick/simclr_hex")
    expected["loss"] = {**expected["loss"], "temperature": 0.5}
    assert load_recipe(own) == expected
    (tmp_path / "own2.yaml").write_text("extends: ~/own.yaml\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_recipe("~/own2.yaml") == expected
    own.write_text("extends: quick/simclear\n")
    with pytest.raises(FileNotFoundError, match=rf'`extends` in {own}: .* but got "quick/simclear"; did you mean'):
        load_recipe(own)


def test_file_beside_comes_before_a_packaged_recipe(tmp_path: Path) -> None:
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "simclr").write_text("run: {epochs: 3}\n")
    (tmp_path / "own.yaml").write_text("extends: quick/simclr\n")
    assert load_recipe(tmp_path / "own.yaml") == {"run": {"epochs": 3}}


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("loss: {hex: adaptive}\nrun: {epochs: 3}\nloss: {temperature: 0.2}\n", "loss", (1, 3)),
        ("loss:\n  hex: adaptive\n  temperature: 0.2\n  'hex': off\n", "loss.hex", (2, 4)),
        ("loss: {threshold_arguments: {value: 1,\n value: 2}}\n", "loss.threshold_arguments.value", (1, 2)),
        ("run:\n  loggers:\n  - {a: 1}\n  - {b: 1, b: 1}\n", "run.loggers.b", (4, 4)),
    ],
)
def test_key_given_twice_is_an_error(text: str, key: str, lines: tuple[int, int], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    (tmp_path / "other.yaml").write_text("extends: own.yaml\n")
    message = f"but got YAMLError: the key `{key}` twice, in line {lines[0]} and in line {lines[1]}"
    for path in (own, tmp_path / "other.yaml"):
        with pytest.raises(ValueError, match=rf"^expected {own} to be one of the recipes, {re.escape(message)}$"):
            load_recipe(path)


def test_merged_key_is_not_given_twice(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("a: &a {epochs: 3, seed: 1}\nrun: {<<: *a, epochs: 5}\n")
    assert load_recipe(tmp_path / "own.yaml")["run"] == {"epochs": 5, "seed": 1}


def test_recipe_that_extends_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ValueError, match="extends itself"):
        load_recipe(tmp_path / "a.yaml")


def test_recipe_must_be_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="to hold a mapping, but got list"):
        load_recipe(tmp_path / "list.yaml")


def test_unknown_recipe_lists_the_choices() -> None:
    message = 'one of the recipes cifar/all4one, .*, but got "quick/simclear"; did you mean "quick/simclr"?'
    with pytest.raises(FileNotFoundError, match=message):
        load_recipe("quick/simclear")


def test_unknown_settings_are_errors() -> None:
    with pytest.raises(ValueError, match='got losses, loss.temprature; did you mean "loss" for "losses"?'):
        Config.from_dict({"losses": {}, "loss": {"temprature": 1}})


@pytest.mark.parametrize(
    ("group", "setting", "value", "lowest"),
    [("run", "epochs", 0, 1), ("data", "batch_size", 1, 2), ("optimizer", "learning_rate", float("nan"), 0.0)],
)
def test_numbers_out_of_range_are_errors(group: str, setting: str, value: float, lowest: float) -> None:
    with pytest.raises(ValueError, match=f"expected `{group}.{setting}` to be at least {lowest}, but got {value}"):
        Config.from_dict({group: {setting: value}})


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"virtual_batch_size": 300}, "to be a multiple of `data.batch_size` (256), but got 300"),
        ({"virtual_batch_size": 512, "accumulate": 2}, "`run.virtual_batch_size` or `run.accumulate`, but got both"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(run: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Config.from_dict({"run": run})
