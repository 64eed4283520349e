"""Top-1 and top-5 accuracy, of classes and of superclasses, from scores.

Scores are logarithms of votes or of probabilities: -inf stands for a class without any.
"""

import torch
from torch import Tensor

TOP = (1, 5)
"""The k of the top-k accuracies."""


def ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """The number of classes that are ahead of the true one: 0 if it has the highest score.

    Among equal scores, the class with the lower number is ahead. A true class with score -inf comes last: with only 3
    neighbours, a k-NN has no fourth best class.

    Args:
        scores: [M, C], floating point.
        labels: int64 [M].

    Returns:
        int64 [M], in 0..C.

    Example:
        >>> ranks(torch.tensor([[0.1, 0.7, 0.2], [0.5, -torch.inf, 0.5]]), torch.tensor([2, 1]))
        tensor([1, 3])
    """
    true = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    ahead = ((scores > true) | ((scores == true) & earlier)).sum(dim=1)
    return ahead.where(true.squeeze(1) > -torch.inf, torch.full_like(ahead, scores.shape[1]))


def superclass_scores(scores: Tensor, superclasses: Tensor) -> Tensor:
    """Scores of the superclasses: the votes, or probabilities, of the classes of a superclass are added.

        score_s = log sum over the classes c of superclass s of exp(score_c)

    For a k-NN this is the vote of neighbours with superclass labels. For a classifier, it is the logarithm of the
    superclass's probability.

    Args:
        scores: [M, C], floating point.
        superclasses: int64 [C], each class's superclass.

    Returns:
        [M, S].

    Example:
        >>> superclass_scores(torch.tensor([[0.25, 0.25, 0.5]]).log(), torch.tensor([1, 1, 0])).exp()
        tensor([[0.5000, 0.5000]])
    """
    largest = scores.amax(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)  # a row may be -inf throughout
    sums = scores.new_zeros(len(scores), int(superclasses.max()) + 1)
    # A vote that underflows still counts, as the smallest number.
    votes = (scores - largest).exp().clamp(min=torch.finfo(scores.dtype).tiny).where(scores > -torch.inf, 0.0)
    return sums.index_add_(1, superclasses.to(scores.device), votes).log() + largest


def top_accuracies(true_ranks: Tensor, classes: int, prefix: str = "") -> dict[str, float]:
    """Top-1 and top-5 accuracy: the fraction of images whose true class is among the best 1, or the best 5.

    Args:
        true_ranks: int64 [M], from `ranks`.
        classes: C. With up to 5 classes, top-5 accuracy has no meaning and is left out.
        prefix: Prefix of the names.

    Returns:
        `top1` and, for more than 5 classes, `top5`, in [0, 1].

    Example:
        >>> top_accuracies(torch.tensor([0, 3, 7, 0]), classes=10)
        {'top1': 0.5, 'top5': 0.75}
    """
    return {f"{prefix}top{k}": float((true_ranks < k).double().mean()) for k in TOP if k == 1 or classes > k}


def class_accuracies(scores: Tensor, labels: Tensor, superclasses: Tensor | None = None) -> dict[str, float]:
    """Top-1 and top-5 accuracy of the classes, and of the superclasses if there are any.

    Args:
        scores: [M, C], floating point.
        labels: int64 [M].
        superclasses: int64 [C], each class's superclass.

    Returns:
        `top1`, `top5`, `superclass_top1`, `superclass_top5`. Top-5 is left out for up to 5 classes.

    Example:
        >>> scores = torch.tensor([[0.4, 0.3, 0.3], [0.1, 0.2, 0.7]]).log()
        >>> class_accuracies(scores, torch.tensor([1, 2]), superclasses=torch.tensor([0, 1, 1]))
        {'top1': 0.5, 'superclass_top1': 1.0}
    """
    figures = top_accuracies(ranks(scores, labels), scores.shape[1])
    if superclasses is not None:
        above = superclass_scores(scores, superclasses)
        true_ranks = ranks(above, superclasses.to(labels.device)[labels])
        figures |= top_accuracies(true_ranks, above.shape[1], "superclass_")
    return figures
