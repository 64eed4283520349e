"""Backbones: networks from images [N, C, H, W] to representations h [N, F]. The methods take any such nn.Module."""

import difflib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from hex_ssl.train.config import BackboneConfig, Config
from hex_ssl.train.extras import train_extra
from hex_ssl.train.own_code import import_own
from hex_ssl.train.reading import reading

with train_extra():
    from safetensors import safe_open
    from safetensors.torch import load_file
    from torchvision.models import ResNet, resnet18, resnet50
    from torchvision.models.resnet import BasicBlock

SMALL_IMAGE = 64
"""The largest image side in pixels for which the stem "auto" is a ResNet's small stem, and a ViT's patches are 4x4."""

LARGEST_IMAGE = 4096
"""The largest image side in pixels that a backbone's file may name."""

RESNETS = {"resnet18": resnet18, "resnet50": resnet50}
TRANSFORMERS = {
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "swin_small": "swin_small_patch4_window7_224",
    "swin_base": "swin_base_patch4_window7_224",
}
"""Our names of the transformers, and timm's."""
TIMM = "timm/"


class SmallResNet(nn.Module):
    """Three residual blocks behind a 3x3 convolution, for images of 8 to 32 pixels.

    The blocks are ResNet's basic blocks (He et al. 2016) with `width`, 2 * `width` and 4 * `width` channels. The second
    and the third have stride 2. The output is the mean over the remaining pixels.

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
        """Maps images [N, C, H, W] to representations h [N, 4 * width]."""
        return cast(Tensor, self.blocks(self.stem(images)).mean(dim=(2, 3)))


def _downsampling_block(in_channels: int, channels: int) -> BasicBlock:
    shortcut = nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(channels)
    )
    return BasicBlock(in_channels, channels, stride=2, downsample=shortcut)


def resnet_backbone(
    name: str = "resnet18", in_channels: int = 3, small_stem: bool = True, stem_padding: int = 1
) -> ResNet:
    """torchvision's ResNet without its classifier.

    Args:
        name: "resnet18" (F = 512) or "resnet50" (F = 2048).
        in_channels: C, channels of the images.
        small_stem: Use a 3x3 convolution of stride 1 without pooling, instead of the 7x7 convolution of stride 2 and
            its pooling, as SimCLR does for CIFAR (Chen et al. 2020, appendix B.9).
        stem_padding: Padding of the small stem's convolution.

    Example:
        >>> resnet_backbone("resnet18", in_channels=1)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 512])
    """
    backbone = RESNETS[name]()
    if small_stem:
        backbone.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=stem_padding, bias=False)
        backbone.maxpool = nn.Identity()
    else:
        backbone.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.fc = nn.Identity()
    return backbone


def timm_backbone(name: str, in_channels: int, image_size: int, **arguments: Any) -> nn.Module:
    """A model of timm without its classifier, freshly initialised.

    Args:
        name: timm's name.
        in_channels: C, channels of the images.
        image_size: Side of the images in pixels. Models that are made for one size get it as `img_size`.
        **arguments: Further arguments of `timm.create_model`.

    Raises:
        ValueError: timm has no such model (the message suggests the nearest), or it does not take `arguments`.

    Example:
        >>> timm_backbone("vit_tiny_patch16_224", 3, 32, patch_size=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 192])
    """
    with train_extra():
        import timm  # here: it takes over a second to import
    if not timm.is_model(name):
        near = _nearest(name, timm.list_models())
        raise ValueError(f'expected `backbone.name` to be a model of timm, but got "{name}"{near}')
    if timm.models.get_pretrained_cfg_value(name, "fixed_input_size"):
        arguments = {"img_size": image_size, **arguments}
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_channels, **arguments)
    except TypeError as error:
        raise ValueError(f"`backbone.arguments` of {name}: {error}") from error
    return model


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def build_backbone(config: BackboneConfig, in_channels: int, image_size: int) -> nn.Module:
    """Builds the backbone of a configuration, for images of a given shape.

    The transformers are timm's standard models. A ViT has patches of 4x4 pixels, or of 16x16 for images larger than 64
    pixels. Swin has patches of 4x4 pixels and windows of 7x7 patches. `config.arguments` changes these: the recipe
    `paper/nnclr_vit` has the width, depth and heads of section 7.3.3 of the HEX supplement.

    Args:
        config: Name and sizes of the backbone. "module:function" names a function of yours. It is called with
            (in_channels, image_size) and the configuration's `arguments`, and returns a network from images [N, C, H,
            W] to [N, F].
        in_channels: C, channels of the images.
        image_size: Side of the square images in pixels. It decides the stem and the patches.

    Returns:
        A network in training mode, freshly initialised from torch's generator.

    Raises:
        ValueError: There is no such backbone, or it does not take `arguments`.
    """
    name, arguments = config.name, config.arguments
    if ":" in name:
        return _own_backbone(name, in_channels, image_size, **arguments)
    if (of_timm := timm_name(config, image_size)) is not None:
        timms, chosen = of_timm
        return timm_backbone(timms, in_channels, image_size, **chosen)
    if arguments:
        raise ValueError(f"expected `backbone.arguments` to be empty for {name}, but got {arguments}")
    if name == "small_resnet":
        return SmallResNet(in_channels, config.width)
    if name in RESNETS:
        return resnet_backbone(name, in_channels, has_small_stem(config, image_size), config.stem_padding)
    known = list_backbones()
    raise ValueError(
        f'expected `backbone.name` to be one of {", ".join(known)}, "timm/NAME" or "module:function", '
        f'but got "{name}"{_nearest(name, known)}'
    )


def timm_name(config: BackboneConfig, image_size: int) -> tuple[str, dict[str, Any]] | None:
    """timm's name of a backbone that timm builds, and its arguments; None for any other backbone.

    Example:
        >>> timm_name(BackboneConfig("vit_tiny"), image_size=32)
        ('vit_tiny_patch16_224', {'patch_size': 4})
    """
    name, arguments = config.name, dict(config.arguments)
    if name in TRANSFORMERS:
        small_patches = name.startswith("vit") and image_size <= SMALL_IMAGE
        return TRANSFORMERS[name], {**({"patch_size": 4} if small_patches else {}), **arguments}
    return (name.removeprefix(TIMM), arguments) if name.startswith(TIMM) else None


def has_small_stem(config: BackboneConfig, image_size: int) -> bool:
    """Whether a ResNet for images of this size has the small stem."""
    return config.stem == "small" or (config.stem == "auto" and image_size <= SMALL_IMAGE)


def list_backbones() -> list[str]:
    """The names of the backbones that need no prefix.

    Example:
        >>> list_backbones()[:3]
        ['small_resnet', 'resnet18', 'resnet50']
    """
    return ["small_resnet", *RESNETS, *TRANSFORMERS]


def _own_backbone(name: str, in_channels: int, image_size: int, **arguments: Any) -> nn.Module:
    make = import_own("backbone.name", name, "module:function")
    backbone = make(in_channels, image_size, **arguments)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"expected {name} to return a torch.nn.Module, but got {type(backbone).__name__}")
    return backbone


@torch.no_grad()
def feature_dim(backbone: nn.Module, in_channels: int, image_size: int) -> int:
    """F, the width of a backbone's representations, found by running it on one blank image.

    Raises:
        ValueError: The backbone does not take such images, or does not return [N, F].

    Example:
        >>> feature_dim(SmallResNet(width=8), in_channels=1, image_size=8)
        32
    """
    training = backbone.training
    backbone.eval()  # batch norm cannot train on one image, and its statistics must not change
    try:
        h = backbone(torch.zeros(1, in_channels, image_size, image_size))
    except (AssertionError, RuntimeError) as error:
        if not type(backbone).__module__.startswith(("timm.", "torchvision.", "hex_ssl.")):
            raise  # the user's own network: the traceback shows where it failed
        shape = [1, in_channels, image_size, image_size]
        raise ValueError(
            f"expected `backbone.name` to be a network for images {shape}, as `data.image_size` makes them, "
            f"but {type(backbone).__name__} does not take these: {error}"
        ) from error
    backbone.train(training)
    if h.ndim != 2:
        raise ValueError(f"expected the backbone to return [N, F], but got {list(h.shape)} for one image")
    return int(h.shape[1])


def describe_backbone(config: BackboneConfig, in_channels: int, image_size: int) -> dict[str, str]:
    """The description that `load_backbone` needs, as metadata for the safetensors file of the weights."""
    shape = {"in_channels": in_channels, "image_size": image_size}
    return {"backbone": json.dumps(asdict(config)), "images": json.dumps(shape)}


class SavedBackbone(NamedTuple):
    """The description of a backbone in its file.

    Attributes:
        config: Configuration of the backbone.
        in_channels: C, channels of the images that it takes.
        image_size: Side of these images in pixels.
        run: Configuration of the run that trained it; None if the file does not hold it.
    """

    config: BackboneConfig
    in_channels: int
    image_size: int
    run: Config | None


def read_saved_backbone(path: str | Path, own_code: bool = False) -> SavedBackbone:
    """Reads the description of a backbone from its file, without the weights.

    Args:
        path: `backbone.safetensors` of a run folder.
        own_code: Allow the file to name a function of yours, which is then imported and called to build the network.
            Use this only for your own files.

    Raises:
        ValueError: The file does not say which backbone it holds, or it names a function and `own_code` is False.
    """
    with reading(path, "to be a backbone's safetensors"), safe_open(str(path), framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    if not {"backbone", "images"} <= metadata.keys():
        raise ValueError(f"expected {path} to hold the backbone's configuration in its metadata, but it does not")
    with reading(path, "to hold the backbone's configuration in its metadata"):
        config = Config.from_dict({"backbone": json.loads(metadata["backbone"])}).backbone
        images = json.loads(metadata["images"])
        in_channels, image_size = (_positive(images, name) for name in ("in_channels", "image_size"))
        run = Config.from_dict(json.loads(metadata["run"])) if "run" in metadata else None
    if ":" in config.name and not own_code:
        raise ValueError(
            f'expected {path} to hold a backbone of hex-ssl or timm, but it names the function "{config.name}": if the '
            "file is yours, evaluate its run folder, or call `load_backbone(path, own_code=True)`"
        )
    return SavedBackbone(config, in_channels, image_size, run)


def load_backbone(path: str | Path, own_code: bool = False) -> nn.Module:
    """Loads the backbone of a run with its weights, in evaluation mode on the CPU.

    Args:
        path: `backbone.safetensors` of a run folder.
        own_code: See `read_saved_backbone`.

    Returns:
        The network.

    Raises:
        ValueError: See `read_saved_backbone`. Also if there is no such backbone, or the weights do not fit it.
    """
    saved = read_saved_backbone(path, own_code)
    with reading(path, "to describe a backbone that can be built here"):
        backbone = build_backbone(saved.config, saved.in_channels, saved.image_size)
    with reading(path, "to hold the weights of the backbone in its metadata"):
        backbone.load_state_dict(load_file(str(path)))
    return backbone.eval()


def _positive(images: Any, name: str) -> int:
    if type(images[name]) is not int or not 1 <= images[name] <= LARGEST_IMAGE:
        raise ValueError(f"`{name}` of {images[name]}, which is not in [1, {LARGEST_IMAGE}]")
    return int(images[name])
