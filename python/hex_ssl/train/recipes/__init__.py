"""Recipes: YAML files that configure a run.

With `extends: OTHER.yaml` (a path relative to the file) or `extends: quick/simclr_hex` (a packaged recipe), a recipe
states only what differs from another.
"""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from hex_ssl.train.bounded_yaml import BoundedLoader, load_yaml
from hex_ssl.train.paths import expand_path
from hex_ssl.train.reading import reading
from hex_ssl.train.suggestions import nearest

_FOLDER = Path(str(files(__name__)))


class _Loader(BoundedLoader):
    """YAML 1.1 with two rules of YAML 1.2: `off`, `no` and the like are words, and 1e-3 is a number."""


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
    """Loads YAML by the rules of recipes: `off`, `on`, `yes` and `no` are words.

    Raises:
        yaml.YAMLError: See `hex_ssl.train.bounded_yaml.load_yaml`.

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
    return list_packaged(_FOLDER)


def list_packaged(folder: Path) -> list[str]:
    """The names of the YAML files in a folder of the package and below it."""
    # A name that begins with an underscore is a base for other files, and not listed.
    paths = [path for path in folder.rglob("*.yaml") if not path.name.startswith("_")]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in paths)


def load_recipe(name: str | Path) -> dict[str, Any]:
    """Loads a recipe as nested dictionaries, including what it extends.

    Args:
        name: A YAML file, or the name of a packaged recipe.

    Returns:
        The configuration, not validated.

    Raises:
        FileNotFoundError: There is no such file and no such recipe.
        ValueError: The file is not YAML, gives a key twice, does not hold a mapping, or extends itself.

    Example:
        >>> load_recipe("quick/simclr_hex")["loss"]["hex"]
        'adaptive'
    """
    return load_extended(find_packaged(name, _FOLDER, "recipes"), _FOLDER, "recipes")


def describe_recipe(name: str) -> str:
    """The description of a packaged recipe: the comment at its top.

    Example:
        >>> describe_recipe("quick/simclr_hex")
        'SimCLR with HEX: the loss differs, nothing else.'
    """
    lines = find_packaged(name, _FOLDER, "recipes").read_text(encoding="utf-8").splitlines()
    top = []
    for line in lines:
        if not line.startswith("#"):
            break
        top.append(line.removeprefix("#").strip())
    return " ".join(top)


def find_packaged(name: str | Path, folder: Path, kind: str) -> Path:
    """Finds a YAML file by its path, or by its name in a folder of the package.

    Args:
        name: The path, `~` and variables replaced, or the name.
        folder: The package's folder.
        kind: Name of what the folder holds, for the error.

    Raises:
        FileNotFoundError: There is no such file and no such name. The message suggests the nearest name, or lists all.
    """
    path = Path(expand_path(kind, str(name)))
    packaged = folder / f"{name}.yaml"
    for each in (path, packaged):
        if each.is_file():
            return each
    if path.exists():
        raise ValueError(f"expected a YAML file or one of the {kind}, but {path} is no file")
    known = list_packaged(folder)
    if near := nearest(str(name), known):
        raise FileNotFoundError(
            f'expected a YAML file or one of the {kind}, but got "{name}"; did you mean "{near[0]}"?'
        )
    if path.suffix:
        raise FileNotFoundError(f"expected a YAML file or one of the {kind}, but there is no file {path}")
    raise FileNotFoundError(f'expected a YAML file or one of the {kind} {", ".join(known)}, but got "{name}"')


def load_extended(path: Path, folder: Path, kind: str, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Loads the mapping that a YAML file holds, including what it extends.

    Args:
        path: The file.
        folder, kind: As for `find_packaged`, to find what it extends.
        extending: The files that extend it.

    Raises:
        FileNotFoundError: A file extends another that does not exist.
        ValueError: See `load_recipe`.
    """
    path = path.resolve()
    if path in extending:
        raise ValueError(f"{path} extends itself")
    with reading(path, f"to be one of the {kind}"):
        text = parse_yaml(path.read_text(encoding="utf-8"))
    found = {} if text is None else text
    if not isinstance(found, dict):
        raise ValueError(f"expected {path} to hold a mapping, but got {type(found).__name__}")
    base = found.pop("extends", None)
    if base is None:
        return found
    if not isinstance(base, str):
        raise ValueError(f"expected `extends` in {path} to be a file or a name, but got {type(base).__name__}")
    extended = path.parent / expand_path("extends", base)
    if not extended.is_file():
        try:
            extended = find_packaged(base, folder, kind)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"`extends` in {path}: {error}") from error
    return merged(load_extended(extended, folder, kind, (*extending, path)), found)


def merged(base: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """Merges changes into nested settings. Later changes win, and no argument is modified.

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
