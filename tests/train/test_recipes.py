"""Recipes and the configuration that they become."""

from pathlib import Path

import pytest

from hex_ssl.config import Config
from hex_ssl.recipes import list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_are_valid(name: str) -> None:
    Config.from_dict(load_recipe(name))


def test_hex_recipe_differs_in_the_loss_and_the_name_alone() -> None:
    plain, with_hex = (Config.from_dict(load_recipe(f"quick/{name}")).as_dict() for name in ("simclr", "simclr_hex"))
    different = {
        f"{group}.{key}" for group in plain for key in plain[group] if plain[group][key] != with_hex[group][key]
    }
    assert different == {"loss.name", "run.name"}


def test_extends_merges_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("loss: {name: hex, temperature: 0.2}\nrun: {epochs: 3}\n")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\nloss: {temperature: 0.5}\n")
    assert load_recipe(tmp_path / "own.yaml") == {"loss": {"name": "hex", "temperature": 0.5}, "run": {"epochs": 3}}


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
    with pytest.raises(FileNotFoundError, match="one of the recipes quick/simclr, quick/simclr_hex, but got"):
        load_recipe("quick/simclear")


def test_unknown_settings_are_errors() -> None:
    with pytest.raises(ValueError, match="expected settings of a run, but got losses, loss.temprature"):
        Config.from_dict({"losses": {}, "loss": {"temprature": 1}})


@pytest.mark.parametrize(
    ("group", "setting", "value", "lowest"),
    [("run", "epochs", 0, 1), ("data", "batch_size", 1, 2), ("optimizer", "learning_rate", float("nan"), 0.0)],
)
def test_numbers_out_of_range_are_errors(group: str, setting: str, value: float, lowest: float) -> None:
    with pytest.raises(ValueError, match=f"expected `{group}.{setting}` to be at least {lowest}, but got {value}"):
        Config.from_dict({group: {setting: value}})
