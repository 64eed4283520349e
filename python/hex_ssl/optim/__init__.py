"""Optimizers and the learning rate's schedule."""

import math
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from hex_ssl.config import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """An optimizer for a module's parameters.

    Args:
        module: What is trained.
        config: Name, learning rate, weight decay.

    Returns:
        The optimizer, with two groups: weight matrices and kernels, which decay, and biases and norms, which do not.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """The learning rate at a step as a share of its highest value.

        (step + 1) / warmup_steps                                                           while step < warmup_steps
        (1 + cos(pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2            afterwards

    Args:
        step: Optimizer steps done, from 0.
        warmup_steps: Steps of the linear rise; the last of them has the highest rate.
        total_steps: Steps of the whole run.

    Returns:
        A number in [0, 1]; 0 from `total_steps` on.

    Example:
        >>> [round(warmup_cosine(step, warmup_steps=2, total_steps=6), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return (1 + math.cos(math.pi * progress)) / 2


def build_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int) -> LambdaLR:
    """`warmup_cosine` as a scheduler to be stepped after each optimizer step."""
    return LambdaLR(optimizer, partial(warmup_cosine, warmup_steps=warmup_steps, total_steps=total_steps))
