"""The torch releases that the extension works with."""

OLDEST_TORCH = "2.6"
"""The oldest release with all that `hex_ssl` calls."""


def check_torch_version(installed: str, linked: str | None = None) -> None:
    """Refuses a torch that cannot work, with a text one can act on.

    Args:
        installed: `torch.__version__`; a local part ("+cu130") does not matter.
        linked: The one release whose libtorch the extension is linked against; None where it is linked against none,
            and every release from `OLDEST_TORCH` on will do.

    Raises:
        ImportError: The installed release is another one, or too old.

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
