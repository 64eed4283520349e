"""Two processes train as one: the command line under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from hex_ssl.train.callbacks.metrics import read_metrics

from .conftest import untimed


def trained(root: Path, name: str, processes: int, *more: str) -> Path:
    """A run of one epoch with global batches of 256, in this number of processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    settings = {
        "run.root": root,
        "run.name": name,
        "run.devices": processes,
        "run.epochs": 2,
        "run.knn_every": 2,
        "run.accelerator": "cpu",
        "run.progress": "false",
        "run.precision": "64-true",
        "data.batch_size": 256 // processes,
        # Without batch norm, which torch cannot synchronise on the CPU.
        "backbone.name": "tests.train.test_backbones:own_backbone",
        "backbone.arguments.width": 24,
        # Not Adam: it divides by the gradient's magnitude, which amplifies rounding.
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.05,
        "optimizer.scale_learning_rate": "true",
    }
    options = [f"--{key}={value}" for key, value in settings.items()]
    command = [
        sys.executable,
        *launcher,
        "-m",
        "hex_ssl.train.cli",
        "pretrain",
        "--recipe=quick/simclr_hex",
        *options,
        *more,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("everything is in") == 1  # rank 0 speaks for all
    assert ("SyncBatchNorm needs GPUs" in done.stderr) == (processes > 1)
    return root / name


def test_two_processes_train_like_one_and_resume_each_other(tmp_path: Path) -> None:
    one, two = trained(tmp_path, "one", 1), trained(tmp_path, "two", 2, "--run.checkpoint_minutes=0")
    check_equal(one, two, steps=[0, 5, 10])
    longer = ("--run.epochs=3", "--run.existing=resume")
    trained(tmp_path, "one", 2, *longer)
    trained(tmp_path, "two", 1, *longer)
    check_equal(one, two, steps=[0, 5, 10, 15])


def check_equal(one: Path, two: Path, steps: list[int]) -> None:
    rows, expected = untimed(read_metrics(two)), untimed(read_metrics(one))
    assert [row["step"] for row in rows] == steps
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            # The deviation is the mean of each process's own, of half the batch.
            tolerance = 2e-3 if name == "projection_std" else 1e-6
            assert abs(value - other[name]) <= tolerance * max(abs(value), 1.0), name  # type: ignore[operator,arg-type]
    weights = load_file(two / "backbone.safetensors")
    for name, tensor in load_file(one / "backbone.safetensors").items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-6, atol=1e-9)
