"""The file of finished runs: complete lines, and the keys of runs."""

import json
import multiprocessing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from hex_ssl.train.cli import main
from hex_ssl.train.config import Config, LossConfig
from hex_ssl.train.reproduce.results import Images, describe_run, key_of, read_results, write_result

IMAGES = Images("digits", None, None)


def description(config: Config) -> dict[str, Any]:
    return describe_run(config, IMAGES, IMAGES, {"knn": {}})


def run(seed: int = 0, **loss: Any) -> dict[str, Any]:
    return description(Config.from_dict({"loss": loss, "run": {"seed": seed}}))


def record(seed: int = 0, **loss: Any) -> dict[str, Any]:
    return {"metrics": {"knn.top1": 0.5}, **run(seed, **loss)}


def without_alpha(one: dict[str, Any]) -> dict[str, Any]:
    """A record from before `loss.alpha` existed."""
    del one["config"]["loss"]["alpha"]
    return one


def test_the_key_depends_on_everything_that_affects_results(tmp_path: Path) -> None:
    path = tmp_path / "below" / "results.jsonl"
    assert read_results(path) == {}
    records = [record(), record(seed=1), record(temperature=0.3)]
    for one in records:
        write_result(path, one)
    found = read_results(path)
    assert [{"format": 1, **one} for one in records] == [*found.values()]
    config = Config.from_dict({"loss": {"temperature": 0.3}})
    assert found[key_of(description(config))]["config"]["loss"]["temperature"] == 0.3
    other = replace(config, data=replace(config.data, level="family"))
    assert key_of(description(other)) not in found
    moved = replace(config, run=replace(config.run, root="elsewhere", keep_every=1))
    assert key_of(description(moved)) in found


def test_setting_that_a_record_lacks_has_its_default(tmp_path: Path) -> None:
    path, default = tmp_path / "results.jsonl", LossConfig().alpha
    write_result(path, without_alpha(record()))
    assert key_of(run()) in read_results(path)
    assert key_of(run(alpha=default + 0.1)) not in read_results(path)


def test_changed_default_does_not_match_old_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    write_result(path, record())
    names = [each.name for each in fields(LossConfig)]
    defaults = LossConfig.__init__.__defaults__
    assert defaults is not None
    changed = tuple(0.7 if name == "alpha" else value for name, value in zip(names, defaults, strict=True))
    monkeypatch.setattr(LossConfig.__init__, "__defaults__", changed)
    assert run()["config"]["loss"]["alpha"] == 0.7
    assert key_of(run()) not in read_results(path)


def test_results_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    write_result(path, record())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_result(path, {**record(), "metrics": {"knn.top1": float("nan")}})
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            write_result(path, record(seed=1))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"format": 1', "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"format": 1}', "KeyError: 'metrics'"),
        (json.dumps({"format": 2, **record()}), "format 2 instead of 1"),
        (json.dumps({"format": 1, **record(), "metrics": 3}), "`metrics` is not a mapping"),
        (json.dumps({"format": 1, **record(), "config": {"los": {}}}), "settings of a run, but got los"),
        (json.dumps({"format": 1, **record(), "trained_on": 3}), "TypeError"),
        ("", "JSONDecodeError"),
    ],
)
def test_invalid_line_is_named(line: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"format": 1, **record()}) + f"\n{line}\n")
    with pytest.raises(ValueError, match=f"expected line 2 of .*results.jsonl to be the result of a run.*{expected}"):
        read_results(path)


def test_folder_is_refused_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        main(["reproduce", "table7", "--scale", "smoke", "--out", str(out), "--results", str(tmp_path)])
    assert f"expected `results` to be a file of JSON lines, but got the folder {tmp_path}" in capsys.readouterr().err
    assert not out.exists()


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path, context = tmp_path / "results.jsonl", multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_some, args=(path, first)) for first in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seeds = sorted(each["config"]["run"]["seed"] for each in read_results(path).values())
    assert seeds == [*range(30), *range(100, 130)]


def _write_some(path: Path, first: int) -> None:
    for seed in range(first, first + 30):
        write_result(path, record(seed))
