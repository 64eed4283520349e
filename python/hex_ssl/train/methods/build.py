"""From configuration to objects: the loss and the method."""

import inspect
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import nn

from hex_ssl.losses import DCLLoss, HCLLoss, HexLoss, NTXentLoss
from hex_ssl.thresholds import NAMED, CosineThreshold, FixedThreshold, Threshold
from hex_ssl.train.backbones import build_backbone, feature_dim
from hex_ssl.train.config import Config, LossConfig, MethodConfig
from hex_ssl.train.methods.all4one import All4One
from hex_ssl.train.methods.barlow_twins import BarlowTwins
from hex_ssl.train.methods.base import Method
from hex_ssl.train.methods.byol import BYOL
from hex_ssl.train.methods.mocov2 import MoCoV2
from hex_ssl.train.methods.nnclr import NNCLR
from hex_ssl.train.methods.simclr import SimCLR
from hex_ssl.train.methods.simsiam import SimSiam
from hex_ssl.train.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "nnclr": NNCLR,
    "all4one": All4One,
    "barlow_twins": BarlowTwins,
    "byol": BYOL,
    "mocov2": MoCoV2,
    "vicreg": VICReg,
    "simsiam": SimSiam,
}
"""The methods by the names that a configuration has for them."""


def build_threshold(config: LossConfig, epochs: int | None = None) -> Threshold:
    """The threshold strategy of a configuration.

    Args:
        config: Its name, `hex`, and arguments.
        epochs: Those of the run: over so many the cosine falls unless its `max_epochs` says otherwise.

    Raises:
        ValueError: `loss.hex` is "off", or `loss.threshold_arguments` has a key that the strategy does not know, or
            lacks one that it needs.

    Example:
        >>> build_threshold(LossConfig(hex="adaptive", threshold_arguments={"quantile": 0.95}))
        AdaptiveThreshold(quantile=0.95)
    """
    if config.hex == "off":
        raise ValueError('expected `loss.hex` to name a threshold, but got "off"')
    strategy = FixedThreshold if config.hex == "fixed" else NAMED[config.hex]
    known = [field.name for field in fields(strategy)]  # type: ignore[arg-type]  # each strategy is a dataclass
    arguments: dict[str, Any] = dict(config.threshold_arguments)
    unknown = sorted(arguments.keys() - set(known))
    if unknown:
        raise ValueError(f"expected `loss.threshold_arguments` of {config.hex} to be among {known}, but got {unknown}")
    if strategy is CosineThreshold and epochs is not None:
        arguments.setdefault("max_epochs", epochs)
    try:
        return strategy(**arguments)
    except TypeError as error:
        raise ValueError(f"`loss.threshold_arguments` of {config.hex}: {error}") from error


def build_hex_loss(config: LossConfig, epochs: int | None = None) -> HexLoss | None:
    """HEX of a configuration, over all processes there are; None where it is off.

    Args:
        config: The loss.
        epochs: Those of the run.

    Example:
        >>> build_hex_loss(LossConfig(hex="fixed", threshold_arguments={"value": 0.9})).threshold
        FixedThreshold(value=0.9, scale='minmax')
    """
    if config.hex == "off":
        return None
    return HexLoss(
        config.temperature,
        threshold=build_threshold(config, epochs),
        formulation=config.formulation,
        beta=config.beta,
        tau_plus=config.tau_plus,
        warmup_epochs=config.warmup_epochs,
        gather_distributed=True,
    )


def build_loss(config: LossConfig, epochs: int | None = None) -> nn.Module:
    """SimCLR's loss of a configuration: HEX, or without it NT-Xent, HCL or DCL, over all processes there are.

    Args:
        config: The loss.
        epochs: Those of the run.

    Returns:
        A module called as `loss(z1, z2)`, HEX also with `labels=`.

    Raises:
        ValueError: `loss.base` is not "own" beside HEX.

    Example:
        >>> type(build_loss(LossConfig(base="dcl"))).__name__
        'DCLLoss'
    """
    hex_loss = build_hex_loss(config, epochs)
    if hex_loss is not None:
        if config.base != "own":
            raise ValueError(f'expected `loss.base` to be "own" where `loss.hex` is not "off", but got "{config.base}"')
        return hex_loss
    if config.base == "hcl":
        return HCLLoss(config.temperature, config.beta, config.tau_plus, gather_distributed=True)
    return {"own": NTXentLoss, "dcl": DCLLoss}[config.base](config.temperature, gather_distributed=True)


def build_method(
    config: Config,
    channels: int,
    image_size: int | None = None,
    superclasses: torch.Tensor | None = None,
    start: Callable[[nn.Module], object] | None = None,
) -> Method:
    """The method of a configuration with freshly initialised weights.

    Args:
        config: The run.
        channels: C, channels of the images.
        image_size: Side of the images in pixels; None: `data.image_size`.
        superclasses: int64 [classes], each class's superclass, for the supervised threshold. None: it goes by the
            classes.
        start: Called with the backbone before the method is built around it, such as to give it weights.

    Returns:
        The method, its backbone initialised first: at one seed every method and loss starts from the same backbone.

    Raises:
        ValueError: The method has no use for one of `method`'s settings, or one is out of its range.
    """
    size = image_size or config.data.image_size
    if size is None:
        raise ValueError("expected `image_size` or `data.image_size`, but both are None")
    method: Callable[..., Method] = METHODS[config.method.name]
    settings = _settings(config.method, method)
    if method is SimCLR:
        settings["loss"] = build_loss(config.loss, config.run.epochs)
    else:
        if config.loss.base != "own":
            raise ValueError(f'expected `loss.base` to be "own" for {config.method.name}, but got "{config.loss.base}"')
        settings["hex_loss"] = build_hex_loss(config.loss, config.run.epochs)
        shared = {"temperature": config.loss.temperature, "alpha": config.loss.alpha}
        settings |= {name: value for name, value in shared.items() if name in _parameters(method)}
    backbone = build_backbone(config.backbone, channels, size)
    if start is not None:  # before a momentum encoder copies it
        start(backbone)
    features = feature_dim(backbone, channels, size)
    return method(backbone, features, optimizer=config.optimizer, superclasses=superclasses, **settings)


def _settings(config: MethodConfig, method: Callable[..., Method]) -> dict[str, Any]:
    given = {name: value for name, value in asdict(config).items() if name != "name" and value is not None}
    known = [name for name in asdict(config) if name in _parameters(method)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(
            f"expected settings of {config.name}, {', '.join(known)}, but got "
            + ", ".join(f"`method.{name}`" for name in unknown)
        )
    return given


def _parameters(method: Callable[..., Method]) -> set[str]:
    return set(inspect.signature(method).parameters)
