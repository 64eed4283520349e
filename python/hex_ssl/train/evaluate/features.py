"""Representations of a dataset by a frozen backbone."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hex_ssl.train.data.lost_batch import end_on_lost_batch
from hex_ssl.train.progress import followed


class Features(NamedTuple):
    """Representations and labels of a dataset.

    Attributes:
        h: [N, F], floating point.
        labels: int64 [N].
    """

    h: Tensor
    labels: Tensor


def check_finite(name: str, rows: Tensor, of: str = "row") -> None:
    """Checks that representations are finite. Results computed from NaN or infinity have no meaning.

    Args:
        name: Name of the rows in the error.
        rows: [N, F], floating point.
        of: Name of one row in the error.

    Raises:
        ValueError: A row has NaN or infinity. The message names the first such row.

    Example:
        >>> check_finite("`bank`", torch.tensor([[1.0], [torch.nan]]))
        Traceback (most recent call last):
        ValueError: expected `bank` to be finite, but row 1 has NaN or infinity (1 of 2)
    """
    finite = rows.isfinite().all(dim=1)
    if not bool(finite.all()):
        count = int((~finite).sum())
        first = int((~finite).nonzero()[0])
        raise ValueError(f"expected {name} to be finite, but {of} {first} has NaN or infinity ({count} of {len(rows)})")


@torch.no_grad()
def extract_features(
    backbone: nn.Module, dataset: Dataset[tuple[Tensor, int]], batch_size: int = 1024, num_workers: int = 0
) -> Features:
    """The backbone's representations of all images of a dataset, in order.

    The backbone runs in evaluation mode, on the device of its weights. Its mode is restored afterwards.

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        dataset: Dataset of pairs (image, label).
        batch_size: Images per batch.
        num_workers: Number of DataLoader workers.

    Returns:
        Representations and labels, on the backbone's device.

    Raises:
        ValueError: A representation is not finite. The message has the index of its image in the dataset.

    Example:
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> from hex_ssl.train.config import DataConfig
        >>> from hex_ssl.train.data import PretrainData
        >>> test = PretrainData(DataConfig(name="digits"), seed=0).split("test")
        >>> h, labels = extract_features(SmallResNet(in_channels=1, width=8), test)
        >>> h.shape, labels.shape
        (torch.Size([360, 32]), torch.Size([360]))
    """
    training = backbone.training
    first = next(backbone.parameters())
    # A separate generator: otherwise the loader draws from torch's, and an evaluation would change later training.
    loader = DataLoader(
        dataset,
        batch_size,
        num_workers=num_workers,
        worker_init_fn=end_on_lost_batch,
        generator=torch.Generator(),
    )
    backbone.eval()
    work = followed(loader, "representations", len(loader))
    batches = [(backbone(images.to(first)), labels.to(first.device)) for images, labels in work]
    backbone.train(training)
    h = torch.cat([each for each, _ in batches])
    check_finite("the network's representations", h, of="that of image")
    return Features(h, torch.cat([labels for _, labels in batches]))
