"""Whether a method and its backbone take the views of a run."""

from torch import nn

from hex_ssl.train.backbones import feature_dim
from hex_ssl.train.data import PretrainData

TAKE_TWO = ("nnclr", "all4one", "barlow_twins", "byol", "mocov2", "vicreg", "simsiam")
"""The methods that are made for two views; SimCLR takes any number, and a method of yours says so itself."""


def check_views(method: str, backbone: nn.Module, data: PretrainData) -> None:
    """Checks the number of the views and their sizes before a run begins.

    Args:
        method: Name of the method.
        backbone: Its backbone.
        data: The images.

    Raises:
        ValueError: The method takes two views and there are more, or the backbone does not take views of their size.
    """
    sizes = data.view_sizes
    if method in TAKE_TWO and len(sizes) != 2:
        raise ValueError(
            f"expected `data.views` to give 2 views of each image, which {method} takes, but got {len(sizes)}; "
            "simclr takes any number"
        )
    for size in sorted({*sizes} - {data.image_size}):
        feature_dim(backbone, data.channels, size)
