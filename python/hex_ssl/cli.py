"""The command line: `hex-ssl pretrain`, `knn`, `probe`, `finetune`, `transfer`, `analyze`, `report`, `reproduce`,
`recipes`, `datasets` and `demo`.

Every setting is a key of `hex_ssl.config.Config`: in a YAML file or recipe given as --recipe, or dotted, such as
--loss.temperature 0.2, after it. Unknown keys and values are errors that suggest the nearest.
"""

import re
import signal
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar, get_origin

from hex_ssl.config import Config, suggest
from hex_ssl.extras import train_extra

with train_extra():
    import yaml
    from jsonargparse import (  # type: ignore[attr-defined]  # star-exported
        ActionConfigFile,
        ArgumentParser,
        Namespace,
        set_loader,
    )

    from hex_ssl.recipes import describe_recipe, list_recipes, load_recipe, parse_yaml
    from hex_ssl.reproduce.experiment import list_experiments, load_experiment
    from hex_ssl.reproduce.settings import ReproduceConfig

Result = TypeVar("Result")

DEFAULT_RECIPE = "quick/simclr_hex"
RECIPE_OPTIONS = ("--recipe", "--config")
REPRODUCE_FLAGS = {
    "list": "only list the rows, and how many of their runs are done",
    "keep_checkpoints": "keep checkpoints and backbone of a run after its evaluation",
}

# On the command line `off` is the word that it is in recipes.
set_loader("recipe", parse_yaml, exceptions=(yaml.YAMLError,))


class _Parser(ArgumentParser):
    """A parser whose errors suggest what was meant, and do not bury it under the usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        self.exit(2, f"error: {message}{_suggestion(message)}\ntip: `{self._command} --help` lists all settings\n")

    @property
    def _command(self) -> str:
        return self.prog.replace(" [options]", "")


class _Recipe(ActionConfigFile):
    """--recipe: a YAML file or a packaged recipe, with what it extends."""

    @staticmethod
    def apply_config(parser: ArgumentParser, cfg: Namespace, dest: str, value: str) -> None:
        try:
            recipe = load_recipe(value)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise TypeError(f"--recipe: {error}") from error
        ActionConfigFile.apply_config(parser, cfg, dest, yaml.safe_dump(recipe))


def _suggestion(message: str) -> str:
    """What the keys and values that a message of the parser quotes may have been meant to be."""
    if "did you mean" in message:
        return ""
    quoted = re.findall(r"'([\w./]+)'|--([\w.]+)|value: (\S+)", message)
    configs = {**_evaluations(), **{name: config for name, (config, _) in _analyses().items()}}
    configs["reproduce"] = ReproduceConfig
    known = [each.name for config in configs.values() for each in fields(config)]
    return suggest(*(next(filter(None, found)) for found in quoted), also=known)


def build_parser() -> ArgumentParser:
    """The parser of all commands."""
    pretrain = _Parser(allow_abbrev=False, parser_mode="recipe", description="Pretrains a backbone without labels.")
    pretrain.add_argument(
        *RECIPE_OPTIONS,
        action=_Recipe,
        help=f"YAML file, or a recipe that `hex-ssl recipes` lists (default: {DEFAULT_RECIPE})",
    )
    pretrain.add_class_arguments(Config, as_group=False)
    recipes = _Parser(allow_abbrev=False, description="Lists the recipes, or shows all that one says.")
    recipes.add_argument("name", nargs="?", help="a recipe or a YAML file")
    datasets = _Parser(allow_abbrev=False, description="Lists the datasets, or shows all about one.")
    datasets.add_argument("name", nargs="?", help="a dataset")
    demo = _Parser(allow_abbrev=False, description="Pretrains on the digits with and without HEX and compares.")
    demo.add_function_arguments(_run_demo_signature(), as_group=False)
    about_reproduce = _summary(ReproduceConfig)
    reproduce = _Parser(allow_abbrev=False, parser_mode="recipe", description=about_reproduce)
    reproduce.add_argument("experiment", nargs="?", help=f"one of {', '.join(list_experiments())}, or a YAML file")
    reproduce.add_class_arguments(ReproduceConfig, as_group=False, skip={"experiment", *REPRODUCE_FLAGS})
    for flag, help_ in REPRODUCE_FLAGS.items():
        reproduce.add_argument(f"--{flag}", action="store_true", help=help_)
    parser = _Parser(
        prog="hex-ssl", allow_abbrev=False, parser_mode="recipe", description="Self-supervised pretraining with HEX."
    )
    commands = parser.add_subcommands(required=True)
    commands.add_subcommand("pretrain", pretrain, help="pretrain a backbone")
    for name, config in _evaluations().items():
        text = _summary(config)
        evaluation = _Parser(allow_abbrev=False, parser_mode="recipe", description=text)
        evaluation.add_class_arguments(config, as_group=False, as_positional=True)
        commands.add_subcommand(name, evaluation, help=_as_help(text))
    for name, (config, runs) in _analyses().items():
        text = _summary(config)
        analysis = _Parser(allow_abbrev=False, parser_mode="recipe", description=text)
        several = get_origin(next(each.type for each in fields(config) if each.name == runs)) is list
        analysis.add_argument(runs, nargs="+" if several else "?", help="run folder")
        analysis.add_class_arguments(config, as_group=False, skip={runs})
        commands.add_subcommand(name, analysis, help=_as_help(text))
    commands.add_subcommand("reproduce", reproduce, help=_as_help(about_reproduce))
    commands.add_subcommand("recipes", recipes, help="list the recipes, or show one")
    commands.add_subcommand("datasets", datasets, help="list the datasets, or show one")
    commands.add_subcommand("demo", demo, help="pretrain on the digits with and without HEX, and compare")
    return parser


def _summary(config: type[Any]) -> str:
    """The first line of its docstring."""
    return (config.__doc__ or "").partition("\n")[0]


def _as_help(sentence: str) -> str:
    return (sentence[0].lower() + sentence[1:]).rstrip(".")


def _run_demo_signature() -> Callable[..., object]:
    from hex_ssl.demo import run_demo

    return run_demo


def _evaluations() -> dict[str, type[Any]]:
    from hex_ssl.evaluate.settings import COMMANDS

    return {**COMMANDS}


def _analyses() -> dict[str, tuple[type[Any], str]]:
    """The commands that look at runs, and their setting that names these."""
    from hex_ssl.analysis.analyze import AnalyzeConfig
    from hex_ssl.analysis.report import ReportConfig

    return {"analyze": (AnalyzeConfig, "run"), "report": (ReportConfig, "runs")}


def main(arguments: list[str] | None = None) -> None:
    """Runs a command. On Ctrl-C, it ends with a line and exit code 130.

    Args:
        arguments: The command line without the program's name; None for this process's.
    """
    try:
        _run(arguments)
    except KeyboardInterrupt:
        _stop("stopped")


def _stop(line: str) -> NoReturn:
    print(f"\n{line}", file=sys.stderr)
    raise SystemExit(128 + signal.SIGINT) from None


def _run(arguments: list[str] | None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    names_recipe = any(each.split("=")[0] in RECIPE_OPTIONS for each in arguments)
    if arguments[:1] == ["pretrain"] and not names_recipe:
        arguments = ["pretrain", "--recipe", DEFAULT_RECIPE, *arguments[1:]]
    if arguments and arguments[0] in _evaluations():
        arguments = _with_brackets(arguments, _list_options(_evaluations()[arguments[0]]))
    elif arguments[:1] == ["reproduce"]:
        arguments = _with_brackets(arguments, _list_options(ReproduceConfig))
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    commands = {"pretrain": _pretrain, "recipes": _recipes, "datasets": _datasets, "demo": _demo}
    commands |= {"analyze": _analyze, "report": _report, "reproduce": _reproduce}
    commands |= {name: partial(_evaluate, config) for name, config in _evaluations().items()}
    try:
        settings = _checked(lambda: parser.instantiate(parsed))
        commands[parsed.subcommand](settings[parsed.subcommand])
    except _MistakeError as mistake:
        parser.error(str(mistake))


def _list_options(config: type[Any], prefix: str = "--") -> set[str]:
    """The options that are lists, also those of a group in a group."""
    found = {f"{prefix}{each.name}" for each in fields(config) if get_origin(each.type) is list}
    groups = {each.name: each.type for each in fields(config) if is_dataclass(each.type)}
    return found.union(*(_list_options(group, f"{prefix}{name}.") for name, group in groups.items()))  # type: ignore[arg-type]


def _with_brackets(arguments: list[str], options: set[str]) -> list[str]:
    """`--k 5,20` as `--k [5,20]`, which is what the parser takes for a list."""
    written = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, _, value = argument.partition("=")
        if before in options and not argument.startswith("["):
            argument = f"[{argument}]"
        elif option in options and value and not value.startswith("["):
            argument = f"{option}=[{value}]"
        written.append(argument)
    return written


class _MistakeError(Exception):
    """What the user got wrong, found before anything was written."""


def _checked(prepare: Callable[[], Result]) -> Result:
    try:
        return prepare()
    except (ImportError, OSError, ValueError) as error:
        raise _MistakeError(str(error)) from error


def _pretrain(settings: Namespace) -> None:
    from hex_ssl.pretrain import prepare

    run = _checked(lambda: prepare(Config(**{group.name: settings[group.name] for group in fields(Config)})))
    if run.trainer.is_global_zero:
        print(run.data.found, flush=True)
    try:
        run.train()
    except KeyboardInterrupt:
        _stop(f"stopped; `--run.existing resume` goes on with {run.folder}")
    if run.trainer.is_global_zero:
        print(run.summary())


def _evaluate(config: type[Any], settings: Namespace) -> None:
    from hex_ssl.evaluate import prepare

    evaluation = _checked(lambda: prepare(config(**settings)))
    results = evaluation.run(lambda line: print(line, flush=True))
    print(f"\n{results.table()}\n\nresults: {results.path}")


def _analyze(settings: Namespace) -> None:
    from hex_ssl.analysis.analyze import AnalyzeConfig, analyze, summarize

    print(summarize(_checked(lambda: analyze(AnalyzeConfig(**settings)))))


def _report(settings: Namespace) -> None:
    from hex_ssl.analysis.report import ReportConfig, report

    print(_checked(lambda: report(ReportConfig(**settings))))


def _reproduce(settings: Namespace) -> None:
    from hex_ssl.reproduce.command import list_rows, prepare, reproduce
    from hex_ssl.reproduce.plan import results_folder

    if settings.experiment is None:
        for name in list_experiments():
            print(f"{name:10}  {load_experiment(name).title}")
        return
    asked = _checked(lambda: ReproduceConfig(**settings))
    plan = _checked(lambda: prepare(asked))
    if asked.list:
        print(list_rows(plan, results_folder(asked)))
    elif status := reproduce(plan, asked):
        sys.exit(status)


def _recipes(settings: Namespace) -> None:
    if settings.name is not None:
        print(yaml.safe_dump(_checked(lambda: load_recipe(settings.name)), sort_keys=False), end="")
        return
    names = list_recipes()
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {describe_recipe(name)}")


def _datasets(settings: Namespace) -> None:
    from hex_ssl.data.catalogue import print_cards

    try:
        print_cards(settings.name)
    except ValueError as error:
        raise _MistakeError(str(error)) from error


def _demo(settings: Namespace) -> None:
    from hex_ssl.demo import run_demo

    run_demo(**settings)


if __name__ == "__main__":
    main()
