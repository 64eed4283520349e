"""Backbones and their files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hex_ssl.backbones import build_backbone, describe_backbone, feature_dim, load_backbone
from hex_ssl.callbacks.export import save_backbone
from hex_ssl.config import BackboneConfig


@pytest.mark.parametrize(
    ("config", "channels", "size", "features"),
    [
        (BackboneConfig(width=8), 1, 8, 32),
        (BackboneConfig(width=4), 3, 32, 16),
        (BackboneConfig("resnet18"), 3, 32, 512),
        (BackboneConfig("resnet18", stem="large"), 1, 32, 512),
    ],
)
def test_representations_have_the_width_that_feature_dim_finds(
    config: BackboneConfig, channels: int, size: int, features: int
) -> None:
    backbone = build_backbone(config, channels, size)
    assert backbone(torch.rand(2, channels, size, size)).shape == (2, features)
    assert feature_dim(backbone, channels, size) == features


@pytest.mark.parametrize(("size", "kernel"), [(32, 3), (64, 3), (65, 7), (224, 7)])
def test_stem_follows_the_image_size(size: int, kernel: int) -> None:
    backbone = build_backbone(BackboneConfig("resnet18"), 3, size)
    assert backbone.conv1.kernel_size == (kernel, kernel)  # type: ignore[union-attr]


def test_feature_dim_changes_nothing() -> None:
    backbone = build_backbone(BackboneConfig(), 1, 8)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    feature_dim(backbone, 1, 8)
    assert backbone.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_backbone_must_return_vectors() -> None:
    with pytest.raises(ValueError, match=r"expected the backbone to return \[N, F\], but got \[1, 4, 6, 6\]"):
        feature_dim(nn.Conv2d(1, 4, 3), 1, 8)


@pytest.mark.parametrize("config", [BackboneConfig(width=4), BackboneConfig("resnet18")])
def test_saved_backbone_comes_back(config: BackboneConfig, tmp_path: Path) -> None:
    backbone = build_backbone(config, 1, 16)
    backbone(torch.rand(8, 1, 16, 16))  # moves batch norm's statistics
    path = tmp_path / "backbone.safetensors"
    save_backbone(backbone, path, describe_backbone(config, 1, 16))
    images = torch.rand(4, 1, 16, 16)
    loaded = load_backbone(path)
    assert not loaded.training
    assert torch.equal(loaded(images), backbone.eval()(images))
    assert [each.name for each in tmp_path.iterdir()] == ["backbone.safetensors"]


def test_file_without_configuration_is_an_error(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="to hold the backbone's configuration"):
        load_backbone(tmp_path / "other.safetensors")
