"""docs/pretraining.md names recipes, settings and files that exist, and shows each quick recipe."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from hex_ssl.backbones import list_backbones
from hex_ssl.cli import build_parser
from hex_ssl.config import Config
from hex_ssl.recipes import list_recipes

TEXT = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text()
COMMANDS = re.findall(r"^    (?:\$ )?hex-ssl pretrain (.*?)(?:  +#.*| > .*)?$", TEXT, re.MULTILINE)
SETTINGS = {f"{group.name}.{each.name}" for group in fields(Config) for each in fields(group.type)}  # type: ignore[arg-type]


def test_each_quick_recipe_is_shown_with_its_output() -> None:
    shown = re.findall(r"--recipe (quick/\w+)\n    k-NN accuracy \d+\.\d %, classifier accuracy \d+\.\d %", TEXT)
    assert sorted(shown) == [name for name in list_recipes() if name.startswith("quick/")]


@pytest.mark.parametrize("command", [each for each in dict.fromkeys(COMMANDS) if "own.yaml" not in each])
def test_commands_are_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pretrain", *command.replace("--print_config", "").split()]
    if "temprature" in command:
        with pytest.raises(SystemExit):
            build_parser().parse_args(arguments)
        shown = TEXT[TEXT.index(command) :].splitlines()[1:3]
        assert capsys.readouterr().err.splitlines() == [line.strip() for line in shown]
    else:
        build_parser().parse_args(arguments)


def test_settings_and_backbones_exist() -> None:
    mentioned = set(re.findall(r"`(?:--)?((?:data|run|loss|method|optimizer|backbone)\.\w+)", TEXT))
    assert mentioned - {"backbone.safetensors"} <= SETTINGS
    assert all(f"`{name}`" in TEXT for name in list_backbones())
