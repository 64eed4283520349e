"""The experiment for a GPU, run on the CPU: its runs, their order, and time limits."""

import io
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hex_ssl.train.callbacks import EpochMetrics
from hex_ssl.train.cli import main
from hex_ssl.train.reproduce import time_limit
from hex_ssl.train.reproduce.experiment import load_experiment
from hex_ssl.train.reproduce.plan import make_plan
from hex_ssl.train.reproduce.results import read_results
from hex_ssl.train.reproduce.settings import ReproduceConfig

from ..conftest import untimed

REHEARSAL = """
extends: cifar100
scales:
  gpu:
    set:
      method: {hidden_dim: 16, output_dim: 8}
      backbone: {name: small_resnet, width: 4}
      data: {batch_size: 32}
      loss: {warmup_epochs: 1}
      run: {epochs: 2, keep_every: 1, precision: 32-true, deterministic: true, accelerator: cpu}
    datasets:
      labelled: {train_rows: 40}
"""


def test_first_question_comes_first() -> None:
    plan = make_plan(load_experiment("cifar100"), ReproduceConfig("cifar100", "gpu"))
    told = [(job.config.loss.hex, job.config.loss.base, job.config.run.seed) for job in plan.jobs]
    assert told[:6] == [(hex_, "own", seed) for seed in (0, 1, 2) for hex_ in ("off", "adaptive")]
    budgets = {(job.config.backbone.name, job.config.data.image_size, job.config.run.epochs) for job in plan.jobs}
    assert budgets == {("resnet18", 32, 100)}
    assert [job.config.data.batch_size for job in plan.jobs][:12] == 6 * [256] + 6 * [512]
    rest = {(job.config.loss.base, job.config.loss.hex, job.config.loss.formulation) for job in plan.jobs[12:]}
    assert {("dcl", "off", "importance"), ("hcl", "off", "importance"), ("own", "adaptive", "official")} <= rest
    assert {job.config.loss.temperature for job in plan.jobs} == {0.1, 0.2}
    quantiles = {job.config.loss.threshold_arguments.get("quantile") for job in plan.jobs}
    assert quantiles == {None, 0.8, 0.9, 0.95, 0.98, 0.995}
    rows = {cell.row: [*keys] for cell, keys in plan.cells.items() if cell.group == "losses"}
    assert rows == {row: [0, 1, 2] for row in ("simclr", "dcl", "hcl", "hex_official", "hex")}


def encoded(pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with small versions of the two files of the experiment."""
    folder, draw = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    for name, images in (("unlabelled", 96), ("labelled", 60)):
        pixels = draw.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {"img": pa.array([encoded(each) for each in pixels], kind)}
        if name == "labelled":
            columns |= {"fine_label": pa.array([row % 4 for row in range(images)])}
            columns |= {"coarse_label": pa.array([row % 2 for row in range(images)])}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """The experiment with a tiny network."""
    path = tmp_path / "rehearsal.yaml"
    path.write_text(REHEARSAL)
    return path


def slice_of(experiment: Path, data: Path, out: Path, *more: str) -> None:
    """One call of the command: SimCLR and HEX, one seed."""
    # of the group, the rows simclr and hex alone
    options = ["--scale", "gpu", "--data", str(data), "--out", str(out), "--group", "losses", "--rows", "*[rx]"]
    main(["reproduce", str(experiment), *options, "--seeds", "0", "--keep_checkpoints", *more])


def test_runs_with_time_limits_equal_the_uninterrupted_run(
    experiment: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uncut, cut = tmp_path / "uncut", tmp_path / "cut"
    slice_of(experiment, data, uncut)
    capsys.readouterr()
    ticks = count()
    monkeypatch.setattr(time_limit, "monotonic", lambda: float(next(ticks)))  # each look at the clock is a second later
    said = []
    while len(read_results(cut / "results.jsonl")) < 2:
        # The first ends between training and evaluation, the second within an epoch.
        slice_of(experiment, data, cut, "--minutes", str((5 if said else 7) / 60))
        said.append(capsys.readouterr().out)
        assert len(said) < 9, "the slices get nowhere"
    assert sum("out of time" in each for each in said) >= 2
    assert "the time limit is reached: 1 stopped, 1 not started; run the same command to continue" in said[0]
    assert "time limit" not in said[-1]
    expected, found = (read_results(out / "results.jsonl") for out in (uncut, cut))
    assert expected.keys() == found.keys()
    for key, record in expected.items():
        for part in ("metrics", "history", "budget"):
            assert found[key][part] == record[part], part
        assert untimed([found[key]["last_epoch"]]) == untimed([record["last_epoch"]])
        weights = [load_file(out / "runs" / key / "backbone.safetensors") for out in (uncut, cut)]
        assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
        assert found[key]["resumed"]


def test_run_that_stops_at_the_end_of_an_epoch_has_a_checkpoint(
    experiment: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale saves at the end of every tenth epoch."""
    late = [False]
    monkeypatch.setattr(time_limit.Deadline, "passed", lambda self: late[0])
    log = EpochMetrics.on_train_epoch_end

    def end(self: EpochMetrics, *arguments: Any) -> None:
        log(self, *arguments)
        late[0] = True

    monkeypatch.setattr(EpochMetrics, "on_train_epoch_end", end)
    slice_of(experiment, data, tmp_path / "out", "--rows", "hex")
    (folder,) = (each for each in (tmp_path / "out" / "runs").iterdir() if each.is_dir())
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"] == 3


def test_results_have_figures_over_the_epochs(experiment: Path, data: Path, tmp_path: Path) -> None:
    slice_of(experiment, data, tmp_path / "out", "--rows", "hex")
    (record,) = read_results(tmp_path / "out" / "results.jsonl").values()
    history = record["history"]
    assert history["knn.top1"].keys() == {"0", "1", "2"}
    assert history["knn.top1"]["2"] == record["metrics"]["knn.top1"]
    assert history["threshold"][0] is None
    assert -1 < history["threshold"][1] <= 1
    assert history["hierarchical_negatives"][1] > 0
    for name in ("loss", "threshold"):
        assert history[name][1] == pytest.approx(record["last_epoch"][name], rel=1e-3)


def test_missing_gpu_is_an_error_before_anything_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", "cifar100", "--scale", "gpu", "--data", str(data), "--out", str(out)])
    assert stopped.value.code == 2
    assert "expected a GPU, which 42 of the runs need, but torch" in capsys.readouterr().err
    assert not out.exists()


def test_missing_scale_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["reproduce", "table9", "--scale", "gpu", "--out", str(tmp_path / "out")])
    assert 'expected `scale` to be one of smoke, small, paper in table9, but got "gpu"' in capsys.readouterr().err
