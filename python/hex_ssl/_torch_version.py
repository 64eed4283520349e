"""The torch releases that the extension supports."""

OLDEST_TORCH = "2.6"
"""The oldest supported release."""


def check_torch_version(installed: str, linked: str | None = None) -> None:
    """Raises an error with instructions if the installed torch is not supported.

    Args:
        installed: `torch.__version__`. A local part such as "+cu130" is ignored.
        linked: The release whose libtorch the extension is linked against. None if it is not linked against libtorch:
            every release from `OLDEST_TORCH` on is then supported.

    Raises:
        ImportError: The installed release differs from `linked`, or is too old.

    Example:
        >>> check_torch_version("2.11.0+cpu")
        >>> check_torch_version("2.11.0+cpu", linked="2.11.0")
    """
    if linked is not None and installed.partition("+")[0] != linked:
        raise ImportError(
            f"hex_ssl was built for torch {linked}, but torch {installed} is installed; "
            f"run: pip install torch=={linked}"
        )
    if _release(installed) < _release(OLDEST_TORCH):
        raise ImportError(
            f"hex_ssl needs torch {OLDEST_TORCH} or later, but torch {installed} is installed; "
            f'run: pip install "torch>={OLDEST_TORCH}"'
        )


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
