"""The momentum encoder: weights by the formula, momentum by the schedule, in the trainer and by hand."""

import math

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from hex_ssl.momentum import MomentumEncoder, cosine_momentum
from tests.train.methods.small import random_batch, small_method


def test_the_schedule_is_half_a_cosine() -> None:
    for step in range(11):
        expected = 0.999 - (0.999 - 0.9) * (math.cos(math.pi * step / 10) + 1) / 2
        assert cosine_momentum(step, 10, 0.9, 0.999) == pytest.approx(expected, rel=1e-14)
    assert cosine_momentum(15, 10, 0.9, 0.999) == pytest.approx(0.999)
    assert cosine_momentum(1000, math.inf, 0.9, 0.999) == pytest.approx(0.9)


def test_updates_follow_the_formula_and_leave_buffers_alone() -> None:
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    follower = MomentumEncoder(online, start=0.8, final=1.0)
    expected = [parameter.detach().clone() for parameter in online.parameters()]
    for step in range(3):
        online(torch.randn(8, 3, dtype=torch.float64))
        with torch.no_grad():
            for parameter in online.parameters():
                parameter += torch.randn_like(parameter)
        follower.update(online, step, total_steps=3)
        momentum = cosine_momentum(step, 3, 0.8, 1.0)
        assert follower.momentum == momentum
        expected = [
            momentum * before + (1 - momentum) * now.detach()
            for before, now in zip(expected, online.parameters(), strict=True)
        ]
        torch.testing.assert_close(list(follower.encoder.parameters()), expected, rtol=1e-12, atol=1e-14)
    assert follower.encoder[1].num_batches_tracked == 0
    assert online[1].num_batches_tracked == 3


def test_it_gets_no_gradient() -> None:
    follower = MomentumEncoder(nn.Linear(3, 4))
    images = torch.randn(2, 3, requires_grad=True)
    assert not follower(images).requires_grad
    assert not any(parameter.requires_grad for parameter in follower.parameters())


@pytest.mark.parametrize(("start", "final", "name"), [(1.5, 1.0, "start"), (0.9, -0.1, "final")])
def test_momenta_out_of_range_are_errors(start: float, final: float, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^expected `{name}` to be in \[0, 1\], but got "):
        MomentumEncoder(nn.Linear(1, 1), start, final)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning", "ignore:.*does not have many workers")
@pytest.mark.parametrize("name", ["byol", "mocov2", "all4one"])
def test_the_trainer_updates_once_per_optimizer_step(name: str) -> None:
    method = small_method(name, {"final_momentum": 1.0})
    seen: list[float] = []
    update = method.momentum_encoder.update

    def noted(online: nn.Module, step: int, total_steps: float) -> None:
        update(online, step, total_steps)
        seen.append(method.momentum_encoder.momentum)

    method.momentum_encoder.update = noted
    batches = [random_batch(12, seed) for seed in range(6)]
    trainer = L.Trainer(
        max_epochs=2,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == 6
    assert seen == [cosine_momentum(step, 6, 0.9, 1.0) for step in range(6)]


def test_the_state_dict_holds_weights_and_momentum() -> None:
    online = nn.Linear(3, 4)
    follower = MomentumEncoder(online, start=0.8, final=1.0)
    nn.init.ones_(online.weight)
    follower.update(online, step=5, total_steps=10)
    restored = MomentumEncoder(nn.Linear(3, 4), start=0.8, final=1.0)
    restored.load_state_dict(follower.state_dict())
    assert restored.momentum == follower.momentum == pytest.approx(0.9)
    assert torch.equal(restored.encoder.weight, follower.encoder.weight)
