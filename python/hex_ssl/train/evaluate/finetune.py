"""Fine-tuning: the whole network and a linear layer, trained with labels."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset
from torchvision.transforms import v2

from hex_ssl.train.data.draws import draw_keys, seeded
from hex_ssl.train.data.lost_batch import end_on_lost_batch
from hex_ssl.train.evaluate.linear import shuffled_batches
from hex_ssl.train.evaluate.settings import FinetuneSettings
from hex_ssl.train.extras import train_extra
from hex_ssl.train.progress import followed

Images = Dataset[tuple[Tensor, int]]


def train_network(
    network: nn.Module,
    images: Callable[[int], Images],
    count: int,
    classes: int,
    settings: FinetuneSettings,
    seed: int = 0,
    num_workers: int = 0,
) -> nn.Sequential:
    """Trains a copy of the network, with a linear layer after it, on the cross-entropy.

    Learning rates decay to 0 along half a cosine, updated at each step. Each epoch has a new order, in batches whose
    sizes differ by at most one.

    Args:
        network: Network from images [N, C, H, W] to representations [N, F]. It is not changed.
        images: Function that returns the images (view, label) of an epoch, counted from 0.
        count: Number of images.
        classes: C.
        settings: The protocol.
        seed: Seed of the layer's initial weights, the order, dropout and the mixing of images.
        num_workers: Number of DataLoader workers.

    Returns:
        A network from images to logits [N, C], in training mode, on the network's device.

    Raises:
        ValueError: There is only one image, or `layer_decay` is set for a network that is not a model of timm.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> images = TensorDataset(torch.eye(4).view(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]))
        >>> model = train_network(network, lambda epoch: images, 4, 2, FinetuneSettings(finetune_epochs=2))
        >>> model(torch.zeros(1, 1, 2, 2)).shape
        torch.Size([1, 2])
    """
    if count < 2:
        raise ValueError(f"expected at least 2 images to train with, but got {count}")
    device = next(network.parameters()).device
    with seeded(seed):
        head = nn.Linear(_width(network, images(0)[0][0], device), classes)
    model = nn.Sequential(copy.deepcopy(network), head.to(device)).train()
    optimizer = _optimizer(model, settings)
    steps = settings.finetune_epochs * math.ceil(count / settings.finetune_batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    mix = _mixing(settings, classes)
    order = torch.Generator().manual_seed(seed)
    step = 0
    for epoch in range(settings.finetune_epochs):
        batches = [rows.tolist() for rows in shuffled_batches(count, settings.finetune_batch_size, order)]
        loader = DataLoader(
            images(epoch),
            batch_sampler=cast(BatchSampler, batches),
            num_workers=num_workers,
            worker_init_fn=end_on_lost_batch,
            generator=torch.Generator(),  # otherwise it would draw from torch's global generator
        )
        for views, labels in followed(loader, f"fine-tuning, epoch {epoch + 1}", len(loader)):
            with _seeded_step(seed, step, device):  # dropout and mixing draw from torch's generators
                mixed, targets = mix(views.to(device), labels.to(device))
                loss = F.cross_entropy(model(mixed), targets, label_smoothing=settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
    return model


@torch.no_grad()
def _width(network: nn.Module, image: Tensor, device: torch.device) -> int:
    training = network.training
    network.eval()
    width = int(network(image[None].to(device)).shape[1])
    network.train(training)
    return width


def _optimizer(model: nn.Sequential, settings: FinetuneSettings) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = []
    for part, learning_rate in ((model[0], settings.learning_rate), (model[1], settings.head_learning_rate)):
        layer_decay = settings.layer_decay if part is model[0] else 1.0
        for group in _layers(part, settings.weight_decay, layer_decay):
            groups.append({**group, "lr": learning_rate * group.pop("lr_scale", 1.0)})
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=settings.momentum)


def _layers(network: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups. Norms and biases do not decay, and with `layer_decay` each layer has its own learning rate."""
    with train_extra():
        # Imported here because timm is slow to import. It does not mark these names as exported.
        from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]
    if layer_decay == 1.0:
        return cast("list[dict[str, Any]]", param_groups_weight_decay(network, weight_decay))
    if not hasattr(network, "group_matcher"):
        raise ValueError(
            f"expected `layer_decay` to be 1.0 for a network that does not name its layers, as timm's models do, "
            f"but got {layer_decay} for {type(network).__name__}"
        )
    return cast("list[dict[str, Any]]", param_groups_layer_decay(network, weight_decay, layer_decay=layer_decay))


def _mixing(settings: FinetuneSettings, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns a function that mixes views and their labels by mixup or CutMix, or leaves both unchanged."""
    kinds: list[v2.Transform] = []
    if settings.mixup:
        kinds.append(v2.MixUp(alpha=settings.mixup, num_classes=classes))
    if settings.cutmix:
        kinds.append(v2.CutMix(alpha=settings.cutmix, num_classes=classes))
    return v2.RandomChoice(kinds) if kinds else lambda views, labels: (views, labels)


@contextmanager
def _seeded_step(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's generators of the CPU and the device with seed and step, and restores them afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(draw_keys(seed, 0, step)))
        yield
