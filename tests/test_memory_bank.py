"""NTXentLoss with a memory bank: its formula, what the bank holds, and its checkpoint."""

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hex_ssl.losses import NTXentLoss

ROWS, DIMS = 10, 6


def two_views(samples: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Two views, of any scale."""
    return [(5 * torch.randn(samples, DIMS, dtype=torch.float64)).to(dtype).requires_grad_() for _ in range(2)]


def written_out(z1: Tensor, z2: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """The losses of the first views, [n], by cross-entropy."""
    first, second = (F.normalize(each.double(), dim=1) for each in (z1, z2))
    logits = torch.cat([(first * second).sum(1, keepdim=True), first @ bank.double().T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(z1), dtype=torch.int64), reduction="none")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("samples", [1, 4])
def test_is_the_formula_with_the_bank_of_before(samples: int, reduction: str, backend: str) -> None:
    criterion = NTXentLoss(temperature=0.3, memory_bank_size=(ROWS, DIMS), reduction=reduction)
    assert criterion.memory_bank is not None
    for _ in range(3):
        views, bank = two_views(samples), criterion.memory_bank.rows.clone()
        losses = written_out(*views, bank, 0.3)
        expected = losses if reduction == "none" else getattr(losses, reduction)()
        loss = criterion(*views)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
        # The bank has moved on before the backward.
        gradients = [torch.autograd.grad(each.sum(), views) for each in (loss, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)
    assert criterion.statistics is not None
    torch.testing.assert_close(
        criterion.statistics.positive_similarity, F.cosine_similarity(*views).mean().detach(), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bank_holds_the_last_second_views_in_a_ring(dtype: torch.dtype) -> None:
    criterion = NTXentLoss(memory_bank_size=(ROWS, DIMS))
    bank = criterion.memory_bank
    assert bank is not None
    expected = bank.rows.clone()
    for step in range(5):
        z1, z2 = two_views(4, dtype)
        criterion(z1, z2.detach()).backward()
        expected[torch.arange(4 * step, 4 * step + 4) % ROWS] = F.normalize(z2.detach().float(), dim=1)
        torch.testing.assert_close(bank.rows, expected)
    assert bank.rows.dtype == torch.float32
    assert (int(bank.pointer), int(bank.filled)) == (0, ROWS)


def test_the_bank_stays_where_nothing_is_trained() -> None:
    criterion = NTXentLoss(memory_bank_size=(ROWS, DIMS))
    before = copy.deepcopy(criterion.state_dict())
    z1, z2 = two_views(4)
    losses = [criterion(z1.detach(), z2) for _ in range(2)]
    assert torch.equal(*losses)
    for name, value in criterion.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("first", [ROWS, (ROWS, DIMS)], ids=["rows", "rows and dimensions"])
@pytest.mark.parametrize("resumed", [ROWS, (ROWS, DIMS)], ids=["rows", "rows and dimensions"])
def test_a_resumed_run_goes_on_with_the_same_bank(first: Any, resumed: Any) -> None:
    batches = [two_views(4, torch.float32) for _ in range(6)]
    whole, part = NTXentLoss(memory_bank_size=first), NTXentLoss(memory_bank_size=first)
    expected = [whole(*views) for views in batches]
    for views in batches[:3]:
        part(*views)
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    file.seek(0)
    after = NTXentLoss(memory_bank_size=resumed)
    after.load_state_dict(torch.load(file, weights_only=True), strict=True)
    losses = [after(*views) for views in batches[3:]]
    assert all(map(torch.equal, losses, expected[3:]))
    for name, value in whole.state_dict().items():
        assert torch.equal(after.state_dict()[name], value), name


@pytest.mark.parametrize("size", [0, (0,), (0, DIMS), [0, 0]])
def test_size_0_is_no_bank(size: Any) -> None:
    views, criterion = two_views(5), NTXentLoss(memory_bank_size=size)
    assert torch.equal(criterion(*views), NTXentLoss()(*views))
    assert criterion.state_dict() == {}


@pytest.mark.filterwarnings("ignore")
def test_is_lightlys() -> None:
    lightly = pytest.importorskip("lightly.loss")
    ours, theirs = (each(temperature=0.1, memory_bank_size=(ROWS, DIMS)) for each in (NTXentLoss, lightly.NTXentLoss))
    assert ours.memory_bank is not None
    theirs.memory_bank.bank.copy_(ours.memory_bank.rows)
    for _ in range(5):
        z1, z2 = two_views(5, torch.float32)  # two batches fill the bank
        losses = [module(z1, z2) for module in (ours, theirs)]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(loss, [z1, z2]) for loss in losses))
        torch.testing.assert_close(ours.memory_bank.rows, theirs.memory_bank.bank)


def test_compiles_without_a_break() -> None:
    eager, compiled = (NTXentLoss(memory_bank_size=(ROWS, DIMS)) for _ in range(2))
    run = torch.compile(compiled, backend="eager", fullgraph=True)
    for _ in range(2):
        views = two_views(4, torch.float32)
        assert torch.equal(run(*views), eager(*views))
    assert eager.memory_bank is not None
    assert compiled.memory_bank is not None
    assert torch.equal(compiled.memory_bank.rows, eager.memory_bank.rows)
    torch._dynamo.reset()


@pytest.mark.parametrize("dynamic", [None, True])
def test_a_bank_of_unknown_dimension_breaks_the_graph_once(dynamic: bool | None) -> None:
    eager, compiled, whole = (NTXentLoss(memory_bank_size=ROWS) for _ in range(3))
    run, run_whole = (
        torch.compile(each, backend="eager", fullgraph=fullgraph, dynamic=dynamic)
        for each, fullgraph in ((compiled, False), (whole, True))
    )
    views = two_views(4, torch.float32)
    with pytest.raises(Exception, match="_new_bank") as error:
        run_whole(*views)
    if torch.__version__ >= (2, 7):  # earlier releases show no reason
        assert "pass memory_bank_size=(K, D), or call the loss once before it is compiled" in str(error.value)
    whole(*(each.detach() for each in views))  # leaves the bank as it is
    for _ in range(2):
        expected = eager(*views)
        assert torch.equal(run(*views), expected)
        assert torch.equal(run_whole(*views), expected)
    for criterion in (compiled, whole):
        for name, value in eager.state_dict().items():
            assert torch.equal(criterion.state_dict()[name], value), name
    torch._dynamo.reset()


def test_inside_a_model_it_moves_and_is_shown() -> None:
    criterion = NTXentLoss(memory_bank_size=[ROWS, DIMS]).to("meta")
    assert criterion.memory_bank is not None
    assert criterion.memory_bank.rows.is_meta
    assert "memory_bank_size=[10, 6]" in repr(criterion)


def test_sizes_of_numpy() -> None:
    criterion = NTXentLoss(memory_bank_size=(np.int64(ROWS), np.int32(DIMS)))  # type: ignore[arg-type]
    assert criterion.memory_bank is not None
    assert criterion.memory_bank.rows.shape == (ROWS, DIMS)


@pytest.mark.parametrize("size", [True, 2.0, "64", (4, 2.0), None])
def test_sizes_of_other_types_are_errors(size: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^expected `memory_bank_size` to be an integer or a pair of integers, but got"
    ):
        NTXentLoss(memory_bank_size=size)


@pytest.mark.parametrize("size", [-1, (4, 0), (4, -2), (-1, 4), (4, 2, 2), ()])
def test_sizes_out_of_range_are_errors(size: Any) -> None:
    with pytest.raises(ValueError, match=r"^expected `memory_bank_size` to be \(rows, dimensions\), each at least 1, "):
        NTXentLoss(memory_bank_size=size)


def test_views_that_do_not_fit_the_bank_are_errors() -> None:
    criterion, views = NTXentLoss(memory_bank_size=(ROWS, DIMS + 1)), two_views(4)
    with pytest.raises(ValueError, match=r"^expected views of dimension 7, as in the memory bank, but got \[4, 6\]$"):
        criterion(*views)
    with pytest.raises(ValueError, match="^expected 2 views with a memory bank, but got 3$"):
        criterion(*views, views[0])
