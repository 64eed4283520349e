"""Recipes: YAML files that configure a run.

`extends: OTHER.yaml`, a path beside the file, makes a recipe say only what differs from another.
"""

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from hex_ssl.bounded_yaml import BoundedLoader, load_yaml
from hex_ssl.reading import reading

_FOLDER = Path(str(files(__name__)))


class _Loader(BoundedLoader):
    """YAML 1.2 where YAML 1.1 is a trap: `off`, `no` and the like are words, and 1e-3 is a number."""


_BOOLEAN, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOLEAN, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """YAML as recipes have it: `off`, `on`, `yes` and `no` are words.

    Raises:
        yaml.YAMLError: See `hex_ssl.bounded_yaml.load_yaml`.

    Example:
        >>> parse_yaml("{hex: off, sync_batchnorm: true, learning_rate: 1e-3}")
        {'hex': 'off', 'sync_batchnorm': True, 'learning_rate': 0.001}
    """
    return load_yaml(text, _Loader)


def list_recipes() -> list[str]:
    """The names of the packaged recipes.

    Example:
        >>> [name for name in list_recipes() if name.startswith("quick/simclr")]
        ['quick/simclr', 'quick/simclr_hex']
    """
    # What several recipes extend begins with an underscore and is none itself.
    paths = [path for path in _FOLDER.rglob("*.yaml") if not path.name.startswith("_")]
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in paths)


def load_recipe(name: str | Path) -> dict[str, Any]:
    """A recipe as nested dictionaries, what it extends included.

    Args:
        name: A YAML file, or the name of a packaged recipe.

    Returns:
        The configuration, not validated.

    Raises:
        FileNotFoundError: There is neither such a file nor such a recipe.
        ValueError: The file is no YAML, does not hold a mapping, or extends itself.

    Example:
        >>> load_recipe("quick/simclr_hex")["loss"]["hex"]
        'adaptive'
    """
    return _load(_find(name), ())


def describe_recipe(name: str) -> str:
    """What a packaged recipe says of itself: the comment at its top.

    Example:
        >>> describe_recipe("quick/simclr_hex")
        'SimCLR with HEX: the loss differs, nothing else.'
    """
    lines = _find(name).read_text(encoding="utf-8").splitlines()
    top = []
    for line in lines:
        if not line.startswith("#"):
            break
        top.append(line.removeprefix("#").strip())
    return " ".join(top)


def _find(name: str | Path) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    packaged = _FOLDER / f"{name}.yaml"
    if packaged.is_file():
        return packaged
    near = difflib.get_close_matches(str(name), list_recipes(), n=1)
    meant = f'; did you mean "{near[0]}"?' if near else ""
    raise FileNotFoundError(
        f'expected a YAML file or one of the recipes {", ".join(list_recipes())}, but got "{name}"{meant}'
    )


def _load(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in extending:
        raise ValueError(f"{path} extends itself")
    with reading(path, "to be a recipe"):
        recipe = parse_yaml(path.read_text(encoding="utf-8")) or {}
    if not isinstance(recipe, dict):
        raise ValueError(f"expected {path} to hold a mapping, but got {type(recipe).__name__}")
    base = recipe.pop("extends", None)
    if base is None:
        return recipe
    if not isinstance(base, str):
        raise ValueError(f"expected `extends` in {path} to be a file's name, but got {type(base).__name__}")
    if not (path.parent / base).is_file():
        raise FileNotFoundError(f"expected `extends` in {path} to name a file beside it, but got {base}")
    return merged(_load(path.parent / base, (*extending, path)), recipe)


def merged(base: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with changes to them, of which later ones count more; nothing given is altered.

    Example:
        >>> merged({"run": {"seed": 0, "epochs": 40}}, {"run": {"seed": 1}})
        {'run': {'seed': 1, 'epochs': 40}}
    """
    joined = dict(base)
    for change in changes:
        for key, value in change.items():
            both_nested = isinstance(value, dict) and isinstance(joined.get(key), dict)
            joined[key] = merged(joined[key], value) if both_nested else value
    return joined
