"""The optional dependencies: packages that pretraining needs beyond torch and NumPy."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def train_extra(name: str = "train") -> Iterator[None]:
    """Context manager for imports that need an extra. A missing package becomes an error that says what to install.

    Args:
        name: The extra, as pyproject.toml calls it.

    Raises:
        ImportError: A package is missing.

    Example:
        >>> with train_extra():
        ...     import a_package_that_is_missing
        Traceback (most recent call last):
        ImportError: pretraining needs a_package_that_is_missing, which is not installed: pip install 'hex-ssl[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "hex_ssl").partition(".")[0]
        if package == "hex_ssl":  # a fault of ours, not a missing extra
            raise
        raise ImportError(
            f"pretraining needs {package}, which is not installed: pip install 'hex-ssl[{name}]'", name=package
        ) from error
