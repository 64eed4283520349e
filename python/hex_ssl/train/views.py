"""Checks that a method and its backbone accept the views of a run."""

from hex_ssl.train.backbones import feature_dim
from hex_ssl.train.data import PretrainData
from hex_ssl.train.methods import Method


def check_views(name: str, method: Method, data: PretrainData) -> None:
    """Checks the number of the views and their sizes before a run begins.

    Args:
        name: Name of the method.
        method: The method.
        data: The images.

    Raises:
        ValueError: The method takes another number of views, or its backbone does not take views of their size.
    """
    sizes = data.view_sizes
    if method.view_count not in (None, len(sizes)):
        raise ValueError(
            f"expected `data.views` to give {method.view_count} views of each image, which {name} takes, but got "
            f"{len(sizes)}; simclr takes any number"
        )
    for size in sorted({*sizes} - {data.image_size}):
        feature_dim(method.backbone, data.channels, size)
