"""Small methods and batches for the tests."""

from typing import Any

import torch
from torch import Tensor, nn

from hex_ssl.train.config import BackboneConfig, Config, DataConfig, LossConfig, RunConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods import METHODS, Method, build_method

HEADS: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_dim": 32, "output_dim": 16},
    "nnclr": {"hidden_dim": 32, "output_dim": 16, "predictor_dim": 32, "queue_size": 96},
    "all4one": {"hidden_dim": 32, "output_dim": 16, "predictor_dim": 32, "queue_size": 96, "momentum": 0.9},
    "barlow_twins": {"hidden_dim": 32, "output_dim": 24},
    "byol": {"hidden_dim": 32, "output_dim": 16, "predictor_dim": 32, "momentum": 0.9},
    "mocov2": {"hidden_dim": 32, "output_dim": 16, "queue_size": 96, "momentum": 0.9},
    "vicreg": {"hidden_dim": 32, "output_dim": 24},
    "simsiam": {"hidden_dim": 32, "output_dim": 24, "predictor_dim": 8},
}


def small_config(name: str, settings: dict[str, Any] | None = None, **loss: Any) -> Config:
    """The configuration of a method with small heads for 8x8 images. `loss` are settings of the loss."""
    return Config(
        method=METHODS[name](**(HEADS[name] | (settings or {}))),
        loss=LossConfig(**loss),
        backbone=BackboneConfig(width=4),
        data=DataConfig(image_size=8),
        run=RunConfig(epochs=10),
    )


def small_method(name: str, settings: dict[str, Any] | None = None, seed: int = 0, **loss: Any) -> Method:
    """The method of `small_config`."""
    torch.manual_seed(seed)
    return build_method(small_config(name, settings, **loss), channels=1)


def without_norms(method: Method) -> Method:
    """The method in float64, without batch norm and dropout."""
    method.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh())
    if hasattr(method, "momentum_encoder"):
        method.momentum_encoder.encoder[0] = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh())
        method.momentum_encoder.encoder[0].load_state_dict(method.backbone.state_dict())
        method.momentum_encoder.requires_grad_(False)
    for parent in list(method.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(parent, name, nn.Identity())
            if isinstance(child, nn.Dropout):
                child.p = 0.0
            if isinstance(child, nn.MultiheadAttention):
                child.dropout = 0.0
    return method.double()


def random_batch(images: int = 24, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """A batch of images of four classes, whose two views are similar."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (images,), generator=generator)
    kinds = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(99), dtype=dtype)[labels]
    base = kinds + torch.rand(images, 1, 8, 8, generator=generator, dtype=dtype)
    views = tuple(base + 0.2 * torch.randn(base.shape, generator=generator, dtype=dtype) for _ in range(2))
    return Batch(views, labels, torch.arange(images) + 1000 * seed)


def part_of(batch: Batch, rows: slice) -> Batch:
    """Some of the images of a batch."""
    return Batch(tuple(view[rows] for view in batch.views), batch.labels[rows], batch.indices[rows])


def step(method: Method, batch: Batch) -> Tensor:
    """Makes a step without a trainer. Returns the loss, and fills the queue."""
    embeddings = method.embed(batch.views)
    loss = method.compute_loss(embeddings, batch)
    method.after_loss(embeddings, batch)
    return loss
