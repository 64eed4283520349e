"""The values of "auto", compiled networks, and memory that stays with the process."""

import ctypes
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch._dynamo.utils import counters

from hex_ssl.train import speed
from hex_ssl.train.buffers import kept_buffers
from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.config import Config, RunConfig
from hex_ssl.train.pretrain import build, load_method, pretrain
from hex_ssl.train.recipes import load_recipe

from .conftest import MakeConfig

AUTO: dict[str, Any] = {"precision": "auto", "channels_last": "auto", "compile": "auto"}
ON_A_CPU = ("32-true", False, False)


def chosen(run: RunConfig, earlier: RunConfig | None = None) -> tuple[Any, ...]:
    found = speed.without_auto(Config(run=run), None if earlier is None else Config(run=earlier)).run
    return found.precision, found.channels_last, found.compile


@pytest.mark.parametrize(
    ("bfloat16", "capability", "expected"),
    [
        (True, (9, 0), ("bf16-mixed", True, True)),
        (False, (7, 5), ("16-mixed", True, True)),
        (False, (6, 1), ("16-mixed", True, False)),
    ],
)
def test_auto_follows_the_gpu(
    bfloat16: bool, capability: tuple[int, int], expected: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(speed.shutil, "which", lambda name: "/usr/bin/cc")
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: name)
    assert chosen(RunConfig(**AUTO)) == expected
    assert chosen(RunConfig(accelerator="cpu", **AUTO)) == ON_A_CPU
    assert chosen(RunConfig(precision="32-true", channels_last=False, compile=False)) == ON_A_CPU
    assert chosen(RunConfig(**AUTO), RunConfig(precision="64-true", channels_last=False)) == ("64-true", False, False)
    monkeypatch.setattr(speed.shutil, "which", lambda name: None)
    assert chosen(RunConfig(**AUTO))[2] is False


def test_recipes_use_auto() -> None:
    for name in ("cifar/simclr", "paper/byol_hex"):
        run = Config.from_dict(load_recipe(name)).run
        assert (run.precision, run.channels_last, run.compile) == ("auto", "auto", "auto")


# Torch's tracer looks at the gradient of a tensor that it has made itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_run_has_the_same_checkpoints(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses the backend `aot_eager`, which traces like inductor. Inductor's kernels take minutes to build."""
    monkeypatch.setattr(speed, "BACKEND", "aot_eager")
    plain = pretrain(make_config(name="plain", recipe="mocov2_hex", accelerator="cpu", precision="auto"))
    assert yaml.safe_load((plain / "config.yaml").read_text())["run"]["precision"] == "32-true"
    torch._dynamo.reset()
    counters.clear()
    first = make_config(name="compiled", recipe="mocov2_hex", compile=True, keep_every=1)
    compiled = pretrain(first)
    # Of the backbone, the projector and the momentum encoder; no epoch, step or evaluation compiles anew.
    assert 2 <= counters["stats"]["unique_graphs"] <= 4
    for one, other in zip(read_metrics(compiled), read_metrics(plain), strict=True):
        assert one["knn_accuracy"] == pytest.approx(other["knn_accuracy"], abs=0.02)
        assert one.keys() == other.keys()
        if "loss" in other:  # all but the row of the untrained network
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert load_method(compiled).state_dict().keys() == load_method(plain).state_dict().keys()
    longer = replace(first, run=replace(first.run, epochs=3, compile=False, existing="resume"))
    assert read_metrics(pretrain(longer))[-1]["epoch"] == 3


def test_graphs_begin_a_step_with_its_views(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile gets the mode of CUDA graphs for networks and views. Without a GPU only this can be seen."""
    modes: list[str | None] = []
    begun: list[bool] = []

    def compile_(function: Any, *, mode: str | None = None, **options: Any) -> Any:
        modes.append(mode)
        return function

    config = make_config(recipe="mocov2_hex", accelerator="gpu", compile="graphs")
    data, method = build(config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(True))
    speed.compile_networks(method, data, config.run)
    assert modes == ["reduce-overhead"] * 4  # backbone, projector, momentum encoder, views
    data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert begun == [True]
    with pytest.raises(
        ValueError, match='expected no `run.virtual_batch_size` with `run.compile` "graphs", but got 64'
    ):
        speed.compile_networks(method, data, replace(config.run, virtual_batch_size=64))


def test_graphs_need_a_gpu(make_config: MakeConfig) -> None:
    config = make_config(name="graphs", compile="graphs", accelerator="cpu")
    with pytest.raises(ValueError, match='expected `run.compile` to be true, false or "auto" without a GPU'):
        pretrain(config)
    assert not (Path(config.run.root) / "graphs").exists()


def test_freed_buffers_stay_inside_and_are_returned_after() -> None:
    """A buffer of 64 MB has 16,384 pages, which the system would otherwise clear again."""

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    faults()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have freed would be used first
    start = resident()
    with kept_buffers():
        assert min(faults() for _ in range(5)) < 1_000
        assert resident() > start + 2**25
    assert resident() < start + 2**25
