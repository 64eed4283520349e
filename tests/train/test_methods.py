"""SimCLR and the losses that a configuration chooses."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hex_ssl.backbones import SmallResNet
from hex_ssl.config import Config, LossConfig
from hex_ssl.losses import DCLLoss, HCLLoss, HexLoss, NTXentLoss
from hex_ssl.methods import SimCLR, build_loss, build_method
from hex_ssl.thresholds import CosineThreshold, FixedThreshold

VIEWS = (torch.linspace(0, 1, 512).view(8, 1, 8, 8), torch.linspace(1, 0, 512).view(8, 1, 8, 8).square())
LABELS = torch.arange(8) % 2


@pytest.mark.parametrize(
    ("name", "kind"), [("hex", HexLoss), ("ntxent", NTXentLoss), ("hcl", HCLLoss), ("dcl", DCLLoss)]
)
def test_each_loss_by_name(name: Any, kind: type[nn.Module]) -> None:
    loss = build_loss(LossConfig(name=name, temperature=0.3), gather_distributed=True)
    assert type(loss) is kind
    assert (loss.temperature, loss.gather_distributed) == (0.3, True)


def test_settings_reach_the_loss() -> None:
    config = LossConfig(
        "hex", 0.2, "cosine", {"start": 0.8, "max_epochs": 9}, "official", beta=2.0, tau_plus=0.05, warmup_epochs=3
    )
    loss = build_loss(config)
    assert isinstance(loss, HexLoss)
    assert loss.threshold == CosineThreshold(start=0.8, max_epochs=9)
    assert (loss.formulation, loss.beta, loss.tau_plus, loss.warmup_epochs) == ("official", 2.0, 0.05, 3)
    hcl = build_loss(replace(config, name="hcl"))
    assert (hcl.beta, hcl.tau_plus) == (2.0, 0.05)


def test_fixed_threshold_takes_its_value() -> None:
    loss = build_loss(LossConfig("hex", threshold="fixed", threshold_arguments={"value": 0.7, "scale": "cosine"}))
    assert loss.threshold == FixedThreshold(0.7, "cosine")


@pytest.mark.parametrize(
    ("threshold", "arguments", "message"),
    [
        ("adaptive", {"quantil": 0.9}, r"of adaptive to be among \['quantile'\], but got \['quantil'\]"),
        ("fixed", {}, "`loss.threshold_arguments` of fixed: .*value"),
        ("adaptive", {"quantile": 2.0}, "quantile"),
    ],
)
def test_wrong_threshold_arguments_are_errors(threshold: Any, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss(LossConfig("hex", threshold=threshold, threshold_arguments=arguments))


@pytest.mark.parametrize("name", ["hex", "ntxent", "hcl", "dcl"])
def test_simclr_gives_its_projections_to_the_loss(name: Any) -> None:
    method = build_method(Config(loss=LossConfig(name=name)), in_channels=1)
    loss = method.compute_loss(VIEWS, LABELS)
    loss.backward()
    z1, z2 = method.projector(method.backbone(torch.cat(VIEWS))).chunk(2)  # batch norm in training mode: the same again
    assert torch.allclose(loss, build_loss(LossConfig(name=name))(z1, z2), rtol=1e-4)
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert method.statistics()["positive_similarity"].ndim == 0


def test_supervised_threshold_is_told_the_labels() -> None:
    method = build_method(Config(loss=LossConfig("hex", threshold="supervised")), in_channels=1)
    method.compute_loss(VIEWS, LABELS)
    assert method.statistics()["hierarchical_negatives"] == 6  # 4 samples per class, 2 views, less the own sample


def test_any_loss_of_two_views_will_do() -> None:
    method = SimCLR(SmallResNet(1, 4), nn.MSELoss(), feature_dim=16)
    assert method.compute_loss(VIEWS, LABELS).ndim == 0
    assert method.statistics() == {}


def test_one_seed_one_backbone_whatever_the_loss() -> None:
    methods = []
    for name in ("hex", "ntxent"):
        torch.manual_seed(5)
        methods.append(build_method(Config(loss=LossConfig(name=name)), in_channels=1))  # type: ignore[arg-type]
    first, second = (method.backbone.state_dict() for method in methods)
    assert all(torch.equal(first[name], second[name]) for name in first)
