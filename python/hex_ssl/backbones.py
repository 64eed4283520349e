"""Backbones: from images [N, C, H, W] to representations h [N, F]. The methods take any nn.Module that does that."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hex_ssl.config import BackboneConfig
from hex_ssl.extras import train_extra

with train_extra():
    from safetensors import safe_open
    from safetensors.torch import load_file
    from torchvision.models import ResNet, resnet18
    from torchvision.models.resnet import BasicBlock

SMALL_IMAGE = 64
"""The largest side in pixels that gets the small stem where the stem is "auto"."""


class SmallResNet(nn.Module):
    """Three residual blocks behind a 3x3 convolution, for images of 8 to 32 pixels.

    ResNet's basic blocks (He et al. 2016) of `width`, 2 * `width` and 4 * `width` channels, the latter two with
    stride 2, then the mean over the remaining pixels.

    Args:
        in_channels: C, channels of the images.
        width: Channels of the first stage; F = 4 * `width`.

    Example:
        >>> SmallResNet(in_channels=1, width=16)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 64])
    """

    def __init__(self, in_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(
            BasicBlock(width, width),
            _downsampling_block(width, 2 * width),
            _downsampling_block(2 * width, 4 * width),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to representations h [N, 4 * width]."""
        return cast(Tensor, self.blocks(self.stem(images)).mean(dim=(2, 3)))


def _downsampling_block(in_channels: int, channels: int) -> BasicBlock:
    shortcut = nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(channels)
    )
    return BasicBlock(in_channels, channels, stride=2, downsample=shortcut)


def resnet18_backbone(in_channels: int = 3, small_stem: bool = True) -> ResNet:
    """torchvision's ResNet-18 without its classifier; F = 512.

    Args:
        in_channels: C, channels of the images.
        small_stem: A 3x3 convolution of stride 1 and no pooling in place of the 7x7 convolution of stride 2 and its
            pooling, as SimCLR does for CIFAR (Chen et al. 2020, appendix B.9).

    Example:
        >>> resnet18_backbone(in_channels=1)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 512])
    """
    backbone = resnet18()
    if small_stem:
        backbone.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        backbone.maxpool = nn.Identity()
    else:
        backbone.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.fc = nn.Identity()
    return backbone


def build_backbone(config: BackboneConfig, in_channels: int, image_size: int) -> nn.Module:
    """The backbone of a configuration, for images of a given shape.

    Args:
        config: Its name and sizes.
        in_channels: C, channels of the images.
        image_size: Side of the square images in pixels; decides the stem where that is "auto".

    Returns:
        A network in training mode, freshly initialised from torch's generator.
    """
    if config.name == "small_resnet":
        return SmallResNet(in_channels, config.width)
    small_stem = config.stem == "small" or (config.stem == "auto" and image_size <= SMALL_IMAGE)
    return resnet18_backbone(in_channels, small_stem)


@torch.no_grad()
def feature_dim(backbone: nn.Module, in_channels: int, image_size: int) -> int:
    """F, the width of a backbone's representations, found by running it on one blank image.

    Raises:
        ValueError: The backbone does not return [N, F].

    Example:
        >>> feature_dim(SmallResNet(width=8), in_channels=1, image_size=8)
        32
    """
    training = backbone.training
    backbone.eval()  # batch norm cannot train on one image, and its statistics are to stay as they are
    h = backbone(torch.zeros(1, in_channels, image_size, image_size))
    backbone.train(training)
    if h.ndim != 2:
        raise ValueError(f"expected the backbone to return [N, F], but got {list(h.shape)} for one image")
    return int(h.shape[1])


def describe_backbone(config: BackboneConfig, in_channels: int, image_size: int) -> dict[str, str]:
    """What `load_backbone` needs to know, as the text that safetensors keeps beside the weights."""
    shape = {"in_channels": in_channels, "image_size": image_size}
    return {"backbone": json.dumps(asdict(config)), "images": json.dumps(shape)}


def load_backbone(path: str | Path) -> nn.Module:
    """The backbone of a run, with its weights, in evaluation mode on the CPU.

    Args:
        path: `backbone.safetensors` of a run folder.

    Returns:
        The network.

    Raises:
        ValueError: The file does not say which backbone it holds.
    """
    with safe_open(str(path), framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    if not {"backbone", "images"} <= metadata.keys():
        raise ValueError(f"expected {path} to hold the backbone's configuration in its metadata, but it does not")
    images: dict[str, Any] = json.loads(metadata["images"])
    backbone = build_backbone(BackboneConfig(**json.loads(metadata["backbone"])), **images)
    backbone.load_state_dict(load_file(str(path)))
    return backbone.eval()
