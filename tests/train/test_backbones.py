"""Backbones and their files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hex_ssl.train.backbones import build_backbone, describe_backbone, feature_dim, load_backbone
from hex_ssl.train.callbacks.export import save_backbone
from hex_ssl.train.config import BackboneConfig


def own_backbone(in_channels: int, image_size: int, width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, width))


def not_a_backbone(in_channels: int, image_size: int) -> int:
    return in_channels * image_size


@pytest.mark.parametrize(
    ("config", "channels", "size", "features"),
    [
        (BackboneConfig(width=8), 1, 8, 32),
        (BackboneConfig(width=4), 3, 32, 16),
        (BackboneConfig("resnet18"), 3, 32, 512),
        (BackboneConfig("resnet18", stem="large"), 1, 32, 512),
        (BackboneConfig("resnet50"), 3, 32, 2048),
        (BackboneConfig("vit_tiny"), 3, 32, 192),
        (BackboneConfig("swin_tiny"), 3, 32, 768),
        (BackboneConfig("timm/mobilenetv3_small_050"), 1, 48, 1024),
        (BackboneConfig("timm/vit_tiny_patch16_224", arguments={"patch_size": 8}), 3, 24, 192),
        (BackboneConfig(f"{__name__}:own_backbone", arguments={"width": 5}), 2, 6, 5),
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


@pytest.mark.parametrize(("name", "stages"), [("resnet18", [2, 2, 2, 2]), ("resnet50", [3, 4, 6, 3])])
def test_resnets_have_all_layers(name: str, stages: list[int]) -> None:
    backbone = build_backbone(BackboneConfig(name), 3, 32)
    assert [len(getattr(backbone, f"layer{number}")) for number in (1, 2, 3, 4)] == stages


def test_stem_padding_makes_the_maps_larger() -> None:
    for padding, side in ((1, 32), (2, 34)):
        backbone = build_backbone(BackboneConfig("resnet18", stem_padding=padding), 3, 32)
        assert backbone.conv1(torch.zeros(1, 3, 32, 32)).shape[-1] == side  # type: ignore[operator,union-attr]


@pytest.mark.parametrize(("size", "patches"), [(32, 8 * 8), (64, 16 * 16), (96, 6 * 6)])
def test_patches_follow_the_image_size(size: int, patches: int) -> None:
    backbone = build_backbone(BackboneConfig("vit_tiny"), 3, size)
    assert backbone.patch_embed.num_patches == patches  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BackboneConfig("resnet19"), 'to be one of small_resnet, .*, but got "resnet19"; did you mean "resnet18"?'),
        (BackboneConfig("timm/resnet27"), 'to be a model of timm, but got "resnet27"; did you mean "'),
        (
            BackboneConfig("vit_tiny", arguments={"patchsize": 4}),
            "`backbone.arguments` of vit_tiny_patch16_224: .*patchsize",
        ),
        (BackboneConfig("resnet18", arguments={"a": 1}), "`backbone.arguments` to be empty for resnet18"),
        (BackboneConfig("no.such.module:make"), 'importable "module:function", but got "no.such.module:make"'),
        (BackboneConfig(f"{__name__}:missing"), 'importable "module:function"'),
        (BackboneConfig(f"{__name__}:not_a_backbone"), "to return a torch.nn.Module, but got int"),
    ],
)
def test_unknown_backbones_are_errors(config: BackboneConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(config, 3, 32)


def test_feature_dim_does_not_change_the_backbone() -> None:
    backbone = build_backbone(BackboneConfig(), 1, 8)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    feature_dim(backbone, 1, 8)
    assert backbone.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_backbone_must_return_vectors() -> None:
    with pytest.raises(ValueError, match=r"expected the backbone to return \[N, F\], but got \[1, 4, 6, 6\]"):
        feature_dim(nn.Conv2d(1, 4, 3), 1, 8)


@pytest.mark.parametrize("config", [BackboneConfig(width=4), BackboneConfig("vit_tiny", arguments={"depth": 2})])
def test_saved_backbone_can_be_loaded(config: BackboneConfig, tmp_path: Path) -> None:
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
