"""Optimizers against their formulas, their groups, and the schedule."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hex_ssl.train.config import OptimizerConfig
from hex_ssl.train.optim import build_optimizer, build_schedule, configure_optimizer, images_per_step, warmup_cosine


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 2, bias=False)).double()


def gradients(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)


def lars_by_formula(
    p: Tensor, gs: list[Tensor], lr: float, momentum: float, wd: float, eta: float, clip: bool
) -> Tensor:
    """Plain loops over the rule: LARS' rate for matrices, SGD with momentum for the rest."""
    p, buffer = p.clone(), None
    for g in gs:
        if p.ndim > 1:
            p_norm, g_norm = math.sqrt(float((p * p).sum())), math.sqrt(float((g * g).sum()))
            if p_norm != 0 and g_norm != 0:
                trust = eta * p_norm / (g_norm + wd * p_norm + 1e-8)
                trust = min(trust / lr, 1.0) if clip else trust
                g = trust * (g + wd * p)
        buffer = g if buffer is None else momentum * buffer + g
        p = p - lr * buffer
    return p


@pytest.mark.parametrize(
    ("lr", "wd", "eta", "clip"),
    [
        (0.4, 1e-4, 0.02, True),  # solo-learn's CIFAR recipes
        (0.8, 1.5e-6, 0.001, False),  # Barlow Twins on ImageNet
        (0.001, 0.1, 5.0, True),  # the clipping bites
        (0.3, 0.0, 0.02, True),  # LARS' rate without weight decay
    ],
)
def test_lars_is_the_recipes_rule(lr: float, wd: float, eta: float, clip: bool) -> None:
    module = network()
    start = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    config = OptimizerConfig("lars", lr, weight_decay=wd, momentum=0.9, trust_coefficient=eta, clip_trust=clip)
    optimizer = build_optimizer([{"params": module.parameters()}], config)
    seen: dict[str, list[Tensor]] = {name: [] for name in start}
    for step in range(4):
        gradients(module, step)
        for name, parameter in module.named_parameters():
            seen[name].append(parameter.grad.clone())  # type: ignore[union-attr]
        optimizer.step()
    for name, parameter in module.named_parameters():
        expected = lars_by_formula(start[name], seen[name], lr, 0.9, wd, eta, clip)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-10, atol=1e-12)


def test_lars_leaves_a_matrix_of_zeros_to_sgd() -> None:
    layer = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(layer.weight)
    layer.weight.grad = torch.ones(2, 2)
    build_optimizer([{"params": layer.parameters()}], OptimizerConfig("lars", 0.1, weight_decay=0.1)).step()
    assert torch.allclose(layer.weight, torch.full((2, 2), -0.1))


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
@pytest.mark.parametrize("all_decay", [False, True])
def test_biases_and_norms_decay_only_where_asked(name: Any, kind: type[torch.optim.Optimizer], all_decay: bool) -> None:
    module = network()
    module[2].weight.requires_grad_(False)
    config = OptimizerConfig(name=name, learning_rate=0.3, weight_decay=0.1, decay_norms_and_biases=all_decay)
    optimizer = build_optimizer([{"params": module.parameters()}], config)
    assert type(optimizer) is kind
    found = [(len(group["params"]), group["weight_decay"], group["lr"]) for group in optimizer.param_groups]
    assert found == ([(4, 0.1, 0.3)] if all_decay else [(1, 0.1, 0.3), (3, 0.0, 0.3)])


def test_momentum_reaches_sgd() -> None:
    optimizer = build_optimizer([{"params": network().parameters()}], OptimizerConfig(name="sgd", momentum=0.7))
    assert optimizer.param_groups[0]["momentum"] == 0.7


def test_groups_have_rules_of_their_own() -> None:
    module = network()
    groups = [
        {"params": module[0].parameters()},
        {"params": module[2].parameters(), "learning_rate": 0.1, "decay": False},
        {"params": module[1].parameters(), "constant_learning_rate": True},
    ]
    config = OptimizerConfig("sgd", 0.3, scale_learning_rate=True, warmup_start=0.03, final_learning_rate=0.0)
    optimizer = build_optimizer(groups, config, images_per_step=512)
    assert [group["lr"] for group in optimizer.param_groups] == [0.6, 0.6, 0.1, 0.6]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 0.0, 0.0, 0.0]
    schedule = build_schedule(optimizer, config, warmup_steps=3, total_steps=5, scale=2.0)
    seen = []
    for _ in range(6):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    first, _, own, constant = zip(*seen, strict=True)
    assert first == pytest.approx([0.06, 0.33, 0.6, 0.6, 0.3, 0.0])
    assert own == pytest.approx([0.06, 0.08, 0.1, 0.1, 0.05, 0.0])
    assert constant == (0.6,) * 6


def test_longer_run_goes_on_at_its_own_rates() -> None:
    def scheduled(total: int) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = build_optimizer([{"params": network().parameters()}], OptimizerConfig("sgd", 0.5))
        return optimizer, build_schedule(optimizer, OptimizerConfig("sgd", 0.5), 2, total)

    def steps(optimizer: torch.optim.Optimizer, schedule: Any, count: int) -> list[float]:
        seen = []
        for _ in range(count):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return seen

    expected = steps(*scheduled(12), 12)
    short, schedule = scheduled(6)
    steps(short, schedule, 6)
    assert short.param_groups[0]["lr"] == 0.0
    longer, its_schedule = scheduled(12)
    longer.load_state_dict(short.state_dict())
    its_schedule.load_state_dict(schedule.state_dict())
    assert steps(longer, its_schedule, 6) == expected[6:]


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected `groups` to have parameters that need a gradient"):
        build_optimizer([{"params": nn.Linear(2, 2).requires_grad_(False).parameters()}], OptimizerConfig())


def test_schedule_rises_linearly_then_falls_on_a_half_cosine() -> None:
    rates = [warmup_cosine(step, 5, 13, highest=0.4, start=0.1, final=0.02) for step in range(15)]
    assert rates[:6] == pytest.approx([0.1, 0.175, 0.25, 0.325, 0.4, 0.4])
    assert rates[9] == pytest.approx(0.21)
    assert rates[13:] == pytest.approx([0.02, 0.02])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[6] == pytest.approx(0.02 + 0.38 * (1 + math.cos(math.pi / 8)) / 2)


@pytest.mark.parametrize(("warmup", "first"), [(0, 1.0), (1, 1.0), (5, 0.0)])
def test_schedule_without_warmup_or_without_cosine(warmup: int, first: float) -> None:
    assert warmup_cosine(0, warmup, 5) == first
    assert warmup_cosine(99, warmup, 5) == 0.0


def trainer(**settings: Any) -> Any:
    known = {
        "datamodule": SimpleNamespace(config=SimpleNamespace(batch_size=64)),
        "world_size": 4,
        "accumulate_grad_batches": 3,
        "estimated_stepping_batches": 100,
        "max_epochs": 10,
    }
    return SimpleNamespace(**{**known, **settings})


def test_learning_rate_follows_the_global_batch() -> None:
    assert images_per_step(trainer()) == 768
    config = OptimizerConfig("sgd", 0.5, scale_learning_rate=True, warmup_epochs=2, warmup_start=0.1)
    found = configure_optimizer([{"params": network().parameters()}], config, trainer())
    scheduler = found["lr_scheduler"]["scheduler"]
    assert found["lr_scheduler"]["interval"] == "step"
    rates = [warmup_cosine(step, 20, 100, 1.5, 0.3) for step in range(100)]
    assert [scheduler.lr_lambdas[0](step) * 1.5 for step in range(100)] == pytest.approx(rates)


def test_batch_of_unknown_size_cannot_scale() -> None:
    groups = [{"params": network().parameters()}]
    with pytest.raises(ValueError, match="expected `optimizer.scale_learning_rate` to be False"):
        configure_optimizer(groups, OptimizerConfig(scale_learning_rate=True), trainer(datamodule=None))
    configure_optimizer([{"params": network().parameters()}], OptimizerConfig(), trainer(datamodule=None))
