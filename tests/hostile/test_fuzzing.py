"""The fuzzer itself: it detects forbidden outcomes, and counts the inputs that it tried."""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuzz import all as every
from fuzz.targets import TARGETS, EscapeError, run

ESCAPES: dict[str, Callable[[Path], Any]] = {
    "a folder": lambda folder: (folder.parent / "outside").mkdir(),
    "a file": lambda folder: (folder.parent / "outside").write_bytes(b""),
    "a file of a similar name": lambda folder: Path(f"{folder}-outside").write_bytes(b""),
    "an empty file": lambda folder: os.open(folder.parent / "outside", os.O_CREAT),
    "a removal": lambda folder: (folder.parent / "there").unlink(),
    "a move": lambda folder: (folder.parent / "there").rename(folder / "inside"),
    "a way up": lambda folder: (folder / ".." / "outside").mkdir(),
    "a relative name": lambda folder: os.mkdir("outside"),
    "a link": lambda folder: (folder / "link").symlink_to("/"),
    "a command": lambda folder: subprocess.run(["true"]),
    "an import": lambda folder: importlib.import_module("this"),
    "an import of nothing": lambda folder: __import__("hex_ssl_nonesuch"),
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
def test_writing_outside_the_folder_is_a_finding(
    escape: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    monkeypatch.setitem(TARGETS, "image", lambda data, folder: escape(folder))
    (tmp_path / "there").touch()
    with pytest.raises(EscapeError):
        run("image", b"")
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


def test_writing_inside_the_folder_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def target(data: bytes, folder: Path) -> None:
        (folder / "a").mkdir()
        (folder / "a" / "b").write_bytes(data)
        (folder / "a" / "b").rename(folder / "c")
        (folder / "c").unlink()
        (folder / "a").rmdir()
        Path(os.devnull).write_bytes(data)

    monkeypatch.setitem(TARGETS, "image", target)
    run("image", b"bytes")


STARTED = "INFO: Seed: 7\n"
LOGS = {
    "whole": (0, STARTED + "#8\tpulse\nstat::number_of_executed_units: 9\n", "| 9 | none |"),
    "a finding": (77, STARTED + "#8\tpulse\nTest unit written to x\n    #99 0x1\n", "| 8 | none |"),
    "killed": (-9, STARTED + "#7\tNEW\n#8\tpulse\n", "| 8 | ended with -9"),
    "killed at once": (-9, STARTED, "| 0 | ended with -9"),
}


@pytest.mark.parametrize(("code", "log", "row"), LOGS.values(), ids=LOGS.keys())
def test_inputs_are_counted_even_if_a_run_fails(
    code: int,
    log: str,
    row: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    feed(monkeypatch, tmp_path, code, log)
    if "none" in row:
        every.main()
    else:
        with pytest.raises(SystemExit):
            every.main()
    assert capsys.readouterr().out.count(row) == len(TARGETS)


def test_a_target_that_does_not_start_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    feed(monkeypatch, tmp_path, 1, "ModuleNotFoundError: No module named 'atheris'\n")
    with pytest.raises(SystemExit, match="recipe did not run"):
        every.main()


def feed(monkeypatch: pytest.MonkeyPatch, folder: Path, code: int, log: str) -> None:
    """Sets the outcome of each run of a target."""
    monkeypatch.setattr(every, "KEPT", folder)
    monkeypatch.setattr(every, "FINDINGS", folder / "findings")
    monkeypatch.setattr(every, "MOST_FINDINGS", 1)
    monkeypatch.setattr(sys, "argv", ["all", "60"])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code, stderr=log))
