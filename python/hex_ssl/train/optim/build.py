"""Builds the optimizer of a configuration: parameter groups, and the learning rate scaled by the batch size."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hex_ssl.train.config import OptimizerConfig
from hex_ssl.train.extras import train_extra
from hex_ssl.train.optim.schedule import Lengths, build_schedule

if TYPE_CHECKING:
    import lightning as L

REFERENCE_BATCH = 256
"""Images per optimizer step for which the learning rate of a recipe is given."""

Group = dict[str, Any]
"""A parameter group: `params`, and optionally `learning_rate` (not scaled by the batch size), `decay` (False: no weight
decay) and `constant_learning_rate` (True: no schedule)."""


def build_optimizer(
    groups: Iterable[Group], config: OptimizerConfig, images_per_step: int = REFERENCE_BATCH
) -> torch.optim.Optimizer:
    """Builds an optimizer for parameter groups.

    SGD and AdamW are torch's, LARS is timm's. LARS gives each matrix or kernel p with gradient g the rate

        trust = eta * |p| / (|g| + wd * |p| + 1e-8),  and with `clip_trust` at most 1 after division by lr
        update = trust * (g + wd * p) into the momentum buffer;  p -= lr * buffer

    with eta = `trust_coefficient` and wd = `weight_decay`. Source: You et al. 2017 (arXiv 1708.03888), with the
    clipping of LARC, as in solo-learn. One-dimensional parameters (biases and norms) get neither weight decay nor the
    trust ratio, unless `decay_norms_and_biases` is set.

    Args:
        groups: Parameter groups (`Group`), such as a method's `parameter_groups()`. Parameters that do not require a
            gradient are left out.
        config: Name and settings of the optimizer.
        images_per_step: Images per optimizer step over all processes. If `config.scale_learning_rate` is set, the
            learning rate is multiplied by `images_per_step` / 256.

    Returns:
        The optimizer, with up to two groups for each given group: parameters with and without weight decay.

    Raises:
        ValueError: No parameter requires a gradient.

    Example:
        >>> optimizer = build_optimizer([{"params": nn.Linear(2, 3).parameters()}], OptimizerConfig("lars", 0.4))
        >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
        [(1, 0.0001), (1, 0.0)]
    """
    rate = config.learning_rate * _scale(config, images_per_step)
    split = [part for group in groups for part in _split(group, config, rate)]
    if not split:
        raise ValueError("expected `groups` to have parameters that need a gradient, but there are none")
    if config.name == "sgd":
        return torch.optim.SGD(split, lr=rate, momentum=config.momentum)
    if config.name == "adamw":
        return torch.optim.AdamW(split, lr=rate)
    with train_extra():
        from timm.optim.lars import Lars  # imported here because timm takes over a second to import
    return Lars(
        # timm's default is False on a CPU and for a learning rate that is a tensor. Releases before 1.0.31 have no such
        # argument. They do not read it from the groups either, and go over the parameters one by one.
        [{**part, "foreach": True} for part in split],
        lr=rate,
        momentum=config.momentum,
        trust_coeff=config.trust_coefficient,
        trust_clip=config.clip_trust,
    )


def _scale(config: OptimizerConfig, images: int) -> float:
    return images / REFERENCE_BATCH if config.scale_learning_rate else 1.0


def _split(group: Group, config: OptimizerConfig, rate: float) -> list[Group]:
    parameters: list[nn.Parameter] = [each for each in group["params"] if each.requires_grad]
    one_dimension = 0 if config.decay_norms_and_biases else 1
    own = {"lr": group.get("learning_rate", rate), "constant_learning_rate": group.get("constant_learning_rate", False)}
    decay = config.weight_decay if group.get("decay", True) else 0.0
    parts = [
        # Only LARS reads `always_adapt`: whether the trust ratio applies even if the weight decay is 0.
        {
            **own,
            "params": [p for p in parameters if p.ndim > one_dimension],
            "weight_decay": decay,
            "always_adapt": True,
        },
        {
            **own,
            "params": [p for p in parameters if p.ndim <= one_dimension],
            "weight_decay": 0.0,
            "always_adapt": False,
        },
    ]
    return [part for part in parts if part["params"]]


def images_per_step(trainer: "L.Trainer") -> int:
    """Images per optimizer step over all processes.

    Args:
        trainer: A trainer whose data module has `config.batch_size`.

    Raises:
        ValueError: There is no such data module.
    """
    batch_size = getattr(getattr(getattr(trainer, "datamodule", None), "config", None), "batch_size", None)
    if batch_size is None:
        raise ValueError(
            "expected `optimizer.scale_learning_rate` to be False without `PretrainData`, because the batch size is "
            "not known"
        )
    return int(batch_size) * trainer.world_size * trainer.accumulate_grad_batches


def configure_optimizer(groups: Iterable[Group], config: OptimizerConfig, trainer: "L.Trainer") -> dict[str, Any]:
    """The return value of a LightningModule's `configure_optimizers`: an optimizer and a schedule stepped every step.

    Args:
        groups: See `build_optimizer`.
        config: Name, settings and schedule.
        trainer: Gives the number of steps and of images per step.
    """
    images = images_per_step(trainer) if config.scale_learning_rate else REFERENCE_BATCH
    optimizer = build_optimizer(groups, config, images)
    schedule = build_schedule(optimizer, config, _lengths(config, trainer), _scale(config, images))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _lengths(config: OptimizerConfig, trainer: "L.Trainer") -> Lengths:
    if trainer.estimated_stepping_batches == math.inf:
        raise ValueError("expected the trainer to have `max_epochs` or `max_steps`, but got neither")
    total = int(trainer.estimated_stepping_batches)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        per_epoch = total / trainer.max_epochs
    else:  # a trainer with only `max_steps`
        per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    return Lengths(round(config.warmup_epochs * per_epoch), total, per_epoch)
