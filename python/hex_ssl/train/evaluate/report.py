"""Evaluates a backbone by k-NN and linear probe, and describes the protocol."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from hex_ssl.train.data.module import PretrainData
from hex_ssl.train.evaluate.features import extract_features
from hex_ssl.train.evaluate.knn import knn_accuracy
from hex_ssl.train.evaluate.linear import linear_probe_accuracy


@dataclass(frozen=True)
class Protocol:
    """The protocol by which a frozen backbone is evaluated. It accompanies every result.

    Args:
        k: Number of neighbours of the k-NN.
        temperature: Temperature of the k-NN's weights.
        labels_per_class: Labels per class of the linear probe with few labels.
        draws: Number of draws of these labels, over which the accuracy is averaged.
    """

    k: int = 20
    temperature: float = 0.07
    labels_per_class: int = 10
    draws: int = 5

    def describe(self) -> str:
        """The protocol as text."""
        return (
            f"frozen backbone, features before the projector, images without augmentation; "
            f"k-NN: cosine, k = {self.k}, weights exp(cos / {self.temperature}), all training images as bank; "
            f"linear probe: logistic regression on standardised features, "
            f"with {self.labels_per_class} labels per class (mean of {self.draws} draws) and with all"
        )


def evaluate_backbone(backbone: nn.Module, data: PretrainData, protocol: Protocol | None = None) -> dict[str, Any]:
    """k-NN and linear-probe accuracy of a frozen backbone on the test split.

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        data: The data, with a training and a test split.
        protocol: The protocol. None uses the default one.

    Returns:
        `knn_accuracy`, `probe_accuracy_few_labels` and `probe_accuracy`, each in [0, 1], and `protocol`, a dictionary.
    """
    protocol = protocol or Protocol()
    train, test = data.split("train"), data.split("test")
    bank, queries = extract_features(backbone, train), extract_features(backbone, test)
    few = linear_probe_accuracy(bank, queries, protocol.labels_per_class, protocol.draws)
    return {
        "knn_accuracy": knn_accuracy(bank, queries, protocol.k, protocol.temperature),
        "probe_accuracy_few_labels": few,
        "probe_accuracy": linear_probe_accuracy(bank, queries),
        "protocol": {
            **asdict(protocol),
            "description": protocol.describe(),
            "dataset": data.config.name,
            "train_images": len(train),
            "test_images": len(test),
        },
    }
