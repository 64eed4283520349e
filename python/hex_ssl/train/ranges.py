"""Checks of a setting's range, for the `__post_init__` of settings. None passes every check."""

import math


def above(name: str, value: float | None, lowest: float) -> None:
    """Raises ValueError if a value is not above the lowest, or not finite."""
    if value is not None and not lowest < value < math.inf:
        raise ValueError(f"expected `{name}` to be above {lowest}, but got {value}")


def at_least(name: str, value: float | None, lowest: float) -> None:
    """Raises ValueError if a value is below the lowest, or not finite."""
    if value is not None and not lowest <= value < math.inf:
        raise ValueError(f"expected `{name}` to be at least {lowest}, but got {value}")


def between(name: str, value: float | None, lowest: float, highest: float) -> None:
    """Raises ValueError if a value is outside [lowest, highest]."""
    if value is not None and not lowest <= value <= highest:
        raise ValueError(f"expected `{name}` to be in [{lowest}, {highest}], but got {value}")
