"""Optimizers and the schedule."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from hex_ssl.config import OptimizerConfig
from hex_ssl.optim import build_optimizer, build_schedule, warmup_cosine


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_biases_and_norms_do_not_decay(name: Any, kind: type[torch.optim.Optimizer]) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1, bias=False))
    module[2].weight.requires_grad_(False)
    optimizer = build_optimizer(module, OptimizerConfig(name=name, learning_rate=0.3, weight_decay=0.1))
    assert type(optimizer) is kind
    decaying, others = optimizer.param_groups
    assert [len(group["params"]) for group in (decaying, others)] == [1, 3]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert decaying["lr"] == 0.3


def test_momentum_reaches_sgd() -> None:
    optimizer = build_optimizer(nn.Linear(1, 1), OptimizerConfig(name="sgd", momentum=0.7))
    assert optimizer.param_groups[0]["momentum"] == 0.7


def test_schedule_rises_linearly_then_falls_on_a_half_cosine() -> None:
    factors = [warmup_cosine(step, warmup_steps=4, total_steps=12) for step in range(13)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[8] == pytest.approx(0.5)
    assert factors[12] == 0.0
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert factors[5] == pytest.approx((1 + math.cos(math.pi / 8)) / 2)


@pytest.mark.parametrize("warmup", [0, 5])
def test_schedule_without_warmup_or_without_cosine(warmup: int) -> None:
    assert warmup_cosine(0, warmup, 5) == (1.0 if warmup == 0 else 0.2)
    assert warmup_cosine(99, warmup, 5) == 0.0


def test_schedule_sets_the_learning_rate_at_each_step() -> None:
    optimizer = build_optimizer(nn.Linear(1, 1), OptimizerConfig(learning_rate=2.0))
    schedule = build_schedule(optimizer, warmup_steps=2, total_steps=4)
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([1.0, 2.0, 2.0, 1.0])
