"""The queue: its rows after any batches, the nearest rows that it finds, and its checkpoint."""

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from hex_ssl.queue import Queue


@given(size=st.integers(1, 12), batches=st.lists(st.integers(0, 15), max_size=8))
def test_it_holds_the_last_rows_in_a_ring(size: int, batches: list[int]) -> None:
    queue = Queue(size, 3)
    expected_rows, expected_labels = queue.rows.tolist(), [-1] * size
    generator = torch.Generator().manual_seed(sum(batches))
    arrived = 0
    for count in batches:
        z = torch.randn(count, 3, generator=generator)
        queue.enqueue(z, torch.arange(arrived, arrived + count))
        for row in F.normalize(z, dim=1).tolist():
            expected_rows[arrived % size], expected_labels[arrived % size] = row, arrived
            arrived += 1
        torch.testing.assert_close(queue.rows, torch.tensor(expected_rows))
        assert queue.labels.tolist() == expected_labels
        assert (int(queue.pointer), int(queue.filled)) == (arrived % size, min(arrived, size))


def test_neighbours_are_the_closest_by_cosine_whatever_the_scale() -> None:
    queue = Queue(50, 6)
    queue.enqueue(10 * torch.randn(30, 6), torch.arange(30))
    z = torch.randn(7, 6)
    neighbours, labels = queue.neighbours(100 * z, count=4)
    for anchor, found, names in zip(z, neighbours, labels, strict=True):
        order = F.cosine_similarity(anchor, queue.rows).argsort(descending=True)[:4]
        assert torch.equal(found, queue.rows[order])
        assert torch.equal(names, queue.labels[order])


def test_neighbours_of_more_rows_than_are_searched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, z = Queue(20, 4), torch.randn(11, 4)
    expected = queue.neighbours(z, count=3)
    monkeypatch.setattr("hex_ssl.queue.SEARCHED_ROWS", 4)
    assert all(torch.equal(a, b) for a, b in zip(queue.neighbours(z, count=3), expected, strict=True))


def test_neighbours_carry_no_gradient_and_stay_when_the_queue_moves_on() -> None:
    queue, z = Queue(4, 2), torch.randn(3, 2, requires_grad=True)
    neighbours, _ = queue.neighbours(z)
    before = neighbours.clone()
    queue.enqueue(z, torch.zeros(3, dtype=torch.int64))
    assert not neighbours.requires_grad
    assert not queue.rows.requires_grad
    assert torch.equal(neighbours, before)


def test_the_state_dict_holds_everything() -> None:
    queue = Queue(7, 3)
    queue.enqueue(torch.randn(5, 3), torch.arange(5))
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    file.seek(0)
    restored = Queue(7, 3)
    restored.load_state_dict(torch.load(file, weights_only=True))
    rows, labels = torch.randn(4, 3), torch.arange(4)
    for each in (queue, restored):
        each.enqueue(rows, labels)
    assert queue.state_dict().keys() == {"rows", "labels", "pointer", "filled"}
    for name, value in queue.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name


def test_the_first_rows_are_unit_vectors_the_same_for_every_seed() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Queue(9, 4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(Queue(9, 4).rows, first.rows)
    torch.testing.assert_close(first.rows.norm(dim=1), torch.ones(9))


def test_half_types_and_float64_are_taken() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        queue = Queue(4, 2)
        queue.enqueue(torch.ones(2, 2, dtype=dtype), torch.zeros(2, dtype=torch.int64))
        assert queue.rows.dtype == torch.float32
        torch.testing.assert_close(queue.rows[:2], torch.full((2, 2), 0.5**0.5))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert queue.neighbours(torch.ones(1, 2, dtype=dtype))[0].dtype == torch.float32


def test_fill() -> None:
    queue = Queue(8, 2)
    assert queue.fill == 0
    queue.enqueue(torch.ones(6, 2), torch.zeros(6, dtype=torch.int64))
    assert queue.fill == 0.75
    assert copy.deepcopy(queue).fill == 0.75


@pytest.mark.parametrize(("size", "dim", "name"), [(0, 2, "size"), (2, 0, "dim")])
def test_empty_queues_are_errors(size: int, dim: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"^expected `{name}` to be at least 1, but got 0$"):
        Queue(size, dim)


def test_more_neighbours_than_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="^expected `count` to be at most the queue's 3 rows, but got 4$"):
        Queue(3, 2).neighbours(torch.ones(1, 2), count=4)
