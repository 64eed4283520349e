"""Runs that are stopped by a signal, at random moments and at chosen ones."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from hex_ssl.cli import main
from hex_ssl.config import Config
from hex_ssl.methods import Method

from . import runs

Undisturbed = tuple[Path, float]


def train_with_slow_disk(config: Config) -> None:
    """Trains, each write lasting long enough to be hit."""
    fsync = os.fsync
    os.fsync = lambda file: (time.sleep(0.03), fsync(file))[1]  # type: ignore[assignment]
    runs.train(config)


def stop_at_random(number: signal.Signals, moments: int, root: Path, undisturbed: Undisturbed) -> int:
    """Stops runs and goes on with them, checks the folder each time and each finished run; counts the halves left."""
    expected, seconds = undisturbed
    draw = random.Random(int(number))
    config = runs.tiny(root, name="run0")
    folder, halves, steps = root / "run0", 0, []
    for moment in range(moments):
        before = runs.step_of(folder)
        part = folder / "checkpoints" / "last.ckpt.part"
        part.unlink(missing_ok=True)  # what an earlier process left
        process = runs.start(train_with_slow_disk, config)
        if moment % 2 == 0:  # in the midst of a checkpoint
            for _ in range(draw.randint(1, 4)):
                runs.wait_for(lambda part=part: not part.exists(), process)  # type: ignore[misc]
                runs.wait_for(part.exists, process)
        else:
            process.join(timeout=draw.uniform(0.0, seconds))
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, number)
        process.join(timeout=60)
        assert process.exitcode in (0, -number, 128 + number), process.exitcode
        halves += part.exists()
        steps.append(runs.step_of(folder))
        assert steps[-1] >= before
        runs.check_whole(folder, expected)
        if process.exitcode == 0:
            runs.check_equal(folder, expected)
            config = runs.tiny(root, name=f"run{moment + 1}")
            folder = root / config.run.name
    process = runs.start(runs.train, config)
    process.join(timeout=100)
    assert process.exitcode == 0
    runs.check_equal(folder, expected)
    print(f"{number.name}: {moments} moments, {halves} checkpoints cut in half; steps saved after each: {steps}")
    return halves


def test_sigkill_at_random_moments(tmp_path: Path, undisturbed: Undisturbed) -> None:
    moments = runs.MOMENTS or 10
    assert stop_at_random(signal.SIGKILL, moments, tmp_path, undisturbed) >= 1


def test_sigterm_at_random_moments(tmp_path: Path, undisturbed: Undisturbed) -> None:
    stop_at_random(signal.SIGTERM, runs.MOMENTS or 10, tmp_path, undisturbed)


def train_with_signal(config: Config, number: signal.Signals, step: int) -> None:
    """Trains as the command line does, and gets a signal in a step."""
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
    main(
        [
            "pretrain",
            "--recipe=quick/simclr_hex",
            *(each for each in options if not each.endswith(("=None", "{}", "[]"))),
        ]
    )


@pytest.mark.parametrize(
    ("number", "saved"), [(signal.SIGTERM, 7), (signal.SIGINT, runs.STEPS)], ids=["SIGTERM", "Ctrl-C"]
)
def test_stopped_run_says_so_and_can_be_resumed(
    number: signal.Signals, saved: int, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    config = runs.tiny(tmp_path, checkpoint_minutes=60.0)
    process = runs.start(train_with_signal, config, number, 6)
    process.join(timeout=100)
    assert process.exitcode == 128 + number
    assert runs.step_of(tmp_path / "run") == saved  # after SIGTERM, the step is finished and saved
    assert not (tmp_path / "run" / "backbone.safetensors").exists()
    assert runs.end_of(runs.train, config) == ""
    runs.check_equal(tmp_path / "run", undisturbed[0])
