"""Representations of a dataset by a frozen backbone."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hex_ssl.data.lost_batch import end_on_lost_batch


class Features(NamedTuple):
    """Representations and labels of a dataset.

    Attributes:
        h: [N, F], floating point.
        labels: int64 [N].
    """

    h: Tensor
    labels: Tensor


@torch.no_grad()
def extract_features(
    backbone: nn.Module, dataset: Dataset[tuple[Tensor, int]], batch_size: int = 1024, num_workers: int = 0
) -> Features:
    """The backbone's representations of all images of a dataset, in order.

    The backbone runs in evaluation mode, on the device its weights are on, and is left in the mode it was in.

    Args:
        backbone: Images [N, C, H, W] to representations h [N, F].
        dataset: Gives (image, label).
        batch_size: Images at a time.
        num_workers: Processes that load images.

    Returns:
        Representations and labels, on the backbone's device.

    Example:
        >>> from hex_ssl.backbones import SmallResNet
        >>> from hex_ssl.config import DataConfig
        >>> from hex_ssl.data import PretrainData
        >>> test = PretrainData(DataConfig(name="digits"), seed=0).split("test")
        >>> h, labels = extract_features(SmallResNet(in_channels=1, width=8), test)
        >>> h.shape, labels.shape
        (torch.Size([360, 32]), torch.Size([360]))
    """
    training = backbone.training
    first = next(backbone.parameters())
    # A generator of its own: the loader would draw from torch's, and an evaluation would change the training after it.
    loader = DataLoader(
        dataset,
        batch_size,
        num_workers=num_workers,
        worker_init_fn=end_on_lost_batch,
        generator=torch.Generator(),
    )
    backbone.eval()
    batches = [(backbone(images.to(first)), labels.to(first.device)) for images, labels in loader]
    backbone.train(training)
    return Features(torch.cat([h for h, _ in batches]), torch.cat([labels for _, labels in batches]))
