"""A linear classifier that is trained during pretraining."""

import math
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from hex_ssl.distributed import is_distributed
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.evaluate.features import Features
from hex_ssl.train.methods import Method


class OnlineClassifier(L.Callback):
    """Linear classifiers of classes and superclasses on the detached representations of the backbone.

    The classifiers use the representations that the method computes for its views and make a step with AdamW after each
    batch. They do not affect the method's gradients or its optimizer. Images without a label (-1) are ignored. The
    checkpoint contains the classifiers' weights and optimizer.

    Args:
        classes: Number of classes.
        superclasses: int64 [classes], the superclass of each class, or None.
        learning_rate: Learning rate of AdamW. It decays to 0 over the run along half a cosine.

    Raises:
        ValueError: `classes` is below 1.
    """

    def __init__(self, classes: int, superclasses: Tensor | None = None, learning_rate: float = 1e-2) -> None:
        if classes < 1:
            raise ValueError(f"expected `classes` to be at least 1, but got {classes}")
        self.superclasses = superclasses
        self.learning_rate = learning_rate
        self.sizes = {"classifier_accuracy": classes}
        if superclasses is not None:
            self.sizes["classifier_superclass_accuracy"] = int(superclasses.max()) + 1
        self._classifiers: nn.ModuleDict | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._restored: dict[str, Any] | None = None
        self._rows: list[Tensor] = []
        self._hook: RemovableHandle | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        self._hook = pl_module.backbone.register_forward_hook(self._collect)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._rows = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Method)
        cache = pl_module.gradient_cache
        h = torch.cat(self._rows).float()
        self._rows = []
        if cache is not None:  # the backbone ran a second time over each image
            h = h[: len(h) // 2]
        labels = _labels_of_rows(batch.labels, len(h), len(batch.labels) if cache is None else cache.chunk)
        total = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        self.learn(h, labels, share_done=trainer.fit_loop.epoch_loop.total_batch_idx / total)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()

    def learn(self, h: Tensor, labels: Tensor, share_done: float = 0.0) -> None:
        """Makes one step of each classifier.

        Args:
            h: Representations [M, F].
            labels: int64 [M], -1 for rows without a label.
            share_done: Fraction of the run that is done, in [0, 1].
        """
        classifiers, optimizer = self._built(h)
        optimizer.param_groups[0]["lr"] = self.learning_rate * (1 + math.cos(math.pi * share_done)) / 2
        # Selecting the labelled rows would wait for the GPU.
        count = (labels >= 0).sum().clamp(min=1)
        with torch.enable_grad(), torch.autocast(h.device.type, enabled=False):
            # If a process has no labelled image, the sum is 0 and has a gradient, so that it joins the all-reduce.
            losses = [
                F.cross_entropy(classifiers[name](h), self._targets(name, labels), ignore_index=-1, reduction="sum")
                / count
                for name in self.sizes
            ]
            gradients = torch.autograd.grad(torch.stack(losses).sum(), list(classifiers.parameters()))
        for parameter, gradient in zip(classifiers.parameters(), gradients, strict=True):
            if is_distributed():
                dist.all_reduce(gradient)
                gradient = gradient / dist.get_world_size()
            parameter.grad = gradient
        optimizer.step()

    @torch.no_grad()
    def predictions(self, features: Features) -> dict[str, Tensor]:
        """For each classifier, by the name of its metric: bool [M], whether it classifies each row correctly."""
        classifiers, _ = self._built(features.h)
        return {
            name: classifiers[name](features.h.float()).argmax(dim=1) == self._targets(name, features.labels)
            for name in self.sizes
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer. Empty before the first step."""
        if self._classifiers is None or self._optimizer is None:
            return self._restored or {}
        return {"weights": self._classifiers.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a saved state once the width of the representations is known."""
        self._restored = state_dict or None

    def _built(self, h: Tensor) -> tuple[nn.ModuleDict, torch.optim.Optimizer]:
        if self._classifiers is None or self._optimizer is None:
            made = nn.ModuleDict({name: nn.Linear(h.shape[1], size) for name, size in self.sizes.items()}).to(h.device)
            for parameter in made.parameters():
                nn.init.zeros_(parameter)  # no random numbers; a linear classifier needs no symmetry breaking
            optimizer = torch.optim.AdamW(made.parameters(), lr=self.learning_rate, weight_decay=0.0)
            if self._restored is not None:
                made.load_state_dict(self._restored["weights"])
                optimizer.load_state_dict(self._restored["optimizer"])
            self._classifiers, self._optimizer, self._restored = made, optimizer, None
        return self._classifiers, self._optimizer

    def _targets(self, name: str, labels: Tensor) -> Tensor:
        if name == "classifier_accuracy":
            return labels
        assert self.superclasses is not None
        self.superclasses = self.superclasses.to(labels.device)
        targets = self.superclasses[labels.clamp(min=0)]
        return targets.where(labels >= 0, -1)

    def _collect(self, module: nn.Module, inputs: Any, h: Tensor) -> None:
        if module.training:
            self._rows.append(h.detach())


def _labels_of_rows(labels: Tensor, rows: int, chunk: int) -> Tensor:
    """The labels of `rows` representations in the order in which a method computes them: view by view in each chunk."""
    views = rows // len(labels)  # a method may pass fewer views through the backbone than it gets
    return torch.cat([part.repeat(views) for part in labels.split(chunk)])
