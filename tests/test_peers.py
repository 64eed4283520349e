"""The losses against those of open_clip, sentence-transformers and pytorch-metric-learning, where these are installed.

lightly's are in the tests of each loss.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hex_ssl import CLIPLoss, InfoNCELoss, NTXentLoss, SupConLoss
from hex_ssl.functional import infonce_loss

pytestmark = pytest.mark.filterwarnings("ignore")


def assert_same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    """Both have the same value and the same gradients."""
    losses = [loss(*inputs) for loss in (ours, theirs)]
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(loss, inputs) for loss in losses), rtol=1e-9, atol=1e-12)


def rows(*counts: int) -> list[Tensor]:
    """Leaves with that many rows around a few centers."""
    centers = torch.randn(6, 12, dtype=torch.float64)
    return [
        (centers[torch.arange(count) % 6] + 0.7 * torch.randn(count, 12, dtype=torch.float64)).requires_grad_()
        for count in counts
    ]


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_open_clip(scale: float, backend: str) -> None:
    theirs = pytest.importorskip("open_clip").ClipLoss()
    logit_scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)

    def normalised(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
        return theirs(F.normalize(images, dim=1), F.normalize(texts, dim=1), logit_scale)

    ours = CLIPLoss()
    assert_same(
        lambda images, texts, logit_scale: ours(images, texts, temperature=1 / logit_scale),
        normalised,
        [*rows(40, 40), logit_scale],
    )


@pytest.mark.parametrize("hard_negatives", [0, 1, 3])
def test_sentence_transformers(hard_negatives: int, backend: str) -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    theirs = losses.MultipleNegativesRankingLoss(model=None, scale=20.0)
    ours = InfoNCELoss(temperature=1 / 20.0)
    assert_same(
        lambda anchors, *others: ours(anchors, torch.cat(others)),
        lambda *columns: theirs.compute_loss_from_embeddings(list(columns), None),
        rows(*[30] * (2 + hard_negatives)),
    )


def test_sentence_transformers_both_directions(backend: str) -> None:
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    theirs = losses.MultipleNegativesRankingLoss(model=None, scale=20.0, **both)
    ours = CLIPLoss(temperature=1 / 20.0)
    assert_same(ours, lambda *columns: theirs.compute_loss_from_embeddings(list(columns), None), rows(30, 30))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("views", [2, 3])
def test_ntxent_of_pytorch_metric_learning(views: int, temperature: float, backend: str) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    theirs = losses.NTXentLoss(temperature=temperature)
    labels = torch.arange(17).repeat(views)
    assert_same(NTXentLoss(temperature=temperature), lambda *z: theirs(torch.cat(z), labels), rows(*[17] * views))


def test_ntxent_with_labels_of_pytorch_metric_learning(backend: str) -> None:
    theirs = pytest.importorskip("pytorch_metric_learning.losses").NTXentLoss(temperature=0.1)
    labels, itself = torch.arange(24) % 6, torch.arange(24)
    others = (labels[:, None] == labels).fill_diagonal_(False).nonzero()[:, 1].view(24, 3)
    assert_same(
        lambda z: infonce_loss(z, z, positive_index=others, ignored_index=itself, temperature=0.1),
        lambda z: theirs(z, labels),
        rows(24),
    )


@pytest.mark.parametrize("classes", [4, 40])
def test_supcon_of_pytorch_metric_learning(classes: int, backend: str) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    theirs, ours = losses.SupConLoss(temperature=0.1), SupConLoss(temperature=0.1)
    labels = torch.randint(classes, (50,))  # of 40 classes, some have one row
    assert_same(lambda z: ours(z, labels=labels), lambda z: theirs(z, labels), rows(50))
