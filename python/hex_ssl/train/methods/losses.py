"""Builds HEX and SimCLR's loss from a configuration."""

from dataclasses import fields
from typing import Any

from torch import nn

from hex_ssl.losses import DCLLoss, HCLLoss, HexLoss, NTXentLoss
from hex_ssl.thresholds import NAMED, CosineThreshold, FixedThreshold, MarginThreshold, Threshold
from hex_ssl.train.config import LossConfig

STRATEGIES: dict[str, type[Threshold]] = {**NAMED, "fixed": FixedThreshold, "margin": MarginThreshold}
"""The threshold strategies by their names in `loss.hex`."""


def build_threshold(config: LossConfig, epochs: int | None = None) -> Threshold:
    """Builds the threshold strategy of a configuration.

    Args:
        config: The loss. Its `hex` and `threshold_arguments` give the strategy and its arguments.
        epochs: Epochs of the run. The cosine falls over all of them unless `max_epochs` is given.

    Raises:
        ValueError: `loss.hex` is "off", or `loss.threshold_arguments` has a key that the strategy does not know, or
            lacks one that it needs.

    Example:
        >>> build_threshold(LossConfig(hex="adaptive", threshold_arguments={"quantile": 0.95}))
        AdaptiveThreshold(quantile=0.95)
    """
    if config.hex == "off":
        raise ValueError('expected `loss.hex` to name a threshold, but got "off"')
    strategy = STRATEGIES[config.hex]
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
    """Builds the HEX loss of a configuration, over all processes. None if it is off.

    Args:
        config: The loss.
        epochs: Epochs of the run.

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
    """Builds SimCLR's loss of a configuration, over all processes: HEX, or else NT-Xent, HCL or DCL.

    Args:
        config: The loss.
        epochs: Epochs of the run.

    Returns:
        A module called as `loss(z1, z2)`. HEX also takes `labels`.

    Raises:
        ValueError: `loss.base` is not "own" although HEX is used.

    Example:
        >>> type(build_loss(LossConfig(base="dcl"))).__name__
        'DCLLoss'
    """
    hex_loss = build_hex_loss(config, epochs)
    if hex_loss is not None:
        if config.base != "own":
            raise ValueError(f'expected `loss.base` to be "own" if `loss.hex` is not "off", but got "{config.base}"')
        return hex_loss
    if config.base == "hcl":
        return HCLLoss(config.temperature, config.beta, config.tau_plus, gather_distributed=True)
    return {"own": NTXentLoss, "dcl": DCLLoss}[config.base](config.temperature, gather_distributed=True)
