"""The documentation's code runs and prints the output shown, and its commands parse.

A page's Python blocks run in order, as one program, in an empty folder. A ```text block after one is its output.
A block that cannot run has `<!-- not run: why -->` above it, which the site shows as a sentence.
"""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hex_ssl.train import cli, cli_parser
from hex_ssl.train.reproduce.experiment import load_experiment

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
FENCED = re.compile(
    r"(?:^<!-- not run: (?P<why>.+) -->\n)?^```(?P<language>\w*).*\n(?P<text>(?:.*\n)*?)^```$", re.MULTILINE
)
PROGRAM = r"(?:apt|cargo|hex-ssl|make|maturin|pip|pytest|python|torchrun) "
INDENTED = re.compile(rf"^    (?:\$ )?({PROGRAM}.*)\n((?:    (?!\$ |{PROGRAM})\S.*\n)*)", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str
    line: int
    why: str | None
    """Why it is not run."""
    follows: bool
    """Nothing but an empty line parts it from the block before it."""


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text, end = page.read_text(encoding="utf-8"), 0
    for found in FENCED.finditer(text):
        line = text[: found.start("text")].count("\n")
        yield Block(found["language"], found["text"], line, found["why"], not text[end : found.start()].strip())
        end = found.end()


@PAGE
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    printed = None
    for block in blocks(page):
        if block.language == "text" and block.follows and printed is not None:
            assert printed == block.text, f"{page.name}, line {block.line}"
        printed = None
        if block.language == "python" and block.why is None:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile("\n" * block.line + block.text, page, "exec"), names)
            printed = output.getvalue()


@PAGE
def test_commands_are_parsed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shell = [
        line for block in blocks(page) if block.language == "bash" and block.why is None for line in lines(block.text)
    ]
    for command in shell:
        check(command, monkeypatch)
    for command, output in INDENTED.findall(page.read_text(encoding="utf-8").replace("\\\n", "")):
        check(command, monkeypatch, output)


@PAGE
def test_every_block_names_its_language(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= {"", "bash", "json", "math", "python", "text", "yaml"}
    marked = re.findall(r"^<!-- not run", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(marked) == sum(block.why is not None for block in blocks(page))


@PAGE
def test_yaml_is_an_experiment(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml" and block.why is None:
            file = tmp_path / "mine.yaml"
            file.write_text(block.text, encoding="utf-8")
            shutil.copy(ROOT / "python/hex_ssl/train/reproduce/experiments/_cifar100.yaml", tmp_path)
            assert load_experiment(file).groups


def test_figures_are_current(tmp_path: Path) -> None:
    folder = ROOT / "docs" / "pictures"
    subprocess.run([sys.executable, folder / "draw.py", tmp_path], check=True)
    shown = {name for page in PAGES for name in re.findall(r"!\[.*\]\(.*pictures/(.+\.svg)\)", page.read_text("utf-8"))}
    assert {path.name for path in tmp_path.iterdir()} == shown
    for kept in (folder / "speed.svg", folder / "memory.svg"):  # the README's, which is read where nothing draws them
        if f"Matplotlib v{metadata.version('matplotlib')}" not in kept.read_text(encoding="utf-8"):
            pytest.skip("the picture was drawn by another Matplotlib")
        text, numbers = numbers_apart(tmp_path / kept.name)
        expected_text, expected_numbers = numbers_apart(kept)
        assert text == expected_text
        assert numbers == pytest.approx(expected_numbers, abs=0.5)  # points, of which 72 make an inch


def numbers_apart(path: Path) -> tuple[list[str], list[float]]:
    """Separates the numbers of a figure from its other text, in which names of parts are digests."""
    text = re.sub(r"(id=\"|#)\w+", r"\1", path.read_text(encoding="utf-8"))
    number = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    words = re.findall(r">([^<>]+)</text>", text)
    return words + re.split(number, text), [float(each) for each in re.findall(number, text)]


def lines(shell: str) -> list[str]:
    """The commands of a block."""
    return [line for line in shell.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


def check(command: str, monkeypatch: pytest.MonkeyPatch, output: str = "") -> None:
    """A command of this project's has arguments that it knows, or fails as shown; others name what there is."""
    program, *arguments = shlex.split(command, comments=True)
    if program == "torchrun" and arguments[2:4] == ["-m", "hex_ssl.train.cli"]:
        program, arguments = "hex-ssl", arguments[4:]
    if program == "hex-ssl":
        understand(arguments, monkeypatch, output)
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    elif program in ("python", "torchrun"):
        scripts = [each for each in arguments if each.endswith(".py")]
        assert scripts, command
        assert all((ROOT / script).is_file() for script in scripts), command
    else:
        assert program in ("apt", "cargo", "maturin", "pip", "pytest"), f"neither understood nor marked: {command}"


class UnderstoodError(Exception):
    """The arguments were parsed."""


def understand(arguments: list[str], monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    """Parses a command's arguments as the command does, and stops there."""
    *arguments, _, file = arguments if ">" in arguments else [*arguments, ">", None]
    build = cli_parser.build_parser

    def build_to_parse_only(arguments: list[str]) -> cli_parser.Parser:
        parser = build(arguments)
        parse = parser.parse_args

        def parse_only(arguments: list[str]) -> None:
            parse(arguments)
            raise UnderstoodError

        monkeypatch.setattr(parser, "parse_args", parse_only)
        return parser

    said, complaint = io.StringIO(), io.StringIO()
    with (
        monkeypatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complaint),
    ):
        patch.setattr(cli_parser, "build_parser", build_to_parse_only)
        try:
            cli.main(arguments)
        except UnderstoodError:
            pass
        except SystemExit as stop:  # --print_config, or an error
            expected = "" if stop.code in (None, 0) else "".join(re.sub("^    ", "", output, flags=re.MULTILINE))
            assert complaint.getvalue() == expected, arguments
    if file:
        Path(file).write_text(said.getvalue(), encoding="utf-8")
