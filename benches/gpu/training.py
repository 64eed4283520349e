"""Step: `python -m gpu.training`: a ResNet-18 training step, by its parts and through hex-ssl's own loop.

The images are generated; nothing is read from a disk. Loss HEX beside NT-Xent.
"""

import statistics
import tempfile
import time
from argparse import Namespace
from itertools import pairwise
from typing import Any

import lightning as L
import torch

import train
from gpu.records import REHEARSAL, emit
from gpu.workload import DEVICE, synchronize
from hex_ssl import pretrain
from hex_ssl.config import BackboneConfig, Config, DataConfig, LossConfig, MethodConfig, OptimizerConfig, RunConfig

SIZES: dict[str, Any] = {"backbone": "resnet18", "batch": 256, "image_size": 32, "repeats": 5}
if REHEARSAL:
    SIZES = {"backbone": "small_resnet", "batch": 32, "image_size": 16, "repeats": 1}


class Times(L.Callback):
    """When each step was done, the device included."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.epochs: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        """A step is done."""
        synchronize()
        self.ends.append(time.perf_counter())

    def on_train_epoch_end(self, *_: object) -> None:
        """An epoch is done, the time between epochs part of the next."""
        self.epochs.append(time.perf_counter())

    def step_ms(self) -> float:
        """Median between the ends of two steps, of the second half of them."""
        late = self.ends[len(self.ends) // 2 :]
        return 1e3 * statistics.median(b - a for a, b in pairwise(late))

    def epoch_seconds(self) -> float:
        """Median, of the second half."""
        late = self.epochs[len(self.epochs) // 2 - 1 :]
        return statistics.median(b - a for a, b in pairwise(late))


def config(hex_: str, precision: str, folder: str) -> Config:
    """SimCLR on generated images, with the views made on the device."""
    return Config(
        MethodConfig("simclr", hidden_dim=2048, output_dim=128),
        LossConfig(hex=hex_),  # type: ignore[arg-type]
        BackboneConfig(SIZES["backbone"]),
        DataConfig("hierarchy", image_size=SIZES["image_size"], batch_size=SIZES["batch"], num_workers=0,
                   augmentation="symmetric", augment_on="device", fraction=0.1 if REHEARSAL else 1.0),
        OptimizerConfig("lars", 0.4),
        RunConfig(name=f"{hex_}-{precision}", root=folder, epochs=3 if REHEARSAL else 12, knn_every=1000,
                  classifier=False, precision=precision, channels_last=not REHEARSAL,  # type: ignore[arg-type]
                  accelerator="cpu" if REHEARSAL else "gpu", deterministic=False, progress=False),
    )  # fmt: skip


def loop(hex_: str, precision: str) -> None:
    """Some epochs of `hex-ssl pretrain`."""
    times = Times()
    with tempfile.TemporaryDirectory() as folder:
        run = pretrain.prepare(config(hex_, precision, folder))
        run.trainer.callbacks.append(times)  # type: ignore[attr-defined]
        run.train()
    steps = len(times.ends) / len(times.epochs)
    found = {"step_ms": times.step_ms(), "epoch_ms_a_step": 1e3 * times.epoch_seconds() / steps}
    rate = SIZES["batch"] / found["step_ms"] * 1e3
    told = {"precision": precision, "loss": "HEX" if hex_ == "adaptive" else "NT-Xent"}
    emit("training", what="loop", **told, **SIZES, steps=len(times.ends), **found, images_per_second=rate)


def parts() -> None:
    """Data, backbone, loss and step apart, in float32, as benches/train.py has them."""
    arguments = Namespace(**SIZES, workers=0, augment_on="device")
    seconds = train.measure(arguments, torch.device(DEVICE))
    emit("training", what="parts", precision="32-true", **SIZES, seconds=seconds)


if __name__ == "__main__":
    for hex_ in ("adaptive", "off"):
        loop(hex_, "32-true" if REHEARSAL else "bf16-mixed")
    parts()
