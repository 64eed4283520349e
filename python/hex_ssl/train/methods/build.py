"""Builds methods from a configuration: those of this package, and users' own."""

from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from importlib import import_module
from typing import Any

import torch
from torch import nn

from hex_ssl.train.backbones import build_backbone, feature_dim
from hex_ssl.train.config import Config, check_types, is_plain, types_of, unknown_of_method
from hex_ssl.train.methods.base import Method
from hex_ssl.train.methods.settings import OWN, MethodSettings, UncheckedSettings, settings_class
from hex_ssl.train.own_code import import_own


def method_class(name: str) -> type[Method]:
    """Returns the class of a method by its name. The class of your own method is imported.

    Args:
        name: One of `METHODS`, or "module:Class".

    Raises:
        ValueError: There is no such method, or it is not a `Method` whose `settings_class` a configuration can hold.

    Example:
        >>> method_class("nnclr").settings_class().queue_size
        98304
    """
    if built_in := settings_class(name).method:
        module, _, class_name = built_in.partition(":")
        known: type[Method] = getattr(import_module(module), class_name)
        return known
    found = import_own("method.name", name, OWN)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ValueError(f"expected `method.name` to name a subclass of {Method.__module__}.Method, but got {name}")
    _check_settings_class(name, found.settings_class)
    return found


def _check_settings_class(name: str, settings: Any) -> None:
    """Checks that the settings of a user's own method can be read from a file and from the command line."""
    is_settings = isinstance(settings, type) and issubclass(settings, MethodSettings)
    if not (is_settings and "__dataclass_fields__" in vars(settings)):  # missing in a subclass without the decorator
        raise ValueError(
            f"expected `settings_class` of {name} to be a dataclass that extends MethodSettings, but got {settings}"
        )
    for each in fields(settings):
        if each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"expected all settings of {name} to have a default, but `{each.name}` has none")
        if not is_plain(annotation := types_of(settings)[each.name]):
            raise ValueError(
                f"expected the settings of {name} to be numbers, texts, truth values, lists and dictionaries of them, "
                f"None or Literal, but got `{each.name}`: {annotation}"
            )


def method_settings(settings: MethodSettings) -> MethodSettings:
    """The settings of a configuration's `method`, checked against the method's own class.

    Args:
        settings: The settings. Those of your own method may be unchecked, as read from a file.

    Raises:
        ValueError: The settings are those of another method, or a setting is unknown or has another type.
    """
    kind = method_class(settings.name).settings_class
    if isinstance(settings, UncheckedSettings):
        known = [f"method.{each.name}" for each in fields(kind)]
        if unknown := [name for each in settings.settings if (name := f"method.{each}") not in known]:
            raise ValueError(unknown_of_method(kind(name=settings.name), unknown, known))
        check_types("method", kind, settings.settings)
        return kind(name=settings.name, **settings.settings)
    if not isinstance(settings, kind):
        expected, found = kind.__name__, type(settings).__name__
        raise ValueError(f"expected `method` to be settings of {settings.name}, {expected}, but got {found}")
    return settings


def build_method(
    config: Config,
    channels: int,
    image_size: int | None = None,
    superclasses: torch.Tensor | None = None,
    start: Callable[[nn.Module], object] | None = None,
) -> Method:
    """Builds the method of a configuration with freshly initialised weights.

    Args:
        config: The run. Your own method, "module:Class", is imported.
        channels: C, channels of the images.
        image_size: Side of the images in pixels. None uses `data.image_size`.
        superclasses: int64 [classes], each class's superclass, for the supervised threshold. None uses the classes
            themselves.
        start: Called with the backbone before the method is built around it, for example to load weights.

    Returns:
        The method. Its backbone is initialised first, so that with the same seed all methods and losses start with the
        same backbone.

    Raises:
        ValueError: There is no such method, it does not support a setting, or a setting is out of its range.
    """
    size = image_size or config.data.image_size
    if size is None:
        raise ValueError("expected `image_size` or `data.image_size`, but both are None")
    config = replace(config, method=method_settings(config.method))
    method = method_class(config.method.name)
    backbone = build_backbone(config.backbone, channels, size)
    if start is not None:  # before a momentum encoder copies the backbone
        start(backbone)
    return method.from_config(config, backbone, feature_dim(backbone, channels, size), superclasses)
