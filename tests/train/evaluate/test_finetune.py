"""Fine-tuning: the trained parameters, their learning rates, and reproducibility by the seed."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hex_ssl.train.evaluate import finetune
from hex_ssl.train.evaluate.finetune import train_network
from hex_ssl.train.evaluate.settings import FinetuneSettings


def images(count: int = 60, seed: int = 0) -> TensorDataset:
    labels = torch.arange(count) % 3
    noise = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(torch.eye(16)[labels].view(-1, 1, 4, 4) * 3 + noise, labels)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1))


def tuned(settings: FinetuneSettings, seed: int = 0, before: int = 0) -> nn.Sequential:
    start = network()
    torch.manual_seed(before)  # earlier use of torch's generator must not matter
    return train_network(start, lambda epoch: images(), 60, 3, settings, seed)


QUICK = FinetuneSettings(finetune_epochs=8, finetune_batch_size=16, learning_rate=0.05)


def test_it_learns_and_does_not_change_the_network() -> None:
    before = network()
    state = copy.deepcopy(before.state_dict())
    model = train_network(before, lambda epoch: images(), 60, 3, QUICK).eval()
    for name, value in before.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not torch.equal(model[0][1].weight, before[1].weight)  # type: ignore[index]
    test = images(seed=1)
    assert (model(test.tensors[0]).argmax(dim=1) == test.tensors[1]).double().mean() > 0.8


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.5}, {"mixup": 0.5, "cutmix": 1.0, "label_smoothing": 0.1}])
def test_it_depends_only_on_the_seed(mixing: dict[str, float]) -> None:
    settings = FinetuneSettings(finetune_epochs=2, finetune_batch_size=16, **mixing)  # type: ignore[arg-type]
    first = tuned(settings)
    again, other = tuned(settings, before=77), tuned(settings, seed=1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first[1].weight, other[1].weight)
    plain = tuned(FinetuneSettings(finetune_epochs=2, finetune_batch_size=16))
    assert torch.equal(first[1].weight, plain[1].weight) == (not mixing)


def test_torchs_generator_is_not_used() -> None:
    start = network()
    state = torch.random.get_rng_state()
    train_network(start, lambda epoch: images(), 60, 3, FinetuneSettings(finetune_epochs=1, mixup=0.3))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_rates_and_decays_are_those_of_the_settings(optimizer: str) -> None:
    settings = FinetuneSettings(optimizer=optimizer, learning_rate=0.01, head_learning_rate=0.3, weight_decay=0.05)  # type: ignore[arg-type]
    model = nn.Sequential(network(), nn.Linear(8, 3))
    groups = finetune._optimizer(model, settings).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(each)]: (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    assert found == {
        "0.1.weight": (0.01, 0.05),
        "0.1.bias": (0.01, 0.0),
        "0.2.weight": (0.01, 0.0),
        "0.2.bias": (0.01, 0.0),
        "1.weight": (0.3, 0.05),
        "1.bias": (0.3, 0.0),
    }


def test_layers_of_a_timm_model_have_rates_that_decay_towards_the_images() -> None:
    from hex_ssl.train.backbones import timm_backbone

    vit = timm_backbone("vit_tiny_patch16_224", 3, 16, patch_size=8)
    settings = FinetuneSettings(learning_rate=1.0, layer_decay=0.5)
    model = nn.Sequential(vit, nn.Linear(192, 3))
    groups = finetune._optimizer(model, settings).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(each)]: group["lr"] for group in groups for each in group["params"]}
    assert set(rates) == set(names.values())
    assert rates["0.blocks.3.mlp.fc1.weight"] == pytest.approx(2 * rates["0.blocks.2.mlp.fc1.weight"])
    assert rates["0.patch_embed.proj.weight"] < rates["0.blocks.0.mlp.fc1.weight"]
    assert rates["1.weight"] == settings.head_learning_rate


def test_the_learning_rate_decays_to_0_along_half_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def watched(self: torch.optim.SGD) -> None:
        rates.append(self.param_groups[-1]["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    tuned(FinetuneSettings(finetune_epochs=2, finetune_batch_size=16, head_learning_rate=1.0))
    expected = [(1 + torch.cos(torch.tensor(torch.pi * index / 8)).item()) / 2 for index in range(8)]
    assert rates == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (1, {}, "expected at least 2 images to train with, but got 1"),
        (60, {"layer_decay": 0.7}, "does not name its layers, as timm's models do, but got 0.7 for Sequential"),
    ],
)
def test_invalid_calls_are_an_error(count: int, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        train_network(network(), lambda epoch: images(), count, 3, FinetuneSettings(**settings))  # type: ignore[arg-type]
