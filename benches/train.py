"""Images per second of a SimCLR step, split into data, backbone and loss: HEX beside NT-Xent, medians, interleaved.

    python benches/train.py            # ResNet-18, 32x32, batches of 256; writes a table and JSON to benches/results/
    python benches/train.py --quick    # a small network and small batches, nothing saved

An image counts once, though both its views go through the backbone. "data" is the loader alone; "step" is forward,
loss, backward and optimizer on a batch that stands ready; "training" is steps fed by the loader, on the same cores.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from hex_ssl.train.config import BackboneConfig, Config, DataConfig, LossConfig, OptimizerConfig
from hex_ssl.train.data import PretrainData
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods import Method, build_method
from hex_ssl.train.methods.settings import SimCLRSettings
from hex_ssl.train.optim import build_optimizer
from loss import machine

LOSSES = {"HEX": "adaptive", "NT-Xent": "off"}


class Steps:
    """A SimCLR network with its optimizer, and the parts of its step."""

    def __init__(self, config: Config, data: PretrainData, device: torch.device) -> None:
        torch.manual_seed(0)
        self.method: Method = build_method(config, data.channels, data.image_size).to(device)
        self.optimizer = build_optimizer(self.method.parameter_groups(), config.optimizer)

    def step(self, batch: Batch) -> None:
        """A whole step."""
        self.optimizer.zero_grad()
        self.method.compute_loss(self.method.embed(batch.views), batch).backward()
        self.optimizer.step()

    def networks(self, batch: Batch, gradients: tuple[Tensor, ...]) -> None:
        """Backbone and projector, forward and backward from given gradients, and the optimizer."""
        self.optimizer.zero_grad()
        torch.autograd.backward(self.method.embed(batch.views), gradients)
        self.optimizer.step()

    def loss(self, embeddings: tuple[Tensor, ...], batch: Batch) -> None:
        """The loss alone, forward and backward, with its statistics."""
        leaves = tuple(each.detach().requires_grad_() for each in embeddings)
        self.method.compute_loss(leaves, batch).backward()


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batches(data: PretrainData, device: torch.device) -> Iterator[Batch]:
    """Batches without end, ready on the device."""
    epoch = 0
    while True:
        data.resume(epoch, 0)
        for loaded in data.train_dataloader():
            moved = type(loaded)(tuple(each.to(device) for each in loaded.images), *(e.to(device) for e in loaded[1:]))
            yield data.on_after_batch_transfer(moved, 0)
        epoch += 1


def measure(arguments: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Medians in seconds."""
    data_config = DataConfig(
        "hierarchy",
        image_size=arguments.image_size,
        batch_size=arguments.batch,
        num_workers=arguments.workers,
        augmentation="symmetric",
        augment_on=arguments.augment_on,
    )
    data = PretrainData(data_config, seed=0)
    networks = {
        name: Steps(
            Config(
                SimCLRSettings(hidden_dim=2048, output_dim=128),
                LossConfig(hex=hex_),  # type: ignore[arg-type]
                BackboneConfig(arguments.backbone),
                data_config,
                OptimizerConfig("lars", 0.4),
            ),
            data,
            device,
        )
        for name, hex_ in LOSSES.items()
    }
    data_alone = loader_alone(data, device, arguments.repeats)
    stream = batches(data, device)
    batch = next(stream)
    embeddings = networks["HEX"].method.embed(batch.views)
    gradients = tuple(torch.randn_like(each) for each in embeddings)
    seen: dict[str, list[float]] = {}

    def note(name: str, run: Callable[[], object]) -> None:
        seen.setdefault(name, []).append(timed(run, device))

    for each in networks.values():  # warm-up
        each.step(batch)
        each.loss(embeddings, batch)
    for _ in range(arguments.repeats):
        for name, each in networks.items():
            note(f"step, {name}", lambda each=each: each.step(batch))
        # The batch taken lies ready; in its place the loader makes another, on the cores of this very step.
        note("training, HEX", lambda: networks["HEX"].step(next(stream)))
        note("backbone", lambda: networks["HEX"].networks(batch, gradients))
        for _ in range(10):
            for name, each in networks.items():
                note(f"loss, {name}", lambda each=each: each.loss(embeddings, batch))
    medians: dict[str, object] = {name: statistics.median(each) for name, each in seen.items()}
    return {**medians, "data": data_alone}


def loader_alone(data: PretrainData, device: torch.device, count: int) -> float:
    """Seconds per batch of the loader alone, after as many batches as it makes ahead."""
    stream = batches(data, device)
    for _ in range(2 * data.workers() + 1):
        next(stream)
    return timed(lambda: [next(stream) for _ in range(count)], device) / count


def table(found: dict[str, object], batch: int) -> str:
    """Milliseconds per batch and images per second."""
    order = ["data", "backbone", "loss, HEX", "loss, NT-Xent", "step, HEX", "step, NT-Xent", "training, HEX"]
    lines = ["| part | ms per batch | images per second |", "|---|---|---|"]
    for name in order:
        seconds = float(found[name])  # type: ignore[arg-type]
        lines.append(f"| {name} | {1e3 * seconds:,.2f} | {batch / seconds:,.0f} |")
    hex_, plain, step, training, data = (
        float(found[name])  # type: ignore[arg-type]
        for name in ("loss, HEX", "loss, NT-Xent", "step, HEX", "training, HEX", "data")
    )
    lines.append(
        f"\nHEX over NT-Xent costs {100 * (hex_ - plain) / step:+.3f} % of the step. "
        f"Training reaches {100 * step / training:.0f} % of the step's own speed; "
        f"the loader alone, on the same cores, takes {100 * data / step:.1f} % of the step's time."
    )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=None, help="processes that load images; default: the cores")
    parser.add_argument("--augment-on", choices=["workers", "device"], default="workers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small network and small batches, nothing saved")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.backbone, arguments.batch, arguments.image_size, arguments.repeats = "small_resnet", 32, 16, 2
    found = measure(arguments, torch.device(arguments.device))
    text = table(found, arguments.batch)
    print(f"{machine()}\n\n{text}")
    if arguments.quick:
        return
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    stem = folder / f"train-{arguments.device}-{arguments.augment_on}-{date.today()}"
    command = " ".join(["python", os.path.relpath(__file__), *sys.argv[1:]])
    load = f"Load of the machine over the last 5 minutes: {os.getloadavg()[1]:.1f}."
    stem.with_suffix(".md").write_text(
        f"# A SimCLR step on {arguments.device}, {date.today()}\n\n{machine()}\n\n{load}\n\n`{command}`\n\n{text}\n"
    )
    settings = {name: value for name, value in vars(arguments).items() if name != "quick"}
    record = {"machine": machine(), "load": os.getloadavg(), "settings": settings, "seconds": found}
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
