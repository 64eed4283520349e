"""The golden numbers, as records that contain their settings and can check any implementation."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from .reference import Layout, Settings, apart_layout, evaluate, views_layout

FOLDER = Path(__file__).parent / "golden"
ARRAYS = {name: torch.from_numpy(array) for name, array in np.load(FOLDER / "golden.npz").items()}


@dataclass(frozen=True)
class Record:
    """One golden loss and gradient."""

    case: str
    name: str
    settings: Settings

    def __str__(self) -> str:
        return f"{self.case}.{self.name}"

    def array(self, name: str) -> Tensor:
        """An input of the record."""
        return ARRAYS[f"{self.case}.{name}"]

    @property
    def labels(self) -> Tensor | None:
        """The samples' labels, where they decide."""
        return self.array("superclass") if self.settings.threshold == "labels" else None

    def views(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The two views that the loss compares."""
        z1, z2 = z.chunk(2)
        return (self.array("nn").to(z), z2) if self.name.startswith("nnclr") else (z1, z2)

    def evaluate_reference(self, z: Tensor) -> Tensor:
        """The reference's loss."""
        z1, z2 = self.views(z)
        labels = None if self.labels is None else self.labels.repeat(2)
        layout: Layout
        if self.name == "mocov2":
            queue = self.array("queue").to(z)
            anchors, candidates = z1, torch.cat([queue, z2.detach()])
            layout = apart_layout(len(z1), len(queue))
        else:
            anchors = candidates = torch.cat([z1, z2])
            layout = views_layout(len(z1), 2)
        return evaluate(anchors, candidates, layout, self.settings, labels, labels).reduced("mean")

    def check(self, loss_of: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> None:
        """Assert that `loss_of` z has the golden value and gradient, with z in `dtype` or as recorded."""
        recorded = self.array("z")
        z = recorded.to(dtype or recorded.dtype, copy=True).requires_grad_()
        loss = loss_of(z)
        loss.backward()
        tolerance = 1e-10 if z.dtype == recorded.dtype == torch.float64 else 1e-5
        golden_loss, golden_gradient = self.array(f"{self.name}.loss"), self.array(f"{self.name}.grad")
        assert z.grad is not None
        assert loss.item() == pytest.approx(golden_loss.item(), rel=tolerance, abs=0)
        error = (z.grad.double() - golden_gradient.double()).norm() / golden_gradient.double().norm()
        assert error.item() < tolerance, f"{self}: the gradient is off by {error.item():.1e} of its norm"
        worst = (z.grad.double() - golden_gradient.double()).abs().max() / golden_gradient.double().abs().max()
        assert worst.item() < tolerance, (
            f"{self}: an element of the gradient is off by {worst.item():.1e} of the largest"
        )


def _settings(record: dict[str, object]) -> Settings:
    name, base = str(record["name"]), Settings(temperature=float(record["temperature"]))  # type: ignore[arg-type]
    if name.startswith("hcl"):
        return base.but(threshold="cosine", value=-math.inf, beta=record["beta"], tau_plus=record["tau_plus"])
    if name in ("ntxent", "mocov2"):
        return base.but(threshold="cosine", value=1.0)
    base = base.but(formulation="official")
    if "fixed" in name:
        return base.but(threshold="minmax", value=record["threshold"])
    return base.but(threshold="labels") if "superclass" in name else base


_LOADED: list[dict[str, Any]] = json.loads((FOLDER / "golden.json").read_text())
OTHER_LOSSES = ("barlow", "vicreg", "byol", "simsiam", "nnclr")
RECORDS = [
    Record(record["case"], record["name"], _settings(record))
    for record in _LOADED
    if record["name"] not in OTHER_LOSSES
]
"""HEX and the losses that are special cases of it."""
OTHER_RECORDS = [
    (Record(record["case"], record["name"], Settings(temperature=record["temperature"])), record)
    for record in _LOADED
    if record["name"] in OTHER_LOSSES
]
"""The other methods' losses, each with its settings as recorded."""
