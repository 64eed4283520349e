"""Recipes and their configurations."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hex_ssl.train.backbones import build_backbone, feature_dim
from hex_ssl.train.cli_parser import build_parser
from hex_ssl.train.config import Config, LossConfig
from hex_ssl.train.data import PretrainData
from hex_ssl.train.methods import METHODS, build_hex_loss, build_method, method_class
from hex_ssl.train.recipes import describe_recipe, list_recipes, load_recipe, parse_yaml

FOLDERS = ("quick", "cifar", "paper")
PLAIN = [*(f"{folder}/{method}" for folder in FOLDERS for method in METHODS), "paper/nnclr_vit"]
"""The recipes without HEX."""


def config_of(name: str) -> dict[str, dict[str, Any]]:
    return Config.from_dict(load_recipe(name)).as_dict()


def parsed_by_command(*arguments: str) -> Any:
    command = ["pretrain", *arguments]
    return build_parser(command).parse_args(command).pretrain


def flat(nested: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{group}.{key}": value for group, settings in nested.items() for key, value in settings.items()}


def test_each_method_has_a_recipe_of_each_kind_and_one_with_hex() -> None:
    assert list_recipes() == sorted(f"{name}{hex_}" for name in PLAIN for hex_ in ("", "_hex"))


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_are_valid_and_the_parser_reads_the_same(name: str) -> None:
    parsed = parsed_by_command("--recipe", name).as_dict()
    config = config_of(name)
    # The parser also checks the type of each value.
    assert {group: parsed[group] for group in config} == config
    method = config["method"]["name"]
    assert name.split("/")[1].removesuffix("_hex").removesuffix("_vit") == method
    assert name.endswith("_hex") == (config["loss"]["hex"] != "off")
    assert config["run"]["name"] == name.replace("/", "-").replace("_", "-")
    assert describe_recipe(name).endswith((".", "`"))


@pytest.mark.parametrize("name", PLAIN)
def test_hex_recipe_contains_only_differences(name: str) -> None:
    plain, with_hex = (flat(config_of(f"{name}{hex_}")) for hex_ in ("", "_hex"))
    different = {key for key in plain if plain[key] != with_hex[key]}
    warmup = set() if name.startswith("quick/") else {"loss.warmup_epochs"}
    assert different == {"loss.hex", "run.name"} | warmup
    assert with_hex["loss.hex"] == "adaptive"


def test_no_recipe_sets_the_image_size_of_another_dataset() -> None:
    configs = {name: Config.from_dict(load_recipe(name)) for name in list_recipes()}
    assert {name for name, config in configs.items() if config.data.image_size is not None} == set()
    quick = configs["quick/simclr"].data
    assert PretrainData(quick, seed=0).image_size == 8  # of the digits
    assert PretrainData(replace(quick, name="hierarchy"), seed=0).image_size == 32


@pytest.mark.parametrize("name", [name for name in list_recipes() if "/simsiam" in name or "/all4one" in name])
def test_recipes_build_their_method(name: str) -> None:
    config = Config.from_dict(load_recipe(name))
    small = replace(config.method, queue_size=64) if hasattr(config.method, "queue_size") else config.method
    method = build_method(replace(config, method=small), channels=3, image_size=32)
    assert type(method) is method_class(config.method.name)


# Table 6 of the supplement: projection, method specific parameters, temperature, optimizer, learning rate, decay.
# The temperature of SimSiam is HEX's: its own loss has none. "N/A" leaves HEX's to its default.
TABLE_6: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_dim": 2048, "output_dim": 128}
    | {"temperature": 0.1, "name": "lars", "learning_rate": 0.4, "weight_decay": 1e-5},
    "nnclr": {"hidden_dim": 2048, "predictor_dim": 4096, "output_dim": 256, "queue_size": 98304}
    | {"temperature": 0.2, "name": "lars", "learning_rate": 1.0, "weight_decay": 1e-5},
    "all4one": {"hidden_dim": 2048, "predictor_dim": 4096, "output_dim": 256, "queue_size": 98304, "momentum": 0.99}
    | {"temperature": 0.2, "name": "lars", "learning_rate": 1.0, "weight_decay": 1e-5},
    "barlow_twins": {"hidden_dim": 2048, "output_dim": 2048, "scale": 0.1}
    | {"name": "lars", "learning_rate": 0.3, "weight_decay": 1e-4},
    "byol": {"hidden_dim": 4096, "output_dim": 256, "predictor_dim": 4096, "momentum": 0.99}
    | {"name": "lars", "learning_rate": 1.0, "weight_decay": 1e-5},
    "mocov2": {"hidden_dim": 2048, "output_dim": 256, "queue_size": 65536, "momentum": 0.99}
    | {"temperature": 0.2, "name": "sgd", "learning_rate": 0.3, "weight_decay": 1e-4},
    "vicreg": {"hidden_dim": 2048, "output_dim": 2048, "sim_weight": 25.0, "var_weight": 25.0, "cov_weight": 1.0}
    | {"name": "lars", "learning_rate": 0.3, "weight_decay": 1e-4},
    "simsiam": {"hidden_dim": 2048, "output_dim": 2048, "predictor_dim": 512}
    | {"temperature": 0.2, "name": "sgd", "learning_rate": 0.5, "weight_decay": 1e-5},
}
IN_TABLE_6 = {
    "method": {"hidden_dim", "output_dim", "predictor_dim", "queue_size", "momentum", "scale"}
    | {"sim_weight", "var_weight", "cov_weight"},
    "optimizer": {"name", "learning_rate", "weight_decay"},
}


@pytest.mark.parametrize("hex_", ["", "_hex"])
@pytest.mark.parametrize("method", METHODS)
def test_paper_recipes_are_table_6(method: str, hex_: str) -> None:
    config = config_of(f"paper/{method}{hex_}")
    found = {key: config[group][key] for group, keys in IN_TABLE_6.items() for key in keys if key in config[group]}
    found["temperature"] = config["loss"]["temperature"]
    default = {"temperature": LossConfig().temperature}
    assert found == default | TABLE_6[method]
    assert (config["backbone"]["name"], config["data"]["batch_size"]) == ("resnet50", 256)


def test_vision_transformer_of_the_paper_has_the_sizes_of_section_7_3_3() -> None:
    resnet, vit = (flat(config_of(f"paper/{name}")) for name in ("nnclr", "nnclr_vit"))
    different = {key for key in resnet if resnet[key] != vit[key]}
    assert different == {"backbone.name", "backbone.arguments", "run.name"}
    backbone: Any = build_backbone(Config.from_dict(load_recipe("paper/nnclr_vit")).backbone, 3, 32)
    assert (backbone.embed_dim, len(backbone.blocks)) == (512, 8)
    assert {block.attn.num_heads for block in backbone.blocks} == {16}
    assert backbone.patch_embed.patch_size == (4, 4)
    assert feature_dim(backbone, 3, 32) == 512


@pytest.mark.parametrize("formulation", ["importance", "official", "decoupled"])
def test_each_formulation_can_be_asked_for_on_the_command_line(formulation: str) -> None:
    asked = ("--recipe", "quick/simclr_hex", "--loss.formulation", formulation)
    loss = build_hex_loss(parsed_by_command(*asked).loss)
    assert loss is not None
    assert loss.formulation == formulation


def test_off_is_a_word_in_recipes_and_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("loss: {hex: off}\nrun: {name: no, sync_batchnorm: false}\n")
    assert load_recipe(tmp_path / "own.yaml") == {
        "loss": {"hex": "off"},
        "run": {"name": "no", "sync_batchnorm": False},
    }
    for arguments in (["--recipe", str(tmp_path / "own.yaml")], ["--loss", "{hex: off}"], ["--loss.hex", "off"]):
        assert parsed_by_command(*arguments).loss.hex == "off"
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


def test_file_in_another_folder_extends_packaged_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_file_in_the_same_folder_has_priority_over_a_packaged_recipe(tmp_path: Path) -> None:
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
    with pytest.raises(FileNotFoundError, match='one of the recipes cifar/all4one, .*, but got "foo"$'):
        load_recipe("foo")
    with pytest.raises(FileNotFoundError, match='recipes, but got "quick/simclear"; did you mean "quick/simclr"?'):
        load_recipe("quick/simclear")
    with pytest.raises(FileNotFoundError, match=r"one of the recipes, but there is no file own\.yaml$"):
        load_recipe("own.yaml")


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
