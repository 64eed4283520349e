"""Runs: each trains once, resumes where it was stopped, and leaves complete files."""

import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hex_ssl.train.callbacks.checkpoints import Checkpoints
from hex_ssl.train.cli import main
from hex_ssl.train.reproduce import run as run_module
from hex_ssl.train.reproduce import runner
from hex_ssl.train.reproduce.experiment import list_experiments, load_experiment
from hex_ssl.train.reproduce.plan import Job, make_plan
from hex_ssl.train.reproduce.results import key_of, read_results
from hex_ssl.train.reproduce.run import BusyError, _claimed, measure
from hex_ssl.train.reproduce.settings import ReproduceConfig
from hex_ssl.train.reproduce.time_limit import Deadline


def jobs_of(file: Path, out: Path) -> list[Job]:
    return make_plan(load_experiment(file), ReproduceConfig(str(file), scale="smoke", out=str(out))).jobs


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return named[1].strip() if named else platform.processor()


def reproduce(file: Path, out: Path, *more: str) -> object:
    """Runs the command and returns its exit code."""
    try:
        main(["reproduce", str(file), "--scale", "smoke", "--out", str(out), *more])
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_equal_runs_are_planned_once_and_seed_by_seed(experiment_file: Path, tmp_path: Path) -> None:
    jobs = jobs_of(experiment_file, tmp_path / "out")
    assert [(job.config.run.seed, job.config.loss.hex) for job in jobs] == [
        (0, "off"),
        (0, "step"),
        (1, "off"),
        (1, "step"),
    ]
    assert [job.key for job in jobs] == [key_of(job.description) for job in jobs]
    assert [job.key for job in jobs_of(experiment_file, tmp_path / "elsewhere")] == [job.key for job in jobs]


def test_runs_are_executed_once_and_written_to_the_table(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, results = tmp_path / "out", tmp_path / "kept.jsonl"
    assert reproduce(experiment_file, out, "--seeds", "0", "--results", str(results)) == 0
    printed = capsys.readouterr().out
    table = (out / "two-smoke.md").read_text()
    assert table in printed
    assert "2 of 2 runs are done" in table
    assert len(results.read_text().splitlines()) == 2
    for key, record in read_results(results).items():
        assert 0.1 < record["metrics"]["knn.top1"] <= 1.0
        assert record["budget"]["steps"] == 2
        assert record["last_epoch"]["epoch"] == 2
        assert record["environment"]["processor"] == processor()
        assert record["environment"]["gpu"] is None
        assert str(tmp_path) not in json.dumps(record)
        assert not (out / "runs" / key / "checkpoints").exists()
    monkeypatch.setattr(runner, "measure", lambda *_: pytest.fail("it was done"))
    assert reproduce(experiment_file, out, "--seeds", "0", "--results", str(results)) == 0
    assert reproduce(experiment_file, out, "--list", "--results", str(results)) == 0
    assert "losses/simclr  digits  1/2" in capsys.readouterr().out


def test_results_name_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the card of {device}")
    environment = run_module._environment(torch.device("cuda:0"))
    assert (environment["device"], environment["gpu"]) == ("cuda", "the card of cuda:0")


def test_stopped_run_continues_from_its_checkpoint(
    experiment_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = (jobs_of(experiment_file, tmp_path / name)[1] for name in ("whole", "stopped"))
    measure(whole)
    save = Checkpoints.on_train_epoch_end

    def save_and_die(self: Checkpoints, *arguments: object) -> None:
        save(self, *arguments)  # type: ignore[arg-type]
        raise ConnectionAbortedError("the machine went away")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_end", save_and_die)
        with pytest.raises(ConnectionAbortedError):
            measure(stopped)
    assert not stopped.results.exists()
    assert measure(stopped)
    records = [read_results(job.results)[job.key] for job in (whole, stopped)]
    assert records[0]["metrics"] == records[1]["metrics"]
    assert [record["resumed"] for record in records] == [False, True]
    assert not measure(stopped)


def test_failed_run_is_reported_and_does_not_stop_the_others(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_with_hex(job: Job, deadline: Deadline) -> bool:
        if job.config.loss.hex != "off":
            raise RuntimeError("no luck")
        return measure(job)

    monkeypatch.setattr(runner, "measure", fail_with_hex)
    assert reproduce(experiment_file, tmp_path / "out", "--seeds", "0", "--epochs", "1") == 1
    printed = capsys.readouterr()
    assert "RuntimeError: no luck" in printed.err.splitlines()[-1]
    assert "1 of 2 runs are done" in printed.out


def test_ctrl_c_writes_the_table_and_exits_with_130(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(job: Job, deadline: Deadline) -> bool:
        raise SystemExit(1)  # as Lightning ends after Ctrl-C

    monkeypatch.setattr(runner, "measure", interrupted)
    assert reproduce(experiment_file, tmp_path / "out") == 130
    assert "run the same command to continue" in capsys.readouterr().out


def test_no_run_starts_after_the_time_limit(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(experiment_file, tmp_path / "out", "--minutes", "0") == 0
    assert "the time limit is reached: 0 stopped, 4 not started" in capsys.readouterr().out


def test_only_one_process_executes_a_run(experiment_file: Path, tmp_path: Path) -> None:
    job = jobs_of(experiment_file, tmp_path)[0]
    folder = Path(job.config.run.root) / job.key
    with _claimed(folder.with_name(f"{job.key}.lock")), pytest.raises(BusyError):
        measure(job)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "expected `data` to be the folder that holds unlabelled.parquet, but got None"),
        (["--data", "nowhere"], "expected `data` to hold unlabelled.parquet, but there is no nowhere"),
        (["--rows", "adaptiv"], "expected `rows` to match some of cosine_95_65, "),
        (["--group", "threshold"], 'expected `group` to be one of thresholds, but got "threshold"'),
        (["--seeds", "1,1"], "expected `seeds` to be distinct numbers"),
        (["--jobs", "0"], "expected `jobs` to be at least 1, but got 0"),
    ],
)
def test_mistakes_are_errors_before_anything_is_written(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["reproduce", "table7", "--out", str(tmp_path / "out"), *options])
    assert exit_.value.code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_processes_at_the_same_time(experiment_file: Path, tmp_path: Path) -> None:
    assert reproduce(experiment_file, tmp_path / "out", "--seeds", "0", "--jobs", "2", "--epochs", "1") == 0
    assert len(read_results(tmp_path / "out" / "results.jsonl")) == 2


@pytest.mark.parametrize("name", list_experiments())
def test_smoke(name: str, tmp_path: Path) -> None:
    group = list(load_experiment(name).groups.values())[-1]
    row = [row for row in group.rows.values() if row.name != row.baseline][-1]
    baseline = group.rows[row.baseline]
    for rows, *more in ([row.name], [baseline.name], ["*", "--minutes", "0"]):
        options = ("--group", group.name, "--epochs", "1", "--rows", rows, *more)
        assert reproduce(Path(name), tmp_path, *options) == 0
    table = (tmp_path / f"{name}-smoke.md").read_text()
    # The rows of "steps" differ in their epochs alone, which are 1 here.
    assert f"2 of {2 if name == 'steps' else len(group.rows)} runs are done" in table
    assert [path.name for path in tmp_path.glob("*.png")] == (["figure7-smoke.png"] if name == "figure7" else [])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line[:2] == "| "]
    line_of = {line[0]: line[1:] for line in cells}
    (_, figure, difference, *_), (_, other, nothing, *_) = line_of[row.title], line_of[baseline.title]
    assert float(difference) == pytest.approx(float(figure) - float(other), abs=0.011)
    assert (difference[0] in "+-", nothing) == (True, "-")
    if name == "table7":
        assert line_of["row"][3] == "paper"
        assert line_of["adaptive"][3] == "67.56"
    for record in read_results(tmp_path / "results.jsonl").values():
        assert f"knn.{run_module.FIGURES[0]}" in record["metrics"]


BUSY = """
from hex_ssl.train.reproduce.runner import _Worker
from hex_ssl.train.reproduce.time_limit import Deadline


class Busy:
    def __reduce__(self):
        return exec, ("import pathlib, time; pathlib.Path('busy').touch(); time.sleep(1000)",)


if __name__ == "__main__":
    worker = _Worker(1, Deadline())
    worker.pipe.send(Busy())  # reading it takes time, as a run does
    print(worker.process.pid, flush=True)
    worker.process.join()
"""


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_killed_command_leaves_no_worker(tmp_path: Path) -> None:
    """A worker would go on with its run, which the same command would then find busy."""
    script = tmp_path / "busy.py"
    script.write_text(BUSY)
    with subprocess.Popen([sys.executable, script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        worker = int(command.stdout.readline())
        while not (tmp_path / "busy").exists():
            assert is_running(worker)
            time.sleep(0.1)
        command.kill()
    limit = time.monotonic() + 30
    while is_running(worker):
        assert time.monotonic() < limit, "the worker goes on"
        time.sleep(0.1)
