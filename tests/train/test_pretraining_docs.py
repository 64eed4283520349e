"""docs/pretraining.md names settings and backbones that exist, and shows every quick recipe."""

import re
from dataclasses import fields
from pathlib import Path

from hex_ssl.train.backbones import list_backbones
from hex_ssl.train.config import Config
from hex_ssl.train.methods import METHODS
from hex_ssl.train.recipes import list_recipes

TEXT = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text()
SETTINGS = {f"{group}.{name}" for group, settings in Config().as_dict().items() for name in settings} | {
    f"method.{each.name}" for settings in METHODS.values() for each in fields(settings)
}


def test_each_quick_recipe_is_shown_with_its_output() -> None:
    shown = re.findall(r"--recipe (quick/\w+)\n    k-NN accuracy \d+\.\d %, classifier accuracy \d+\.\d %", TEXT)
    assert sorted(shown) == [name for name in list_recipes() if name.startswith("quick/")]


def test_settings_and_backbones_exist() -> None:
    mentioned = set(re.findall(r"`(?:--)?((?:data|run|loss|method|optimizer|backbone)\.\w+)", TEXT))
    assert mentioned - {"backbone.safetensors", "data.json"} <= SETTINGS
    assert all(f"`{name}`" in TEXT for name in list_backbones())
