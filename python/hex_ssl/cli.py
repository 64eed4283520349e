"""The command line: `hex-ssl pretrain` and `hex-ssl demo`.

Every setting is a key of `hex_ssl.config.Config`: in a YAML file or recipe given as --config, or dotted, such as
--loss.temperature 0.2, after it. Unknown keys and values are errors that suggest the nearest.
"""

import difflib
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Literal, NoReturn, get_args, get_origin

from hex_ssl.config import Config
from hex_ssl.extras import train_extra

with train_extra():
    import yaml
    from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]  # star-exported

    from hex_ssl.recipes import list_recipes, load_recipe

DEFAULT_RECIPE = "quick/simclr_hex"


class _Parser(ArgumentParser):
    """A parser whose errors suggest what was meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        super().error(message + suggest(message), ex)


class _Recipe(ActionConfigFile):
    """--config: a YAML file or a packaged recipe, with what it extends."""

    @staticmethod
    def apply_config(parser: ArgumentParser, cfg: Namespace, dest: str, value: str) -> None:
        try:
            recipe = load_recipe(value)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise TypeError(f"--config: {error}") from error
        ActionConfigFile.apply_config(parser, cfg, dest, yaml.safe_dump(recipe))


def suggest(message: str) -> str:
    """What the keys and values that an error message quotes may have been meant to be.

    Args:
        message: The parser's message.

    Returns:
        Text to put behind it; empty where nothing is near.

    Example:
        >>> suggest("Option 'loss.temprature' is not accepted")
        '; did you mean "loss.temperature" for "loss.temprature"?'
    """
    known = sorted(set(_known_words()))
    quoted = [next(filter(None, found)) for found in re.findall(r"'([\w.]+)'|--([\w.]+)|value: (\S+)", message)]
    for word in quoted:
        near = [] if word in known else difflib.get_close_matches(word, known, n=1, cutoff=0.6)
        if near:
            return f'; did you mean "{near[0]}" for "{word}"?'
    return ""


def _known_words() -> Iterator[str]:
    for group in fields(Config):
        yield group.name
        for setting in fields(group.type):  # type: ignore[arg-type]  # the groups are dataclasses
            yield f"{group.name}.{setting.name}"
            if get_origin(setting.type) is Literal:
                yield from get_args(setting.type)


def build_parser() -> ArgumentParser:
    """The parser of both commands."""
    from hex_ssl.demo import run_demo

    pretrain = _Parser(allow_abbrev=False, description="Pretrains a backbone without labels.")
    pretrain.add_argument(
        "--config",
        action=_Recipe,
        help=f"YAML file, or one of the recipes {', '.join(list_recipes())} (default: {DEFAULT_RECIPE})",
    )
    pretrain.add_class_arguments(Config, as_group=False)
    demo = _Parser(allow_abbrev=False, description="Pretrains on the digits with and without HEX and compares.")
    demo.add_function_arguments(run_demo, as_group=False)
    parser = _Parser(prog="hex-ssl", allow_abbrev=False, description="Self-supervised pretraining with HEX.")
    commands = parser.add_subcommands(required=True)
    commands.add_subcommand("pretrain", pretrain, help="pretrain a backbone")
    commands.add_subcommand("demo", demo, help="pretrain on the digits with and without HEX, and compare")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Runs a command.

    Args:
        arguments: The command line without the program's name; None for this process's.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["pretrain"] and not any(each.split("=")[0] == "--config" for each in arguments):
        arguments = ["pretrain", "--config", DEFAULT_RECIPE, *arguments[1:]]
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if parsed.subcommand == "pretrain":
        _pretrain(parser, parsed)
    else:
        from hex_ssl.demo import run_demo

        run_demo(**parser.instantiate(parsed).demo)


def _pretrain(parser: ArgumentParser, parsed: Namespace) -> None:
    from hex_ssl.callbacks.metrics import read_metrics
    from hex_ssl.pretrain import prepare

    try:
        settings = parser.instantiate(parsed).pretrain
        run = prepare(Config(**{group.name: settings[group.name] for group in fields(Config)}))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    run.train()
    accuracy = read_metrics(run.folder)[-1]["knn_accuracy"]
    print(f"k-NN accuracy {100 * float(accuracy or 0):.1f} % on the test images; everything is in {run.folder}")


if __name__ == "__main__":
    main()
