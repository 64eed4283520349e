"""Recipes: YAML files that configure a run.

`extends: OTHER.yaml`, a path beside the file, makes a recipe say only what differs from another.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(str(files(__name__)))


def list_recipes() -> list[str]:
    """The names of the packaged recipes.

    Example:
        >>> list_recipes()
        ['quick/simclr', 'quick/simclr_hex']
    """
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in _FOLDER.rglob("*.yaml"))


def load_recipe(name: str | Path) -> dict[str, Any]:
    """A recipe as nested dictionaries, what it extends included.

    Args:
        name: A YAML file, or the name of a packaged recipe.

    Returns:
        The configuration, not validated.

    Raises:
        FileNotFoundError: There is neither such a file nor such a recipe.
        ValueError: The file does not hold a mapping, or extends itself.

    Example:
        >>> load_recipe("quick/simclr_hex")["loss"]["name"]
        'hex'
    """
    return _load(_find(name), ())


def _find(name: str | Path) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    packaged = _FOLDER / f"{name}.yaml"
    if packaged.is_file():
        return packaged
    raise FileNotFoundError(f'expected a YAML file or one of the recipes {", ".join(list_recipes())}, but got "{name}"')


def _load(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in extending:
        raise ValueError(f"{path} extends itself")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(recipe, dict):
        raise ValueError(f"expected {path} to hold a mapping, but got {type(recipe).__name__}")
    base = recipe.pop("extends", None)
    if base is None:
        return recipe
    return _merged(_load(path.parent / base, (*extending, path)), recipe)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both_nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both_nested else value
    return merged
