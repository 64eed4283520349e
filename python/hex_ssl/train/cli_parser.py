"""The parser of the command line, built from the settings' dataclasses, without torch, so that `--help` is quick."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn, get_origin

from hex_ssl.train.command_settings import AnalyzeConfig, DemoConfig, ExportConfig, ReportConfig
from hex_ssl.train.config import Config, choices, described, types_of, unknown_of_method
from hex_ssl.train.evaluate.settings import COMMANDS
from hex_ssl.train.extras import train_extra
from hex_ssl.train.methods.settings import MethodSettings, SimCLRSettings, UncheckedSettings, settings_class
from hex_ssl.train.reproduce.settings import ReproduceConfig
from hex_ssl.train.suggestions import suggest

with train_extra():
    import yaml
    from jsonargparse import (  # type: ignore[attr-defined]  # star-exported
        ActionConfigFile,
        ArgumentParser,
        Namespace,
        set_loader,
    )

    from hex_ssl.train.recipes import list_recipes, load_recipe, parse_yaml
    from hex_ssl.train.reproduce.experiment import list_experiments

DEFAULT_RECIPE = "quick/simclr_hex"
RECIPE_OPTIONS = ("--recipe", "--config")
REPRODUCE_FLAGS = {
    "list": "only list the rows, and how many of their runs are done",
    "keep_checkpoints": "keep checkpoints and backbone of a run after its evaluation",
}
SETTINGS: dict[str, type[Any]] = {
    "pretrain": Config,
    **COMMANDS,
    "export": ExportConfig,
    "analyze": AnalyzeConfig,
    "report": ReportConfig,
    "reproduce": ReproduceConfig,
    "demo": DemoConfig,
}
"""The settings of each command."""
COMMAND_NAMES = (*SETTINGS, "recipes", "datasets")
UNFIT = re.compile(r'Parser key "([^"]+)":.*?(?:(?:Got|Given) value: |Unable to load config )(.*)', re.DOTALL)
"""jsonargparse's message about a value that does not fit."""

# On the command line `off` is a word, as in recipes.
set_loader("recipe", parse_yaml, exceptions=(yaml.YAMLError,))


class Parser(ArgumentParser):
    """A parser whose errors are one line, suggest what was meant, and name the command that lists the settings."""

    command = ""
    """The command that is parsed; "" before it is known."""

    config: type[Config] = Config
    """The settings of `pretrain`, including those of the method that the command line names."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the program with exit code 2 and a message of the parser."""
        self.fail(self._in_a_line(message))

    def fail(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        prog = " ".join(filter(None, ("hex-ssl", self.command)))
        lists = f"lists all settings of {self.command}" if self.command else "lists all commands"
        self.exit(2, f"error: {message}\ntip: `{prog} --help` {lists}\n")

    def _settings(self) -> type[Any] | None:
        return self.config if self.command == "pretrain" else SETTINGS.get(self.command)

    def _in_a_line(self, message: str) -> str:
        if unfit := UNFIT.search(message):
            key, value = unfit[1], unfit[2].partition("\n")[0].strip()
            annotation = _annotation(self._settings(), key.removeprefix(f"{self.command}."))
            if is_dataclass(annotation):
                names = [f"{key}.{each.name}" for each in fields(annotation)]
                return f"expected `{key}` to be settings, such as `{names[0]}`, but got {value}"
            if annotation is not None:
                expected = f"expected `{key}` to be {described(annotation)}, but got {value}"
                return expected + suggest([value], choices(annotation))
        line = " ".join(message.split())
        if line.startswith("unrecognized arguments:"):
            options = [option.lstrip("-") for action in self._actions for option in action.option_strings]
            recipe = next((each for each in line.split() if each in list_recipes()), None)
            if recipe is not None and "recipe" in options:
                return f'{line}; did you mean "--recipe {recipe}"?'
            given = re.findall(r"--([\w.-]+)", line)
            if given and given[0].startswith("method."):
                return unknown_of_method(self.config().method, given[:1], options)
            return line + suggest(given, options)
        if line.startswith("the following arguments are required:"):
            return f"expected a run folder: write hex-ssl {self.command} runs/NAME"
        if unknown := re.search(r"invalid choice: '([^']*)'", line):
            return line + suggest([unknown[1]], COMMAND_NAMES)
        return line


class _Recipe(ActionConfigFile):
    """--recipe: a YAML file or a packaged recipe, including what it extends."""

    @staticmethod
    def apply_config(parser: ArgumentParser, cfg: Namespace, dest: str, value: str) -> None:
        try:
            recipe = load_recipe(value)
            assert isinstance(parser, Parser)
            parser.config.check(recipe)
        except (OSError, ValueError) as error:
            raise TypeError(f"--recipe {value}: {error}") from error
        ActionConfigFile.apply_config(parser, cfg, dest, yaml.safe_dump(recipe))


def build_parser(arguments: Sequence[str] = ()) -> Parser:
    """Builds the parser of all commands.

    Args:
        arguments: The command line to be parsed. `pretrain` has the settings of the method that the command line or its
            recipe names. A user's own method is imported.

    Raises:
        SystemExit: There is no such method.
    """
    parser = Parser(
        prog="hex-ssl", allow_abbrev=False, parser_mode="recipe", description="Self-supervised pretraining with HEX."
    )
    parser.command = arguments[0] if arguments and arguments[0] in COMMAND_NAMES else ""
    if parser.command == "pretrain":
        try:
            parser.config = Config.of_method(*_method_named(arguments))
        except ValueError as error:
            parser.fail(str(error))
    parser.add_argument("--version", action="store_true", help="show the versions of hex-ssl, torch and Python")
    commands = parser.add_subcommands(required=False)
    for name, command in _commands(parser.config):
        command.command, command.config = name, parser.config
        about = command.description or ""
        commands.add_subcommand(name, command, help=(about[0].lower() + about[1:]).rstrip("."))
    return parser


def _method_named(arguments: Sequence[str]) -> tuple[str, type[MethodSettings]]:
    """The method that a command line names last, and the class of its settings."""
    named, origin = SimCLRSettings.name, ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        value = value if equals else following
        if option == "--method.name":
            named, origin = value, ""
        elif option in (*RECIPE_OPTIONS, "--method"):
            with suppress(OSError, ValueError, yaml.YAMLError):  # the parser reports these later
                found = _mapping(value) if option == "--method" else load_recipe(value).get("method")
                if isinstance(found, dict) and "name" in found:
                    named, origin = found["name"], "" if option == "--method" else f"--recipe {value}: "
    try:
        settings = settings_class(named)
        if settings is UncheckedSettings:
            from hex_ssl.train.methods import method_class

            settings = method_class(named).settings_class
    except ValueError as error:
        raise ValueError(f"{origin}{error}") from error
    return named, settings


def _mapping(value: str) -> Any:
    """A group's settings from the command line: YAML, or the path of a YAML file."""
    found = parse_yaml(value)
    return load_recipe(found) if isinstance(found, str) else found


def _commands(pretraining: type[Config]) -> Iterator[tuple[str, Parser]]:
    """Each command's parser, in the order in which `--help` lists them."""
    pretrain = _parser("Pretrains a backbone without labels.")
    pretrain.add_argument(
        *RECIPE_OPTIONS,
        action=_Recipe,
        help=f"YAML file, or a recipe that `hex-ssl recipes` lists (default: {DEFAULT_RECIPE})",
    )
    pretrain.add_class_arguments(pretraining, as_group=False)
    yield "pretrain", pretrain
    for name, config in COMMANDS.items():
        evaluation = _parser(_summary(config))
        evaluation.add_class_arguments(config, as_group=False, as_positional=True)
        yield name, evaluation
    export = _parser(_summary(ExportConfig))
    export.add_class_arguments(ExportConfig, as_group=False, as_positional=True)
    yield "export", export
    analyze = _parser(_summary(AnalyzeConfig))
    analyze.add_argument("run", nargs="?", help="run folder")
    analyze.add_class_arguments(AnalyzeConfig, as_group=False, skip={"run"})
    yield "analyze", analyze
    report = _parser(_summary(ReportConfig))
    report.add_argument("runs", nargs="+", help="run folder")
    report.add_class_arguments(ReportConfig, as_group=False, skip={"runs"})
    yield "report", report
    reproduce = _parser(_summary(ReproduceConfig))
    reproduce.add_argument("experiment", nargs="?", help=f"one of {', '.join(list_experiments())}, or a YAML file")
    reproduce.add_class_arguments(ReproduceConfig, as_group=False, skip={"experiment", *REPRODUCE_FLAGS})
    for flag, help_ in REPRODUCE_FLAGS.items():
        reproduce.add_argument(f"--{flag}", action="store_true", help=help_)
    yield "reproduce", reproduce
    recipes = _parser("Lists the recipes, or shows all settings of one.")
    recipes.add_argument("name", nargs="?", help="a recipe or a YAML file")
    yield "recipes", recipes
    datasets = _parser("Lists the datasets, or shows all about one.")
    datasets.add_argument("name", nargs="?", help="a dataset")
    yield "datasets", datasets
    demo = _parser(_summary(DemoConfig))
    demo.add_class_arguments(DemoConfig, as_group=False)
    yield "demo", demo


def _parser(description: str) -> Parser:
    return Parser(allow_abbrev=False, parser_mode="recipe", description=description)


def _summary(config: type[Any]) -> str:
    """The first line of the docstring of a command's settings."""
    return (config.__doc__ or "").partition("\n")[0]


def with_brackets(arguments: list[str]) -> list[str]:
    """Replaces `--k 5,20` by `--k [5,20]`, because the parser takes only the latter for a list."""
    config = SETTINGS.get(arguments[0]) if arguments else None
    options = set() if config is None or config in (Config, ReportConfig) else _list_options(config)
    written = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, _, value = argument.partition("=")
        if before in options and not argument.startswith("["):
            argument = f"[{argument}]"
        elif option in options and value and not value.startswith("["):
            argument = f"{option}=[{value}]"
        written.append(argument)
    return written


def _list_options(config: type[Any], prefix: str = "--") -> set[str]:
    """The options that are lists, including those of nested groups."""
    found = {f"{prefix}{each.name}" for each in fields(config) if get_origin(each.type) is list}
    groups = {each.name: each.type for each in fields(config) if is_dataclass(each.type)}
    return found.union(*(_list_options(group, f"{prefix}{name}.") for name, group in groups.items()))  # type: ignore[arg-type]


def _annotation(config: Any, key: str) -> Any:
    """The type of a setting by its dotted name; None if there is no such setting, or if it is a group."""
    name, _, rest = key.partition(".")
    annotation = types_of(config).get(name) if config else None
    return _annotation(annotation, rest) if is_dataclass(annotation) and rest else annotation
