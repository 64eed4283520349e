"""Images per second of the whole training loop beside the bare network step: one process, blocks interleaved.

    python benches/train.py                               # the small network on the CPU, batches of 256
    python benches/train.py --device cuda                 # ResNet-18, bf16, compiled, batches of 256 and 512
    python benches/train.py --quick                       # a look: tiny images and few steps, nothing saved

Each repeat runs a block of steps of each contender, the order turning from repeat to repeat:

- bare step: network, loss, backward and optimizer on one batch that stands ready, without Lightning, in the same
  precision, compiled or not, and with buffers kept as in the loop;
- loop, views on the device / in the workers: `hex_ssl.train`'s own, as `hex-ssl pretrain` runs it, with the callbacks
  of a run, but without an evaluation;
- loop in lightly's way: see `lightly_loop.py`;

and the parts of a step alone: data (the loader without workers), views (all that the device makes of a loaded batch;
the same compiled is no part of a run that is not), network (backbone and projector, forward and backward), loss (both
directions, with its statistics), optimizer. What the loop takes beyond its parts is the rest. Figures are the lower
quartile over the repeats: what else runs on the machine only ever adds. An image counts once, though both its views go
through the network.

On a busy machine `--clock cpu` counts the processor seconds of this process in the place of time, on one thread, and
leaves out the loops with workers.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

import lightly_loop
from hex_ssl.train import speed
from hex_ssl.train.buffers import kept_buffers
from hex_ssl.train.callbacks import EpochMetrics
from hex_ssl.train.config import (
    BackboneConfig,
    Config,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    RunConfig,
)
from hex_ssl.train.data import PretrainData, catalogue
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.data.hierarchy import Hierarchy
from hex_ssl.train.methods import build_method
from hex_ssl.train.methods.settings import SimCLRSettings
from hex_ssl.train.optim import build_optimizer
from hex_ssl.train.pretrain import build, prepare
from loss import machine
from peers import TEMPERATURE

BARE, LIGHTLY = "bare step", "loop in lightly's way"
LOOPS = {"loop, views on the device": "device", "loop, views in the workers": "workers"}
PARTS = ("data", "views", "network", "loss", "optimizer")
COMPILED = "views, compiled"
SHARE_OF_BARE, VIEWS_PER_SECOND = 0.85, 40_000
"""To reach on an H100: of the bare compiled step's rate, and in the whole loop."""


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class StepTimes(L.Callback):
    """Seconds per step of a run, without its first steps, which have batches made ahead.

    Args:
        skipped: Steps to leave out.
        steps: Steps to time.
        clock: Gives seconds.
    """

    def __init__(self, skipped: int, steps: int, clock: Callable[[], float]) -> None:
        self.skipped = skipped
        self.steps = steps
        self.clock = clock
        self._at: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 in (self.skipped, self.skipped + self.steps):
            wait(pl_module.device)
            self._at.append(self.clock())

    @property
    def seconds(self) -> float:
        """Of one step."""
        return (self._at[1] - self._at[0]) / self.steps


class Bench:
    """The contenders at one size of the batch.

    Args:
        settings: The command line.
        batch: Images of a batch.
        folder: Where the runs go.
    """

    def __init__(self, settings: argparse.Namespace, batch: int, folder: Path) -> None:
        self.settings = settings
        self.batch = batch
        self.folder = folder
        self.device = torch.device(settings.device)
        self.clock = CLOCKS[settings.clock]
        self.skipped = 2 * len(os.sched_getaffinity(0)) + 2 if settings.clock == "wall" else 2
        self.runs = 0
        images = -(-batch * (self.skipped + settings.steps) // 20)  # of each of 20 classes
        self.images = Hierarchy("train", images_per_class=images, image_size=settings.image_size)
        catalogue.GENERATED["hierarchy"] = lambda split: self.images

    def config(self, augment_on: str = "device", hex_: str = "adaptive") -> Config:
        """A run of SimCLR for one epoch."""
        self.runs += 1
        settings = self.settings
        return Config(
            SimCLRSettings(hidden_dim=2048, output_dim=128),
            LossConfig(hex=hex_, temperature=TEMPERATURE),  # type: ignore[arg-type]
            BackboneConfig(settings.backbone),
            DataConfig(
                "hierarchy",
                image_size=settings.image_size,
                batch_size=self.batch,
                augmentation="symmetric",
                augment_on=augment_on,  # type: ignore[arg-type]
            ),
            OptimizerConfig("lars", 0.4, warmup_epochs=0),
            RunConfig(
                name=f"run-{self.runs}",
                root=str(self.folder),
                epochs=1,
                accelerator="gpu" if self.device.type == "cuda" else self.device.type,
                precision="bf16-mixed" if settings.bf16 else "32-true",
                channels_last=settings.channels_last,
                compile=settings.compile,
                deterministic=settings.deterministic,
                progress=False,
            ),
        )

    def loop(self, augment_on: str) -> float:
        """Seconds per step of `hex_ssl.train`'s loop."""
        run = prepare(self.config(augment_on))
        times = StepTimes(self.skipped, self.settings.steps, self.clock)
        for each in run.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, EpochMetrics):
                each.evaluation = None
        run.trainer.callbacks.append(times)  # type: ignore[attr-defined]
        run.train()
        return times.seconds

    def lightly(self) -> float:
        """Seconds per step of a loop in lightly's way."""
        config = self.config()
        torch.manual_seed(0)
        method = build_method(config, 3, self.settings.image_size).to(self.device)
        network = torch.nn.Sequential(method.backbone, method.projector)  # type: ignore[arg-type]
        optimizer = build_optimizer([{"params": network.parameters()}], config.optimizer)
        images = torch.stack([self.images[row][0] for row in range(len(self.images))])
        stream = lightly_loop.batches(images, self.settings.image_size, self.batch, self.device.type == "cuda")
        times = StepTimes(self.skipped, self.settings.steps, self.clock)
        for number, _ in enumerate(lightly_loop.steps(network, optimizer, stream, self.device, self.settings.bf16)):
            times.on_train_batch_end(None, self, None, None, number)
        return times.seconds

    @cached_property
    def parts(self) -> "Parts":
        """The bare step and its parts."""
        return Parts(self.config(), self.config(hex_="off"), self.device, self.settings)

    def measure(self) -> dict[str, float]:
        """The lower quartiles of the seconds, by contender and part."""
        contenders: dict[str, Callable[[], float]] = {BARE: self.parts.bare}
        for name, augment_on in LOOPS.items():
            if augment_on == "device" or self.settings.clock == "wall":
                contenders[name] = lambda on=augment_on: self.loop(on)  # type: ignore[misc]
        if self.settings.clock == "wall":
            contenders[LIGHTLY] = self.lightly
        seen: dict[str, list[float]] = {}
        for repeat in range(self.settings.repeats):
            names = list(contenders)
            names = names[repeat % len(names) :] + names[: repeat % len(names)]
            for name in names:
                seen.setdefault(name, []).append(contenders[name]())
                print(f"{self.batch}, {repeat}: {name} {1e3 * seen[name][-1]:.1f} ms", flush=True)
            for name, seconds in self.parts.each().items():
                seen.setdefault(name, []).append(seconds)
        return {name: lower_quartile(seconds) for name, seconds in seen.items()}


class Parts:
    """The bare step of a run, and its parts, on batches that stand ready.

    Args:
        config: The run.
        plain: The same without HEX.
        device: Where it is.
        settings: The command line.
    """

    def __init__(self, config: Config, plain: Config, device: torch.device, settings: argparse.Namespace) -> None:
        self.device = device
        self.steps = settings.steps
        self.clock = CLOCKS[settings.clock]
        self.half = settings.bf16
        self.deterministic = config.run.deterministic
        self.data, self.method = build(config)
        self.plain = build(plain)[1].to(device)
        if config.run.compile:
            speed.compile_networks(self.method, self.data, config.run)
        self.compiled = build(config)[0]
        self.compiled.views.compile(backend=settings.backend)
        self.method.to(device)
        self.optimizer = build_optimizer(self.method.parameter_groups(), config.optimizer)
        self.loader = PretrainData(replace(config.data, num_workers=0), 0)
        self.batch = next(self._batches())
        with self._autocast():
            embeddings = self.method.embed(self.batch.views)
        self.embeddings = tuple(each.detach() for each in embeddings)
        self.gradients = tuple(torch.randn_like(each) for each in embeddings)
        self.bare()

    def bare(self) -> float:
        """Seconds of a step, without Lightning."""
        return self._timed(self._step)

    def each(self) -> dict[str, float]:
        """Seconds of each part."""
        stream, loaded = self._loaded(), next(self._loaded())
        return {
            "data": self._timed(lambda: next(stream)),
            "views": self._timed(lambda: self.data.on_after_batch_transfer(loaded, 0)),
            COMPILED: self._timed(lambda: self.compiled.on_after_batch_transfer(loaded, 0)),
            "network": self._timed(self._network),
            "loss": self._timed(lambda: self._loss(self.method)),
            "loss, NT-Xent": self._timed(lambda: self._loss(self.plain)),
            "optimizer": self._timed(self.optimizer.step),
        }

    def _step(self) -> None:
        self.optimizer.zero_grad()
        with self._autocast():
            loss = self.method.compute_loss(self.method.embed(self.batch.views), self.batch)
        loss.backward()
        self.optimizer.step()

    def _network(self) -> None:
        self.optimizer.zero_grad()
        with self._autocast():
            embeddings = self.method.embed(self.batch.views)
        torch.autograd.backward(embeddings, self.gradients)

    def _loss(self, method: Any) -> None:
        leaves = tuple(each.requires_grad_() for each in self.embeddings)
        with self._autocast():
            loss: Tensor = method.compute_loss(leaves, self.batch)
        loss.backward()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()

    def _loaded(self) -> Iterator[Any]:
        epoch = 0
        while True:
            self.loader.resume(epoch, 0)
            for loaded in self.loader.train_dataloader():
                on_device = [each.to(self.device) for each in loaded[1:]]
                yield type(loaded)(tuple(each.to(self.device) for each in loaded.images), *on_device)
            epoch += 1

    def _batches(self) -> Iterator[Batch]:
        for loaded in self._loaded():
            yield self.data.on_after_batch_transfer(loaded, 0)

    def _timed(self, run: Callable[[], object]) -> float:
        """Seconds of one call, the mean of a block."""
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(self.deterministic, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        with kept_buffers():
            for _ in range(2):
                run()
            wait(self.device)
            start = self.clock()
            for _ in range(self.steps):
                run()
            wait(self.device)
            taken = (self.clock() - start) / self.steps
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
        return taken


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lower_quartile(seconds: list[float]) -> float:
    """The quantile 0.25."""
    return float(torch.tensor(seconds, dtype=torch.float64).quantile(0.25))


def table(found: dict[str, float], batch: int) -> str:
    """Milliseconds, images per second, and shares of the bare step."""
    bare, parts = found[BARE], sum(found[name] for name in PARTS)
    lines = ["| | ms per batch | images/s | x bare step |", "|---|---|---|---|"]
    for name, seconds in found.items():
        lines.append(f"| {name} | {1e3 * seconds:,.2f} | {batch / seconds:,.0f} | {seconds / bare:.3f} |")
    device = found["loop, views on the device"]
    rest = device - parts
    lines.append(f"| rest of the loop on the device | {1e3 * rest:,.2f} | | {rest / bare:.3f} |")
    lines += [
        "",
        f"The loop with views on the device runs at {bare / device:.1%} of the bare step's rate; without the views it "
        f"takes {(device - found['views'] - bare) / bare:+.1%} of the bare step more.",
    ]
    if LIGHTLY in found:
        rates = ", ".join(f"{where} {found[LIGHTLY] / found[name]:.2f}" for name, where in LOOPS.items())
        lines[-1] += f" Rates beside that of the loop in lightly's way: {rates}."
    return "\n".join(lines)


def targets(found: dict[str, float], batch: int) -> str:
    """What is to be reached on an H100, and what was found."""
    seconds = min(found[name] for name in LOOPS if name in found)
    return (
        f"Targets on an H100: {SHARE_OF_BARE:.0%} of the bare step's rate, found {found[BARE] / seconds:.0%}; "
        f"{VIEWS_PER_SECOND:,} views/s in the whole loop, found {2 * batch / seconds:,.0f}."
    )


def arguments() -> argparse.Namespace:
    """The command line, with the defaults of the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backbone", help="default: small_resnet on a CPU, resnet18 on a GPU")
    parser.add_argument("--batch", type=int, nargs="+", help="default: 256, on a GPU 256 and 512")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--steps", type=int, help="of a block; default: 8, on a GPU 100")
    parser.add_argument("--repeats", type=int, default=8)
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--bf16", action=flag, help="default: on a GPU")
    parser.add_argument("--channels-last", action=flag, help="default: on a GPU")
    parser.add_argument("--compile", action=flag, help="default: on a GPU")
    parser.add_argument("--backend", default=speed.BACKEND, help="of torch.compile; aot_eager for a rehearsal")
    parser.add_argument("--deterministic", action=flag, default=True)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--label", default="", help="a word for the files' names, such as before")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--quick", action="store_true", help="tiny images and few steps, nothing saved")
    found = parser.parse_args()
    on_gpu = found.device.startswith("cuda")
    defaults: dict[str, Any] = {
        "backbone": "resnet18" if on_gpu else "small_resnet",
        "batch": [256, 512] if on_gpu else [256],
        "steps": 100 if on_gpu else 8,
        "bf16": on_gpu,
        "channels_last": on_gpu,
        "compile": on_gpu,
    }
    for name, value in defaults.items():
        if getattr(found, name) is None:
            setattr(found, name, value)
    if found.quick:
        found.image_size, found.batch, found.steps, found.repeats = 8, [16], 2, 1
    return found


def main() -> None:
    """Measures, prints, saves."""
    settings = arguments()
    speed.BACKEND = settings.backend
    if settings.clock == "cpu":
        torch.set_num_threads(1)
    texts, record = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for batch in settings.batch:
            found = Bench(settings, batch, Path(folder) / str(batch)).measure()
            record[str(batch)] = found
            texts.append(f"## Batches of {batch}\n\n{table(found, batch)}\n\n{targets(found, batch)}")
    text = "\n\n".join(texts)
    print(f"\n{machine()}\n\n{text}")
    if settings.quick:
        return
    settings.out.mkdir(exist_ok=True)
    stem = settings.out / "-".join(filter(None, ["loop", settings.device, str(date.today()), settings.label]))
    command = " ".join(["python", os.path.relpath(__file__), *sys.argv[1:]])
    load = f"Load of the machine over the last 5 minutes: {os.getloadavg()[1]:.1f}."
    title = f"# A SimCLR loop on {settings.device}: {settings.backbone}, {settings.image_size} pixels, {date.today()}"
    stem.with_suffix(".md").write_text(f"{title}\n\n{machine()}\n\n{load}\n\n`{command}`\n\n{text}\n")
    saved = {name: value for name, value in vars(settings).items() if name not in ("quick", "out")}
    whole = {"machine": machine(), "load": os.getloadavg(), "settings": saved, "seconds": record}
    stem.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
