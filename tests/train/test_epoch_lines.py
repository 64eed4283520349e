"""The output of `hex-ssl pretrain` if it does not go to a terminal."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hex_ssl.train.pretrain import pretrain
from tests.train.conftest import MakeConfig

WAITING_RUN = """
from hex_ssl.train.cli import main
from hex_ssl.train.methods import Method

def wait_in_the_last_epoch(self):
    if self.current_epoch == 2:
        print("waiting", file=sys.stderr, flush=True)
        sys.stdin.read()

import sys
Method.on_train_epoch_start = wait_in_the_last_epoch
main(sys.argv[1:])
"""
FIGURES = r"  loss \d\.\d+  learning rate \d\.\d+"


def test_lines_are_printed_during_the_run(tmp_path: Path) -> None:
    settings = [f"--run.root={tmp_path}", "--run.epochs=3", "--run.knn_every=2", "--backbone.width=4"]
    command = [sys.executable, "-c", WAITING_RUN, "pretrain", *settings]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=buffered) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        assert run.stderr is not None
        try:
            assert run.stderr.readline() == "waiting\n"
            os.set_blocking(run.stdout.fileno(), False)
            found, before, first, second = run.stdout.read().splitlines()
            os.set_blocking(run.stdout.fileno(), True)
            run.stdin.close()  # the run goes on
            last, done = run.stdout.read().splitlines()
        finally:
            run.kill()
    accuracy, seconds = r"  k-NN accuracy \d+\.\d %", r"  \d+\.\d s"
    assert found.startswith("digits: train 1,437 images")
    assert re.fullmatch(f"epoch 0/3{accuracy}{seconds}", before)
    assert re.fullmatch(f"epoch 1/3{FIGURES}{seconds}", first)
    assert re.fullmatch(f"epoch 2/3{FIGURES}{accuracy}{seconds}", second)
    assert re.fullmatch(f"epoch 3/3{FIGURES}{accuracy}{seconds}", last)
    assert done.endswith(f"everything is in {tmp_path / 'quick-simclr-hex'}")


def test_without_progress_nothing_is_printed(make_config: MakeConfig, capfd: pytest.CaptureFixture[str]) -> None:
    pretrain(make_config(epochs=1, progress=False))
    assert capfd.readouterr() == ("", "")


def test_terminal_has_the_bar(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    pretrain(make_config(epochs=1, progress=True))
    out = capsys.readouterr().out
    assert "Epoch 1/1 " in out
    assert "epoch 1/1" not in out
