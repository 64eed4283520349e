"""Progress: the bar's numbers are those of the metrics files, and long evaluations show how far they are."""

import csv
import io
import re
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from hex_ssl.train import progress
from hex_ssl.train.evaluate import Features, ProbeConfig, nearest_neighbours, run_probe
from hex_ssl.train.evaluate.linear import logistic_scores
from hex_ssl.train.pretrain import pretrain
from hex_ssl.train.progress import ProgressLines, ProgressTasks, followed, reporting, shown_progress, working
from tests.train.conftest import MakeConfig


def screens(text: str) -> list[str]:
    """What a terminal was sent, without the codes that move its cursor."""
    return [
        line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n").splitlines() if line.strip()
    ]


def test_bar_shows_the_numbers_of_the_metrics_files(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    folder = pretrain(make_config(epochs=2, progress=True, loggers=["tensorboard"], knn_every=1))
    lines = screens(capsys.readouterr().out)
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for row in rows[1:]:
        last = [line for line in lines if line.startswith(f"Epoch {row['epoch']}/2 ")][-1]
        assert f"loss: {float(row['loss']):.4g} " in last
        assert f"k-NN accuracy: {100 * float(row['knn_accuracy']):.1f} %" in last
    text = "\n".join(lines)
    assert "Epoch 0" not in text
    assert "v_num" not in text
    assert "oard" not in text  # the last letters of a logger's version, which Lightning would show
    assert "representations" in text  # of the evaluation, while it goes on


def test_loops_report_each_step_only_where_someone_asks() -> None:
    told: list[tuple[str, int, int]] = []
    assert list(followed("ab", "letters", 2)) == ["a", "b"]
    with reporting(lambda *step: told.append(step)):
        assert list(followed("ab", "letters", 2)) == ["a", "b"]
        with working("thinking"):
            assert told[-1] == ("thinking", 0, 0)
    assert told == [*(("letters", each, 2) for each in range(3)), ("thinking", 0, 0), ("thinking", 1, 1)]
    list(followed("ab", "letters", 2))
    assert len(told) == 5


def test_lines_come_after_some_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with reporting(ProgressLines(seconds=10)):
        for _ in followed(range(1000), "epochs", 6):
            list(followed(range(2), "rows", 2))
            if next(clock) > 60:
                break
        with working("regression"):
            pass
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "regression ..."
    assert all(re.fullmatch(r"(epochs|rows): \d of \d  \d+ s", line) for line in lines[:-1])
    assert 2 <= len(lines) <= 7


def test_tasks_are_shown_while_they_last() -> None:
    screen = io.StringIO()
    bar = Progress(console=Console(file=screen, force_terminal=True, width=80), auto_refresh=False)
    with reporting(ProgressTasks(bar)):
        for each in followed(range(2), "epochs", 2):
            with working("regression"):
                assert [task.description for task in bar.tasks] == ["epochs", "regression"]
                assert [task.total for task in bar.tasks] == [2, None]
                assert bar.tasks[0].completed == each
    assert bar.tasks == []


def test_a_terminal_has_a_bar_and_a_file_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, kind in ((True, ProgressTasks), (False, ProgressLines)):
        monkeypatch.setattr(progress, "shows_progress_bar", lambda terminal=terminal: terminal)
        with shown_progress():
            assert isinstance(progress._report.get(), kind)
        assert progress._report.get() is None


def test_evaluations_report_their_loops(trained: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with reporting(lambda *step: told.append(step)):
        nearest_neighbours(torch.eye(6), torch.eye(6), k=2, block=2)
        logistic_scores(Features(torch.eye(4), torch.tensor([0, 0, 1, 1])), torch.eye(4), classes=2)
        run_probe(ProbeConfig(str(trained), solver="sgd", probe_epochs=3))
    assert told[:4] == [("nearest neighbours", each, 3) for each in range(4)]
    assert told[4:6] == [("logistic regression of 4 representations", 0, 0), (told[4][0], 1, 1)]
    assert {("epochs of the probe", each, 3) for each in range(4)} <= set(told)
    assert ("representations", 1, 2) in told or ("representations", 1, 1) in told
