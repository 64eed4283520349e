"""Optimizers against their formulas, parameter groups, and schedules."""

import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.optim import lars
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, MultiStepLR
from torch.utils._python_dispatch import TorchDispatchMode

from hex_ssl.train.backbones import build_backbone
from hex_ssl.train.config import BackboneConfig, OptimizerConfig
from hex_ssl.train.optim import (
    Lengths,
    build_optimizer,
    build_schedule,
    configure_optimizer,
    images_per_step,
    warmup_cosine,
)


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 2, bias=False)).double()


def gradients(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def lars_by_formula(
    p: Tensor, gs: list[Tensor], lr: float, momentum: float, wd: float, eta: float, clip: bool
) -> Tensor:
    """LARS by plain loops: the trust ratio for matrices, SGD with momentum for the rest."""
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
def test_lars_follows_the_formula(lr: float, wd: float, eta: float, clip: bool) -> None:
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


class Operators(TorchDispatchMode):
    """Counts the operators that run."""

    count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return operator(*args, **(kwargs or {}))


def test_lars_goes_over_all_parameters_at_once() -> None:
    """A ResNet-18 has 62 parameters. One by one they take over 500 operators, with the same bits."""
    networks = [build_backbone(BackboneConfig("resnet18"), 3, 32) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    config = OptimizerConfig("lars", 0.4)
    at_once, one_by_one = (build_optimizer([{"params": each.parameters()}], config) for each in networks)
    for group in one_by_one.param_groups:
        group["foreach"] = False
    for step in range(3):
        for network in networks:
            gradients(network, step)
        with Operators() as operators:
            at_once.step()
        one_by_one.step()
    assert operators.count <= 40
    for found, expected in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(found, expected)


def test_lars_of_an_older_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 1.0.31 it did not take `foreach`."""

    class Older(lars.Lars):
        def __init__(self, params: Any, lr: float, momentum: float, trust_coeff: float, trust_clip: bool) -> None:
            super().__init__(params, lr, momentum, trust_coeff=trust_coeff, trust_clip=trust_clip)

    module = network()
    config = OptimizerConfig("lars", 0.3)
    expected = build_optimizer([{"params": module.parameters()}], config)
    monkeypatch.setattr(lars, "Lars", Older)
    found = build_optimizer([{"params": module.parameters()}], config)
    assert type(found) is Older
    assert found.param_groups == expected.param_groups


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


def test_groups_have_their_own_settings() -> None:
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
    schedule = build_schedule(optimizer, config, Lengths(warmup_steps=3, total_steps=5), scale=2.0)
    seen = []
    for _ in range(6):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    first, _, own, constant = zip(*seen, strict=True)
    assert first == pytest.approx([0.06, 0.33, 0.6, 0.6, 0.3, 0.0])
    assert own == pytest.approx([0.06, 0.08, 0.1, 0.1, 0.05, 0.0])
    assert constant == (0.6,) * 6


def test_extended_run_has_the_rates_of_the_longer_run() -> None:
    def scheduled(total: int) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = build_optimizer([{"params": network().parameters()}], OptimizerConfig("sgd", 0.5))
        return optimizer, build_schedule(optimizer, OptimizerConfig("sgd", 0.5), Lengths(2, total))

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
    found = [warmup_cosine(step, 5, 13, highest=0.4, start=0.1, final=0.02) for step in range(15)]
    assert found[:6] == pytest.approx([0.1, 0.175, 0.25, 0.325, 0.4, 0.4])
    assert found[9] == pytest.approx(0.21)
    assert found[13:] == pytest.approx([0.02, 0.02])
    assert found[5:] == sorted(found[5:], reverse=True)
    assert found[6] == pytest.approx(0.02 + 0.38 * (1 + math.cos(math.pi / 8)) / 2)


@pytest.mark.parametrize(("warmup", "first"), [(0, 1.0), (1, 1.0), (5, 0.0)])
def test_schedule_without_warmup_or_without_cosine(warmup: int, first: float) -> None:
    assert warmup_cosine(0, warmup, 5) == first
    assert warmup_cosine(99, warmup, 5) == 0.0


STEPS_PER_EPOCH = 4


def rates(optimizer: torch.optim.Optimizer, schedule: LRScheduler, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("settings", "by_torch"),
    [
        ({"schedule": "step", "milestones": [2, 3]}, lambda sgd: MultiStepLR(sgd, [2, 3], gamma=0.1)),
        (
            {"schedule": "exponential", "decay_factor": 0.8},
            lambda sgd: ExponentialLR(sgd, 0.8),
        ),
        ({"schedule": "constant"}, lambda sgd: MultiStepLR(sgd, [99])),
    ],
)
def test_schedules_are_those_of_torch_at_each_epoch(settings: Any, by_torch: Any) -> None:
    sgd = torch.optim.SGD(network().parameters(), lr=0.5)
    expected = rates(sgd, by_torch(sgd), 5)
    config = OptimizerConfig("sgd", 0.5, **settings)
    optimizer = build_optimizer([{"params": network().parameters()}], config)
    schedule = build_schedule(optimizer, config, Lengths(0, 5 * STEPS_PER_EPOCH, STEPS_PER_EPOCH))
    assert rates(optimizer, schedule, 5 * STEPS_PER_EPOCH)[::STEPS_PER_EPOCH] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "after"),
    [
        ({"schedule": "step", "milestones": [2, 2.5]}, [0.5] * 4 + [0.05] * 2 + [0.005] * 2),
        ({"schedule": "exponential", "decay_factor": 0.5}, [0.5 * 0.5 ** (step / 4) for step in range(8)]),
        ({"schedule": "constant"}, [0.5] * 8),
    ],
)
def test_schedules_begin_with_the_warmup(settings: Any, after: list[float]) -> None:
    config = OptimizerConfig("sgd", 0.5, warmup_epochs=1, warmup_start=0.2, **settings)
    shown = trainer(max_epochs=3, estimated_stepping_batches=3 * STEPS_PER_EPOCH)
    found = configure_optimizer([{"params": network().parameters()}], config, shown)
    schedule = found["lr_scheduler"]["scheduler"]
    assert rates(found["optimizer"], schedule, 12) == pytest.approx([0.2, 0.3, 0.4, 0.5, *after])


def test_epochs_of_a_trainer_that_counts_steps() -> None:
    config = OptimizerConfig("sgd", 0.5, warmup_epochs=1)
    shown = trainer(max_epochs=-1, estimated_stepping_batches=20, num_training_batches=12)
    found = configure_optimizer([{"params": network().parameters()}], config, shown)
    expected = [warmup_cosine(step, 4, 20, 0.5) for step in range(20)]
    assert rates(found["optimizer"], found["lr_scheduler"]["scheduler"], 20) == pytest.approx(expected)
    endless = trainer(max_epochs=-1, estimated_stepping_batches=math.inf)
    with pytest.raises(ValueError, match="expected the trainer to have `max_epochs` or `max_steps`"):
        configure_optimizer([{"params": network().parameters()}], config, endless)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "step"}, "`optimizer.milestones` to be increasing epochs above 0, but got []"),
        ({"schedule": "step", "milestones": [0, 3]}, "`optimizer.milestones` to be increasing epochs above 0"),
        ({"schedule": "step", "milestones": [4, 3]}, "`optimizer.milestones` to be increasing epochs above 0"),
        ({"milestones": [4]}, '`optimizer.milestones` to be empty for "cosine", but got [4]'),
        ({"schedule": "constant", "final_learning_rate": 0.1}, "`optimizer.final_learning_rate` to be 0 if"),
        ({"schedule": "exponential", "decay_factor": 0.0}, "`optimizer.decay_factor` to be in (0, 1], but got 0.0"),
        ({"clip_norm": 0.0}, "`optimizer.clip_norm` to be above 0.0, but got 0.0"),
    ],
)
def test_settings_that_contradict_the_schedule(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        OptimizerConfig(**settings)


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
    expected = [warmup_cosine(step, 20, 100, 1.5, 0.3) for step in range(100)]
    assert [scheduler.lr_lambdas[0](step) * 1.5 for step in range(100)] == pytest.approx(expected)


def test_unknown_batch_size_cannot_scale_the_learning_rate() -> None:
    groups = [{"params": network().parameters()}]
    with pytest.raises(ValueError, match="expected `optimizer.scale_learning_rate` to be False"):
        configure_optimizer(groups, OptimizerConfig(scale_learning_rate=True), trainer(datamodule=None))
    configure_optimizer([{"params": network().parameters()}], OptimizerConfig(), trainer(datamodule=None))
