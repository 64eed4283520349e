"""The one torch release that the extension can be loaded with."""

TORCH_VERSION = "2.11.0"
"""The extension is linked against the libtorch of this release; another one lacks its symbols."""


def check_torch_version(installed: str) -> None:
    """Refuses every other torch before the loader would, with a text one can act on.

    Args:
        installed: `torch.__version__`; a local part ("+cu130") does not matter.

    Raises:
        ImportError: The installed release is another one.

    Example:
        >>> check_torch_version("2.11.0+cpu")
    """
    if installed.partition("+")[0] != TORCH_VERSION:
        raise ImportError(
            f"hex_ssl was built for torch {TORCH_VERSION}, but torch {installed} is installed; "
            f"run: pip install torch=={TORCH_VERSION}"
        )
