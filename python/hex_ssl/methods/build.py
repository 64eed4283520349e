"""From configuration to objects: the loss and the method."""

from dataclasses import fields

from torch import nn

from hex_ssl.backbones import build_backbone, feature_dim
from hex_ssl.config import Config, LossConfig
from hex_ssl.losses import DCLLoss, HCLLoss, HexLoss, NTXentLoss
from hex_ssl.methods.base import Method
from hex_ssl.methods.simclr import SimCLR
from hex_ssl.thresholds import NAMED, FixedThreshold, Threshold


def build_threshold(config: LossConfig) -> Threshold:
    """The threshold strategy of a configuration.

    Raises:
        ValueError: `loss.threshold_arguments` has a key that the strategy does not know, or lacks one that it needs.

    Example:
        >>> build_threshold(LossConfig(threshold_arguments={"quantile": 0.95}))
        AdaptiveThreshold(quantile=0.95)
    """
    strategy = FixedThreshold if config.threshold == "fixed" else NAMED[config.threshold]
    known = [field.name for field in fields(strategy)]  # type: ignore[arg-type]  # each strategy is a dataclass
    unknown = sorted(config.threshold_arguments.keys() - set(known))
    if unknown:
        raise ValueError(
            f"expected `loss.threshold_arguments` of {config.threshold} to be among {known}, but got {unknown}"
        )
    try:
        return strategy(**config.threshold_arguments)
    except TypeError as error:
        raise ValueError(f"`loss.threshold_arguments` of {config.threshold}: {error}") from error


def build_loss(config: LossConfig, gather_distributed: bool = False) -> nn.Module:
    """The loss of a configuration.

    Args:
        config: Name and arguments.
        gather_distributed: Whether the projections of all processes are the keys.

    Returns:
        A module called as `loss(z1, z2, *more_views, labels=labels)`.

    Example:
        >>> type(build_loss(LossConfig(name="ntxent"))).__name__
        'NTXentLoss'
    """
    if config.name == "ntxent":
        return NTXentLoss(config.temperature, gather_distributed=gather_distributed)
    if config.name == "dcl":
        return DCLLoss(config.temperature, gather_distributed=gather_distributed)
    if config.name == "hcl":
        return HCLLoss(config.temperature, config.beta, config.tau_plus, gather_distributed=gather_distributed)
    return HexLoss(
        config.temperature,
        threshold=build_threshold(config),
        formulation=config.formulation,
        beta=config.beta,
        tau_plus=config.tau_plus,
        warmup_epochs=config.warmup_epochs,
        gather_distributed=gather_distributed,
    )


def build_method(config: Config, in_channels: int) -> Method:
    """The method of a configuration with freshly initialised weights.

    Args:
        config: The run.
        in_channels: C, channels of the images.

    Returns:
        The method, its backbone initialised first: at one seed every method and loss starts from the same backbone.
    """
    backbone = build_backbone(config.backbone, in_channels, config.data.image_size)
    return SimCLR(
        backbone,
        build_loss(config.loss, gather_distributed=config.run.devices > 1),
        feature_dim(backbone, in_channels, config.data.image_size),
        config.method.hidden_dim,
        config.method.output_dim,
        config.optimizer,
    )
