"""From configuration to optimizer: groups of parameters, and the learning rate by the size of the batch."""

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
"""Images per optimizer step for which a recipe's learning rate is meant."""

Group = dict[str, Any]
"""`params`, and where they differ from the others: `learning_rate` (its own, not scaled by the batch), `decay` (False:
none), `constant_learning_rate` (True: no schedule)."""


def build_optimizer(
    groups: Iterable[Group], config: OptimizerConfig, images_per_step: int = REFERENCE_BATCH
) -> torch.optim.Optimizer:
    """An optimizer for groups of parameters.

    SGD and AdamW are torch's, LARS is timm's. LARS gives each matrix or kernel p with gradient g the rate

        trust = eta * |p| / (|g| + wd * |p| + 1e-8),  and with `clip_trust` at most 1 after division by lr
        update = trust * (g + wd * p) into the momentum buffer;  p -= lr * buffer

    with eta -> `trust_coefficient`, wd -> `weight_decay`. Source: You et al. 2017 (arXiv 1708.03888), with the clipping
    of LARC, as solo-learn's. Parameters of one dimension (biases, norms) get neither decay nor LARS' rate unless
    `decay_norms_and_biases`.

    Args:
        groups: Each with `params` and, where it differs, `learning_rate`, `decay`, `constant_learning_rate`; a method's
            `parameter_groups()`. Parameters that need no gradient are left out.
        config: Name and settings.
        images_per_step: Images per optimizer step over all processes; scales the learning rate where the
            configuration says so.

    Returns:
        The optimizer, with up to two groups for each given: those that decay and those that do not.

    Raises:
        ValueError: No parameter needs a gradient.

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
        from timm.optim.lars import Lars  # here: timm takes over a second to import
    return Lars(
        split,
        lr=rate,
        momentum=config.momentum,
        trust_coeff=config.trust_coefficient,
        trust_clip=config.clip_trust,
        foreach=True,  # asked for: by itself timm chooses it neither on a CPU nor for a rate that is a tensor
    )


def _scale(config: OptimizerConfig, images: int) -> float:
    return images / REFERENCE_BATCH if config.scale_learning_rate else 1.0


def _split(group: Group, config: OptimizerConfig, rate: float) -> list[Group]:
    parameters: list[nn.Parameter] = [each for each in group["params"] if each.requires_grad]
    one_dimension = 0 if config.decay_norms_and_biases else 1
    own = {"lr": group.get("learning_rate", rate), "constant_learning_rate": group.get("constant_learning_rate", False)}
    decay = config.weight_decay if group.get("decay", True) else 0.0
    parts = [
        # `always_adapt` is LARS' alone: its rate also where the weight decay is 0, and nowhere in the other part.
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
    """Images per optimizer step over all processes, of a trainer with a data module that has a `config.batch_size`.

    Raises:
        ValueError: There is no such data module, so that nobody knows.
    """
    batch_size = getattr(getattr(getattr(trainer, "datamodule", None), "config", None), "batch_size", None)
    if batch_size is None:
        raise ValueError(
            "expected `optimizer.scale_learning_rate` to be False where the images come from no `PretrainData`: "
            "the size of the batch is not known"
        )
    return int(batch_size) * trainer.world_size * trainer.accumulate_grad_batches


def configure_optimizer(groups: Iterable[Group], config: OptimizerConfig, trainer: "L.Trainer") -> dict[str, Any]:
    """What a LightningModule returns from `configure_optimizers`: the optimizer, and its schedule by the step.

    Args:
        groups: See `build_optimizer`.
        config: Name, settings and schedule.
        trainer: Knows how many steps there will be and how many images each has.
    """
    images = images_per_step(trainer) if config.scale_learning_rate else REFERENCE_BATCH
    optimizer = build_optimizer(groups, config, images)
    schedule = build_schedule(optimizer, config, _lengths(config, trainer), _scale(config, images))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _lengths(config: OptimizerConfig, trainer: "L.Trainer") -> Lengths:
    if trainer.estimated_stepping_batches == math.inf:
        raise ValueError("expected the trainer to have `max_epochs` or `max_steps`, but got neither: see the schedule")
    total = int(trainer.estimated_stepping_batches)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        per_epoch = total / trainer.max_epochs
    else:  # a trainer with `max_steps` alone
        per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    return Lengths(round(config.warmup_epochs * per_epoch), total, per_epoch)
