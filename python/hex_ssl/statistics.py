"""What one evaluation of the loss saw: the numbers to log."""

from typing import NamedTuple

from torch import Tensor


class Statistics(NamedTuple):
    """Statistics of one evaluation: 0-d tensors on the inputs' device, float64 for float64 inputs, else float32.

    They carry no gradient, and reading one (`float(...)`) is the only synchronisation.

    Attributes:
        threshold: The threshold, a similarity (for scale "minmax" a rescaled one); NaN where labels decide.
        hierarchical_negatives: Mean number of hierarchical negatives of an anchor, |H|
            (HEX supplement, S7.4.1, Figure 9).
        positive_similarity: Mean cosine similarity of anchors and their positives.
        negative_similarity: Mean cosine similarity of anchors and their negatives.
        floor_fraction: Fraction of (anchor, positive) pairs whose reweighted term is at its floor:
            there the hierarchical negatives are not pushed away.
        undefined_anchors: Number of anchors without a defined loss, left out of the mean.

    Example:
        >>> import torch, hex_ssl
        >>> criterion = hex_ssl.HexLoss()
        >>> loss = criterion(torch.randn(16, 8), torch.randn(16, 8))
        >>> criterion.statistics.undefined_anchors
        tensor(0.)
    """

    threshold: Tensor
    hierarchical_negatives: Tensor
    positive_similarity: Tensor
    negative_similarity: Tensor
    floor_fraction: Tensor
    undefined_anchors: Tensor
