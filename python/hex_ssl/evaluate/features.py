"""Representations of a dataset by a frozen backbone."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Features(NamedTuple):
    """Representations and labels of a dataset.

    Attributes:
        h: [N, F], floating point.
        labels: int64 [N].
    """

    h: Tensor
    labels: Tensor


@torch.no_grad()
def extract_features(backbone: nn.Module, dataset: Dataset[tuple[Tensor, Tensor]], batch_size: int = 1024) -> Features:
    """The backbone's representations of all images of a dataset, in order.

    The backbone runs in evaluation mode, on the device its weights are on, and is left in the mode it was in.

    Args:
        backbone: Images [N, C, H, W] to representations h [N, F].
        dataset: Gives (image, label).
        batch_size: Images at a time.

    Returns:
        Representations and labels, on the backbone's device.

    Example:
        >>> from hex_ssl.backbones import SmallResNet
        >>> from hex_ssl.data import Digits
        >>> h, labels = extract_features(SmallResNet(in_channels=1, width=8), Digits("test"))
        >>> h.shape, labels.shape
        (torch.Size([360, 32]), torch.Size([360]))
    """
    training = backbone.training
    device = next(backbone.parameters()).device
    backbone.eval()
    batches = [(backbone(images.to(device)), labels.to(device)) for images, labels in DataLoader(dataset, batch_size)]
    backbone.train(training)
    return Features(torch.cat([h for h, _ in batches]), torch.cat([labels for _, labels in batches]))
