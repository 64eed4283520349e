"""Runs that are stopped by a signal, at random and at chosen moments."""

import os
import random
import signal
import time
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hex_ssl.train.callbacks import metrics
from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.cli import main
from hex_ssl.train.config import Config
from hex_ssl.train.methods import Method

from . import runs

Undisturbed = tuple[Path, float]


def train_with_slow_disk(config: Config, held: int | None, waiting: Path, sent: Path) -> None:
    """Trains with slow writes, so that signals hit them. The write of the given checkpoint waits for the signal."""
    fsync, count = os.fsync, 0

    def slow_fsync(file: int) -> None:
        nonlocal count
        time.sleep(0.03)
        count += os.readlink(f"/proc/self/fd/{file}").endswith("last.ckpt.part")
        if count == held:
            runs.hold(waiting, sent)
        fsync(file)

    os.fsync = slow_fsync  # type: ignore[assignment]
    runs.train(config)


class Stops(NamedTuple):
    """The results of stopping runs at random moments.

    Attributes:
        exits: The exit code of each process.
        writing: Number of signals that were sent during the write of a checkpoint.
        halves: Number of times that half a checkpoint was left.
    """

    exits: list[int]
    writing: int
    halves: int


def stop_at_random(number: signal.Signals, root: Path, undisturbed: Undisturbed) -> Stops:
    """Stops runs and resumes them. Checks the folder each time, and each finished run."""
    expected, seconds = undisturbed
    draw = random.Random(int(number))
    config = runs.tiny(root, name="run0")
    folder, writing, halves = root / "run0", 0, 0
    exits: list[int] = []
    steps: list[int] = []
    for moment in range(runs.MOMENTS):
        before = runs.step_of(folder)
        part = folder / "checkpoints" / "last.ckpt.part"
        part.unlink(missing_ok=True)  # what an earlier process left
        held = None if moment % 2 else draw.randint(1, 4)
        waiting, sent = (root / f"{name}{moment}" for name in ("waiting", "sent"))
        process = runs.start(train_with_slow_disk, config, held, waiting, sent)
        if held is not None:  # in the midst of a checkpoint
            runs.wait_for(waiting.exists, process)
        else:
            process.join(timeout=draw.uniform(0.0, seconds))
        if process.exitcode is None:
            assert process.pid is not None
            writing += part.exists()
            os.kill(process.pid, number)
            sent.touch()
        process.join(timeout=runs.HANG)
        assert process.exitcode is not None, "it hangs"
        exits.append(process.exitcode)
        halves += part.exists()
        steps.append(runs.step_of(folder))
        assert steps[-1] >= before
        runs.check_whole(folder, expected)
        if process.exitcode == 0:
            runs.check_equal(folder, expected)
            config = runs.tiny(root, name=f"run{moment + 1}")
            folder = root / config.run.name
    process = runs.start(runs.train, config)
    process.join(timeout=runs.HANG)
    assert process.exitcode == 0
    runs.check_equal(folder, expected)
    print(
        f"{number.name}: {runs.MOMENTS} moments, {writing} in the write of a checkpoint, {halves} checkpoints cut in "
        f"half; exit codes: {exits}; steps saved after each: {steps}"
    )
    return Stops(exits, writing, halves)


def test_sigkill_at_random_moments(tmp_path: Path, undisturbed: Undisturbed) -> None:
    stops = stop_at_random(signal.SIGKILL, tmp_path, undisturbed)
    assert set(stops.exits) <= {0, -signal.SIGKILL}
    assert stops.writing >= 1
    assert stops.halves >= 1


def test_sigterm_at_random_moments(tmp_path: Path, undisturbed: Undisturbed) -> None:
    stops = stop_at_random(signal.SIGTERM, tmp_path, undisturbed)
    assert set(stops.exits) <= {0, -signal.SIGTERM, 128 + signal.SIGTERM}
    assert stops.exits.count(128 + signal.SIGTERM) >= 1
    assert stops.writing >= 1


def train_with_signal_in_a_write(config: Config, number: signal.Signals, name: str, write: int) -> None:
    """Trains, and gets a signal during the n-th write of a file, with half of it on the disk."""
    fsync, count = os.fsync, 0

    def stopping_fsync(file: int) -> None:
        nonlocal count
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        count += path.name == name
        if path.name == name and count == write:
            whole = path.read_bytes()
            os.truncate(path, len(whole) // 2)
            os.kill(os.getpid(), number)
            path.write_bytes(whole)
        fsync(file)

    os.fsync = stopping_fsync  # type: ignore[assignment]
    runs.train(config)


@pytest.mark.parametrize(
    ("number", "exitcode", "saved"), [(signal.SIGKILL, -9, 5), (signal.SIGTERM, 143, 6)], ids=["SIGKILL", "SIGTERM"]
)
def test_signal_in_the_write_of_a_checkpoint(
    number: signal.Signals, exitcode: int, saved: int, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    config = runs.tiny(tmp_path)
    process = runs.start(train_with_signal_in_a_write, config, number, "last.ckpt.part", 6)
    process.join(timeout=runs.HANG)
    assert process.exitcode == exitcode
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt.part").exists() == (number is signal.SIGKILL)
    assert runs.step_of(tmp_path / "run") == saved
    runs.check_whole(tmp_path / "run", undisturbed[0])
    assert runs.end_of(runs.train, config) == ""
    runs.check_equal(tmp_path / "run", undisturbed[0])


def train_with_torn_line(config: Config, name: str) -> None:
    """Trains until half of the second epoch's line of metrics is written."""
    append = metrics._append

    def torn(path: Path, text: str) -> None:
        if path.name == name and text.startswith(('{"epoch": 2,', "2,")):
            append(path, text[: len(text) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        append(path, text)

    metrics._append = torn
    runs.train(config)


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv"])
def test_sigkill_in_a_line_of_metrics(name: str, tmp_path: Path, undisturbed: Undisturbed) -> None:
    config = runs.tiny(tmp_path)
    process = runs.start(train_with_torn_line, config, name)
    process.join(timeout=runs.HANG)
    assert process.exitcode == -signal.SIGKILL
    folder = tmp_path / "run"
    assert not (folder / name).read_text().endswith("\n")
    assert len(read_metrics(folder)) == (2 if name == "metrics.jsonl" else 3)  # the torn line is none
    assert len(runs.table_of(folder)) == 2
    runs.check_whole(folder, undisturbed[0])
    assert runs.end_of(runs.train, config) == ""
    runs.check_equal(folder, undisturbed[0])


def train_with_signal(config: Config, number: signal.Signals, step: int, said: Path) -> None:
    """Trains like the command line, gets a signal in a step, and writes its output to a file."""
    training_step = Method.training_step

    def interrupted(self: Method, batch: Any, batch_idx: int) -> Any:
        if self.global_step == step:
            os.kill(os.getpid(), number)
        return training_step(self, batch, batch_idx)

    Method.training_step = interrupted  # type: ignore[method-assign]
    settings = {f"{group}.{key}": each for group, keys in config.as_dict().items() for key, each in keys.items()}
    given = {
        key: value for key, value in settings.items() if key.startswith(("run.", "data.", "backbone.", "optimizer."))
    }
    options = [f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in given.items()]
    options = [each for each in options if not each.endswith(("=None", "{}", "[]"))]
    with open(said, "w") as file, redirect_stderr(file):
        main(["pretrain", "--recipe=quick/simclr_hex", *options])


@pytest.mark.parametrize(
    ("number", "saved", "line"),
    [(signal.SIGTERM, 7, ""), (signal.SIGINT, runs.STEPS, "\nstopped; `--run.existing resume` goes on with {}\n")],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_stopped_run_says_so_and_can_be_resumed(
    number: signal.Signals, saved: int, line: str, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    config = runs.tiny(tmp_path, checkpoint_minutes=60.0)
    process = runs.start(train_with_signal, config, number, 6, tmp_path / "said")
    process.join(timeout=runs.HANG)
    assert process.exitcode == 128 + number
    assert (tmp_path / "said").read_text() == line.format(tmp_path / "run")
    assert runs.step_of(tmp_path / "run") == saved  # after SIGTERM, the step is finished and saved
    assert not (tmp_path / "run" / "backbone.safetensors").exists()
    assert runs.end_of(runs.train, config) == ""
    runs.check_equal(tmp_path / "run", undisturbed[0])


def interrupt(*_: Any, **__: Any) -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("module", "name", "command"),
    [
        ("hex_ssl.train.pretrain", "prepare", "pretrain --run.root={root}"),
        ("hex_ssl.train.evaluate", "prepare", "knn {root}"),
        ("hex_ssl.train.analysis.analyze", "analyze", "analyze {root}"),
        ("hex_ssl.train.reproduce.command", "prepare", "reproduce table1"),
        ("hex_ssl.train.demo", "_run", "demo --folder={root}"),
        ("hex_ssl.train.cli_parser", "build_parser", "recipes"),
    ],
)
def test_ctrl_c_in_any_command_is_a_line(
    module: str,
    name: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(import_module(module), name, interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:  # the latter would end pytest itself
            main(command.format(root=tmp_path).split())
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(caught.value, SystemExit)
    assert caught.value.code == 128 + signal.SIGINT
    assert capfd.readouterr().err == "\nstopped\n"
