"""The online classifier, the online evaluation and the seeds of the steps."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hex_ssl.train.callbacks import AtomicCheckpoints, OnlineClassifier, SeededSteps
from hex_ssl.train.callbacks.classifier import _labels_of_rows
from hex_ssl.train.evaluate import Features


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    return 3 * torch.eye(6)[labels] + torch.rand(count, 6, generator=generator), labels


def test_classifiers_learn_classes_and_superclasses() -> None:
    classifier = OnlineClassifier(4, superclasses=torch.tensor([0, 0, 1, 1]), learning_rate=0.05)
    for step in range(60):
        classifier.learn(*blobs(64, seed=step), share_done=step / 60)
    correct = classifier.predictions(Features(*blobs(40, seed=99)))
    assert correct.keys() == {"classifier_accuracy", "classifier_superclass_accuracy"}
    assert all(bool(each.all()) for each in correct.values())


def test_classifier_step_is_the_step_on_the_cross_entropy() -> None:
    h, labels = blobs(32, seed=0)
    classifier = OnlineClassifier(4, learning_rate=0.1)
    layer = torch.nn.Linear(6, 4)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.0)
    for _ in range(3):
        classifier.learn(h, labels)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(h), labels).backward()
        optimizer.step()
    weights = classifier.state_dict()["weights"]
    torch.testing.assert_close(weights["classifier_accuracy.weight"], layer.weight.detach())


def test_classifier_ignores_images_without_a_label() -> None:
    h, labels = blobs(32, seed=0)
    both, half = OnlineClassifier(4), OnlineClassifier(4)
    both.learn(h, labels.where(torch.arange(32) < 16, -1))
    half.learn(h[:16], labels[:16])
    both.learn(h, torch.full_like(labels, -1))  # no label at all: the gradient is 0
    half.learn(h[:0], labels[:0])
    for name, tensor in half.state_dict()["weights"].items():
        torch.testing.assert_close(both.state_dict()["weights"][name], tensor)


def test_classifier_resumes_bit_for_bit() -> None:
    whole = OnlineClassifier(4)
    for step in range(4):
        if step == 2:
            state = dict(whole.state_dict())
            resumed = OnlineClassifier(4)
            resumed.load_state_dict(torch.load(_saved(state), weights_only=True))
            assert resumed.state_dict().keys() == state.keys()  # also before it knows the width of h
        whole.learn(*blobs(16, seed=step))
    for step in (2, 3):
        resumed.learn(*blobs(16, seed=step))
    for name, tensor in whole.state_dict()["weights"].items():
        assert torch.equal(resumed.state_dict()["weights"][name], tensor)


def _saved(state: dict[str, Any]) -> Any:
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("rows", "chunk", "expected"),
    [
        (5, 5, [0, 1, 2, 3, 4]),  # one view through the backbone
        (10, 5, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]),  # two
        (10, 2, [0, 1, 0, 1, 2, 3, 2, 3, 4, 4]),  # two, in chunks
    ],
)
def test_labels_follow_the_rows(rows: int, chunk: int, expected: list[int]) -> None:
    assert _labels_of_rows(torch.arange(5), rows, chunk).tolist() == expected


def test_classifier_needs_a_class() -> None:
    with pytest.raises(ValueError, match="expected `classes` to be at least 1, but got 0"):
        OnlineClassifier(0)


def drawn(seed: int, batch: int, rank: int) -> tuple[float, float, float]:
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=batch))
    trainer: Any = SimpleNamespace(fit_loop=loop, global_rank=rank)
    SeededSteps(seed).on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_steps_draw_by_seed_batch_and_process_only() -> None:
    first = drawn(1, 2, 0)
    torch.rand(7), np.random.rand(7), random.random()
    assert drawn(1, 2, 0) == first
    assert len({drawn(*numbers) for numbers in ((1, 2, 0), (2, 2, 0), (1, 3, 0), (1, 2, 1), (2, 1, 0))}) == 5


def test_failed_write_keeps_the_old_checkpoint(tmp_path: Any) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpoints().save_checkpoint({"step": lambda: 2}, path)
    assert torch.load(path) == {"step": 1}
