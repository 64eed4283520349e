"""Evaluation of the backbone during training."""

from typing import Literal

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset, Subset

from hex_ssl.distributed import gather_counts, gather_rows, is_distributed
from hex_ssl.train.callbacks.checkpoints import check_weights
from hex_ssl.train.callbacks.classifier import OnlineClassifier
from hex_ssl.train.data import PretrainData
from hex_ssl.train.evaluate.features import Features, extract_features
from hex_ssl.train.evaluate.knn import knn_predict
from hex_ssl.train.methods import Method

VOTES_IN_MEMORY = 2**27
"""Number of similarities that the k-NN computes at a time: half a gigabyte in float32."""


class OnlineEvaluation:
    """Accuracy of k-NN and of the online classifier on the test images, for classes and superclasses.

    The k-NN classifies the test images by their nearest neighbours among the training images, without augmentation.
    Each process computes the features of its share of the images.

    Args:
        data: The two splits and the superclasses.
        classifier: The online classifier, or None.
        k: Number of neighbours that vote.
        temperature: Temperature of the weights of the votes.

    Source: Wu et al. 2018 (arXiv 1805.01978), section 3.4; superclasses: HEX supplement, Figure 11.
    """

    def __init__(
        self, data: PretrainData, classifier: OnlineClassifier | None = None, k: int = 20, temperature: float = 0.07
    ) -> None:
        self.data = data
        self.classifier = classifier
        self.k = k
        self.temperature = temperature

    def __call__(self, trainer: L.Trainer, method: Method) -> dict[str, float]:
        """Accuracies in [0, 1], by name.

        Returns:
            `knn_accuracy`, with a classifier `classifier_accuracy`, and with superclasses `knn_superclass_accuracy` and
            `classifier_superclass_accuracy`.

        Raises:
            FloatingPointError: Some weights are not finite.
            ValueError: The weights are finite, but the representation of an image is not.
        """
        check_weights(trainer)
        # A compiled network would be recompiled for the sizes of these batches.
        with trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
            bank, test = (self._features(trainer, method, "train"), self._features(trainer, method, "test"))
        correct = self._neighbours(Features(*(_gathered(each) for each in bank)), test)
        if self.classifier is not None:
            correct |= self.classifier.predictions(test)
        return dict(zip(correct, _shares(torch.stack(list(correct.values()))), strict=True))

    def _features(self, trainer: L.Trainer, method: Method, name: Literal["train", "test"]) -> Features:
        images = self.data.split(name)
        split: Dataset[tuple[Tensor, int]] = images
        if is_distributed():
            split = Subset(images, range(dist.get_rank(), len(images), dist.get_world_size()))
        workers = 0 if self.data.train.in_memory else self.data.workers(trainer.num_devices)
        h, labels = extract_features(method.backbone, split, self.data.config.batch_size, workers)
        return Features(h[labels >= 0].float(), labels[labels >= 0])

    def _neighbours(self, bank: Features, test: Features) -> dict[str, Tensor]:
        block = max(VOTES_IN_MEMORY // max(len(bank.labels), 1), 1)
        classes = {"knn_accuracy": (bank.labels, test.labels)}
        if self.data.superclasses is not None:
            table = self.data.superclasses.to(bank.labels.device)
            classes["knn_superclass_accuracy"] = (table[bank.labels], table[test.labels])
        return {
            name: knn_predict(Features(bank.h, labels), test.h, self.k, self.temperature, block) == truth
            for name, (labels, truth) in classes.items()
        }


def _gathered(rows: Tensor) -> Tensor:
    if not is_distributed():
        return rows
    return gather_rows(rows, gather_counts(len(rows), rows.device))


def _shares(correct: Tensor) -> list[float]:
    """The fraction of true values in each row, over all processes."""
    counts = torch.cat([correct.double().sum(dim=1), correct.new_tensor([correct.shape[1]], dtype=torch.float64)])
    if is_distributed():
        dist.all_reduce(counts)
    return [float(each) for each in counts[:-1] / counts[-1]]
