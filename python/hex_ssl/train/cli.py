"""The command line: `hex-ssl pretrain`, `knn`, `probe`, `finetune`, `transfer`, `export`, `analyze`, `report`,
`reproduce`, `recipes`, `datasets` and `demo`.

Every setting is a key of `hex_ssl.train.config.Config`. Give settings in a YAML file or a recipe (--recipe), or as
dotted options after it, such as --loss.temperature 0.2. Unknown keys and values are errors that suggest the nearest
one.

Exit codes: 0 after success; 2 if the command line, or something that it names, is wrong, before anything is written; 1
if something fails later, such as on a full disk; 130 after Ctrl-C. An error is one line on standard error. Only faults
of this program itself show their traceback.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hex_ssl.train.config import Config
from hex_ssl.train.errors import error_line, show

if TYPE_CHECKING:
    from jsonargparse import Namespace

Result = TypeVar("Result")

SIGPIPE = 13
"""The signal of a closed pipe. Windows has no such signal."""


def main(arguments: list[str] | None = None) -> None:
    """Runs a command.

    Args:
        arguments: The command line without the program's name; None for this process's.

    Raises:
        SystemExit: The command ended with an exit code other than 0. The module's docstring lists them.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _run(arguments)
    except KeyboardInterrupt:
        _stop("stopped")
    except BrokenPipeError:  # for example by `hex-ssl recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discards the rest of the output
        raise SystemExit(128 + SIGPIPE) from None
    except Exception as error:
        line = error_line(error, "data.num_workers" if arguments[:1] == ["pretrain"] else "num_workers")
        if line is None:
            raise
        show(line)
        raise SystemExit(1) from None


def _stop(line: str) -> NoReturn:
    print(f"\n{line}", file=sys.stderr)
    raise SystemExit(128 + signal.SIGINT) from None


def _run(arguments: list[str]) -> None:
    from hex_ssl.train.cli_parser import DEFAULT_RECIPE, RECIPE_OPTIONS, build_parser, with_brackets

    names_recipe = any(each.split("=")[0] in RECIPE_OPTIONS for each in arguments)
    if arguments[:1] == ["pretrain"] and not names_recipe:
        arguments = ["pretrain", "--recipe", DEFAULT_RECIPE, *arguments[1:]]
    parser = build_parser(arguments)
    parsed = parser.parse_args(with_brackets(arguments))
    if parsed.version:
        print(_versions())
        return
    if parsed.subcommand is None:
        parser.fail("expected a command, but got none")
    try:
        settings = _checked(lambda: parser.instantiate(parsed))
        _commands()[parsed.subcommand](settings[parsed.subcommand])
    except _MistakeError as mistake:
        parser.fail(str(mistake))


def _commands() -> "dict[str, Callable[[Namespace], None]]":
    from hex_ssl.train.evaluate.settings import COMMANDS

    return {
        "pretrain": _pretrain,
        **{name: partial(_evaluate, config) for name, config in COMMANDS.items()},
        "export": _export,
        "analyze": _analyze,
        "report": _report,
        "reproduce": _reproduce,
        "recipes": _recipes,
        "datasets": _datasets,
        "demo": _demo,
    }


def _versions() -> str:
    """The versions of the packages, from their metadata, without importing torch."""
    found = {"hex-ssl": _version("hex-ssl"), "torch": _version("torch"), "Python": sys.version.split()[0]}
    return ", ".join(f"{name} {number}" for name, number in found.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


class _MistakeError(Exception):
    """A mistake of the user, found before anything was written."""


def _checked(prepare: Callable[[], Result]) -> Result:
    """Runs a preparation, before anything is written. A value that does not fit is then a mistake of the user."""
    try:
        return prepare()
    except Exception as error:
        line = str(error) if isinstance(error, (ImportError, OSError, ValueError)) else error_line(error)
        if line is None:
            raise
        raise _MistakeError(line) from error


def _pretrain(settings: "Namespace") -> None:
    from hex_ssl.train.pretrain import prepare

    run = _checked(lambda: prepare(Config(**{group.name: settings[group.name] for group in fields(Config)})))
    if run.trainer.is_global_zero:
        print(run.data.found, flush=True)
    try:
        run.train()
    except KeyboardInterrupt:
        _stop(f"stopped; `--run.existing resume` goes on with {run.folder}")
    if run.trainer.is_global_zero:
        print(run.summary())


def _evaluate(config: type[Any], settings: "Namespace") -> None:
    from hex_ssl.train.evaluate import prepare

    evaluation = _checked(lambda: prepare(config(**settings)))
    from hex_ssl.train.progress import shown_progress

    with shown_progress():
        results = evaluation.run(lambda line: print(line, flush=True))
    print(f"\n{results.table()}\n\nresults: {results.path}")


def _export(settings: "Namespace") -> None:
    from hex_ssl.train.command_settings import ExportConfig
    from hex_ssl.train.export import export

    print(_checked(lambda: export(ExportConfig(**settings))))


def _analyze(settings: "Namespace") -> None:
    from hex_ssl.train.analysis.analyze import analyze, summarize
    from hex_ssl.train.command_settings import AnalyzeConfig
    from hex_ssl.train.progress import shown_progress

    with shown_progress():
        folder = _checked(lambda: analyze(AnalyzeConfig(**settings)))
    print(summarize(folder))


def _report(settings: "Namespace") -> None:
    from hex_ssl.train.analysis.report import report
    from hex_ssl.train.command_settings import ReportConfig

    print(_checked(lambda: report(ReportConfig(**settings))))


def _reproduce(settings: "Namespace") -> None:
    from hex_ssl.train.reproduce.experiment import list_experiments, load_experiment
    from hex_ssl.train.reproduce.settings import ReproduceConfig

    if settings.experiment is None:
        for name in list_experiments():
            print(f"{name:10}  {load_experiment(name).title}")
        return
    from hex_ssl.train.reproduce.command import list_rows, prepare, reproduce
    from hex_ssl.train.reproduce.plan import results_file

    asked = _checked(lambda: ReproduceConfig(**settings))
    plan = _checked(lambda: prepare(asked))
    if asked.list:
        print(list_rows(plan, results_file(asked)))
    elif status := reproduce(plan, asked):
        sys.exit(status)


def _recipes(settings: "Namespace") -> None:
    import yaml

    from hex_ssl.train.recipes import describe_recipe, list_recipes, load_recipe

    if settings.name is not None:
        print(yaml.safe_dump(_checked(lambda: load_recipe(settings.name)), sort_keys=False), end="")
        return
    names = list_recipes()
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {describe_recipe(name)}")


def _datasets(settings: "Namespace") -> None:
    from hex_ssl.train.data.cards_table import print_cards

    _checked(lambda: print_cards(settings.name))


def _demo(settings: "Namespace") -> None:
    from hex_ssl.train.command_settings import DemoConfig

    config = _checked(lambda: DemoConfig(**settings))
    from hex_ssl.train.demo import run_demo

    run_demo(**vars(config))


if __name__ == "__main__":
    main()
