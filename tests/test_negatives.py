"""Negatives that are taken out, by label, margin or list, and own negatives: against plain loops in float64."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hex_ssl import CLIPLoss, HexLoss, InfoNCELoss, _core
from hex_ssl.functional import clip_loss, hex_loss, hex_loss_with_keys, infonce_loss, ntxent_loss
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold, MarginThreshold, StepThreshold

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}
ROUNDING = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}
TEMPERATURE = 0.2

Rule = Callable[[int, int], bool]


def rows(count: int, dims: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rows around a few centres."""
    generator = torch.Generator().manual_seed(1000 * seed + count)
    centres = torch.randn(3, dims, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, dims, generator=generator, dtype=torch.float64)
    return (centres[torch.arange(count) % 3] + noise).to(dtype).requires_grad_()


def by_loops(
    anchors: Tensor,
    keys: Tensor,
    positives: Sequence[Sequence[int]],
    is_out: Rule = lambda i, j: False,
    own: Tensor | None = None,
    margin: Callable[[float], float] | None = None,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """The loss of each anchor: InfoNCE over the negatives that are left, pair by pair."""
    unit_anchors, unit_keys = F.normalize(anchors.double(), dim=1), F.normalize(keys.double(), dim=1)
    unit_own = None if own is None else F.normalize(own.double(), dim=2)
    losses = []
    for i, anchor in enumerate(unit_anchors):
        c = unit_keys @ anchor
        left = c[[j for j in range(len(keys)) if j not in positives[i] and not is_out(i, j)]]
        left = left if unit_own is None else torch.cat([left, unit_own[i] @ anchor])
        if margin is not None:
            bound = margin(max(c[p].item() for p in positives[i]))
            assert not ((left - bound).abs() < 1e-6).any(), "rounding may decide: draw another"
            left = left[left <= bound]
        terms = [
            torch.cat([c[p : p + 1], left]).div(temperature).logsumexp(0) - c[p] / temperature for p in positives[i]
        ]
        losses.append(torch.stack(terms).mean())
    return torch.stack(losses)


def assert_like(found: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    dtype = inputs[0].dtype
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    upstream = torch.linspace(0.5, 1.5, expected.numel(), dtype=torch.float64).view_as(expected)
    ours = torch.autograd.grad(found, inputs, upstream.to(found.dtype))
    theirs = torch.autograd.grad(expected, inputs, upstream, retain_graph=True)
    for mine, right in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - right.double()).norm() <= ROUNDING[dtype] * max(right.double().norm(), 0.1)


# What to take out: arguments of `infonce_loss`, and of `by_loops`.
def ragged(anchors: int, keys: int) -> Tensor:
    """Lists of keys to ignore: none, three, or all but the positive."""
    index = torch.full((anchors, keys + 2), -1)
    for i in range(anchors):
        others = [j for j in range(keys) if j != i]
        chosen = [[], others[::-1][:3], others][i % 3]
        index[i, 1 : 1 + len(chosen)] = torch.tensor(chosen, dtype=torch.int64)
    return index


def rules(anchors: int, keys: int) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    labels, ignored = torch.arange(keys) % 4, ragged(anchors, keys)
    lists = [set(each.tolist()) - {-1} for each in ignored]
    by_label = {"anchor_labels": labels[:anchors], "key_labels": labels, "threshold": "supervised"}
    elimination = {"formulation": "elimination"}
    return {
        "nothing": ({}, {}),
        "labels": (by_label | elimination, {"is_out": lambda i, j: bool(labels[i] == labels[j])}),
        "margin": ({"threshold": MarginThreshold(0.05)} | elimination, {"margin": lambda c: c + 0.05}),
        "negative margin": ({"threshold": MarginThreshold(-0.3)} | elimination, {"margin": lambda c: c - 0.3}),
        "relative margin": (
            {"threshold": MarginThreshold(-0.5, relative=True)} | elimination,
            {"margin": lambda c: c - 0.5 * abs(c)},
        ),
        "lists": ({"ignored_index": ignored}, {"is_out": lambda i, j: j in lists[i]}),
        "labels and lists": (
            by_label | elimination | {"ignored_index": ignored},
            {"is_out": lambda i, j: bool(labels[i] == labels[j]) or j in lists[i]},
        ),
        "cosine": (
            {"threshold": FixedThreshold(0.3, scale="cosine")} | elimination,
            {"margin": lambda c: 0.3},
        ),
    }


RULES = list(rules(1, 1))


@pytest.mark.parametrize("own", [0, 3])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_infonce_over_the_negatives_that_are_left(dtype: torch.dtype, rule: str, own: int, backend: str) -> None:
    count, more, dims = 13, 34, 7
    anchors, keys = rows(count, dims, 1, dtype), rows(more, dims, 2, dtype)
    inputs = [anchors, keys]
    given, expected = rules(count, more)[rule]
    if own:
        block = rows(count * own, dims, 3, dtype).detach().view(count, own, dims).requires_grad_()
        inputs.append(block)
        given, expected = given | {"own_negatives": block}, expected | {"own": block}
    found = infonce_loss(anchors, keys, temperature=TEMPERATURE, reduction="none", **given)
    right = by_loops(anchors, keys, [[i] for i in range(count)], **expected)
    assert_like(found, right, *inputs)
    assert_like(infonce_loss(anchors, keys, temperature=TEMPERATURE, **given), right.mean(), *inputs)


@pytest.mark.parametrize(
    ("count", "more", "dims", "own"), [(1, 1, 1, 1), (1, 3, 4, 2), (7, 7, 33, 9), (130, 65, 20, 3)]
)
def test_odd_sizes(count: int, more: int, dims: int, own: int, backend: str) -> None:
    anchors, keys = rows(count, dims, 4), rows(max(more, count), dims, 5)
    block = rows(count * own, dims, 6).detach().view(count, own, dims).requires_grad_()
    found = infonce_loss(
        anchors, keys, own_negatives=block, threshold=MarginThreshold(0.15), formulation="elimination",
        temperature=TEMPERATURE, reduction="none",
    )  # fmt: skip
    right = by_loops(anchors, keys, [[i] for i in range(count)], own=block, margin=lambda c: c + 0.15)
    assert_like(found, right, anchors, keys, block)


@pytest.mark.parametrize("rule", ["labels", "margin", "cosine"])
@pytest.mark.parametrize(("samples", "views"), [(2, 2), (13, 2), (11, 3), (70, 2)])
def test_views(samples: int, views: int, rule: str, backend: str) -> None:
    z = rows(samples * views, 6, 7)
    labels = torch.arange(samples) % 4
    given: dict[str, Any] = {
        "labels": {"threshold": "supervised", "labels": labels},
        "margin": {"threshold": MarginThreshold(-0.1)},
        "cosine": {"threshold": FixedThreshold(0.3, scale="cosine")},
    }[rule]
    found = hex_loss(*z.chunk(views), temperature=TEMPERATURE, formulation="elimination", reduction="none", **given)
    count = samples * views
    positives = [[(i + view * samples) % count for view in range(1, views)] for i in range(count)]
    of_row = labels.repeat(views)
    # With several positives the closest one counts: `by_loops` passes on its similarity.
    right = by_loops(
        z, z, positives,
        is_out=lambda i, j: i == j or (rule == "labels" and bool(of_row[i] == of_row[j])),
        margin={"labels": None, "margin": lambda c: c - 0.1, "cosine": lambda c: 0.3}[rule],
    )  # fmt: skip
    assert_like(found, right, z)


@pytest.mark.parametrize("rule", ["labels", "margin"])
def test_towers(rule: str, backend: str) -> None:
    a, b = rows(67, 6, 8), rows(67, 6, 9)
    labels = torch.arange(67) % 5
    given: dict[str, Any] = (
        {"threshold": "supervised", "labels": labels} if rule == "labels" else {"threshold": MarginThreshold(0.1)}
    )
    found = clip_loss(a, b, temperature=TEMPERATURE, formulation="elimination", reduction="none", **given)
    expected: dict[str, Any] = (
        {"is_out": lambda i, j: bool(labels[i] == labels[j])} if rule == "labels" else {"margin": lambda c: c + 0.1}
    )
    index = [[i] for i in range(67)]
    right = torch.cat([by_loops(a, b, index, **expected), by_loops(b, a, index, **expected)])
    assert_like(found, right, a, b)
    given.pop("labels", None)
    criterion = CLIPLoss(temperature=TEMPERATURE, formulation="elimination", **given)
    loss = criterion(a, b, labels=labels if rule == "labels" else None)
    torch.testing.assert_close(loss, found.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("threshold", [AdaptiveThreshold(0.8), FixedThreshold(0.6), MarginThreshold(-0.2)], ids=str)
@pytest.mark.parametrize("formulation", ["importance", "official", "decoupled", "elimination"])
def test_own_negatives_are_negatives_like_others(formulation: str, threshold: Any, apart: bool, backend: str) -> None:
    # For a single anchor there is no difference between a key and an own negative.
    anchor, keys, block = rows(1, 6, 10), rows(9, 6, 11), rows(5, 6, 12)
    positive = rows(1, 6, 13) if apart else None
    inputs = [anchor, keys, block, *([positive] if positive is not None else [])]
    given: dict[str, Any] = {"threshold": threshold, "formulation": formulation, "temperature": 0.3, "beta": 0.5}
    given |= {"positives": positive} if apart else {"positive_index": torch.tensor([2])}
    found, statistics = hex_loss_with_keys(anchor, keys, own_negatives=block[None], return_statistics=True, **given)
    right, expected = hex_loss_with_keys(anchor, torch.cat([keys, block]), return_statistics=True, **given)
    assert 0 < statistics.hierarchical_negatives < 13 + apart
    assert_like(found, right, *inputs)
    torch.testing.assert_close(torch.stack(statistics), torch.stack(expected), rtol=1e-12, atol=1e-14)


def test_temperature_and_weights_with_own_negatives(backend: str) -> None:
    anchors, keys, block = rows(10, 4, 14), rows(12, 4, 15), rows(30, 4, 16)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(10)

    def loss(block: Tensor, temperature: Tensor) -> Tensor:
        return infonce_loss(anchors, keys, own_negatives=block.view(10, 3, 4), weights=weights, temperature=temperature)

    losses = by_loops(anchors, keys, [[i] for i in range(10)], own=block.view(10, 3, 4), temperature=temperature)  # type: ignore[arg-type]
    right = (weights.double() * losses).sum() / weights.double().sum()
    assert_like(loss(block, temperature), right, anchors, keys, block, temperature)
    assert torch.autograd.gradcheck(loss, (block, temperature))


@pytest.mark.parametrize("formulation", ["importance", "elimination"])
def test_gradcheck(formulation: str, backend: str) -> None:
    inputs = rows(5, 4, 17), rows(6, 4, 18), rows(10, 4, 19)

    def loss(anchors: Tensor, keys: Tensor, block: Tensor) -> Tensor:
        return infonce_loss(
            anchors, keys, own_negatives=block.view(5, 2, 4), threshold=MarginThreshold(-0.2), formulation=formulation,
            ignored_index=torch.tensor([[5, 1], [-1, -1], [-1, 0], [4, -1], [0, 1]]), temperature=0.5,
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("temperature", [0.005, 0.02, 10.0])
def test_over_temperatures(temperature: float, backend: str) -> None:
    # At 0.005 the largest similarities are the shifts, and an own negative may be the largest.
    anchors, keys, block = rows(20, 6, 20), rows(20, 6, 21), rows(60, 6, 22)
    own = block.view(20, 3, 6)
    given: dict[str, Any] = {"threshold": MarginThreshold(0.2), "formulation": "elimination"}
    found = infonce_loss(anchors, keys, own_negatives=own, temperature=temperature, reduction="none", **given)
    expected = by_loops(
        anchors, keys, [[i] for i in range(20)], own=own, margin=lambda c: c + 0.2, temperature=temperature
    )
    assert_like(found, expected, anchors, keys, block)
    narrow = [each.detach().float().requires_grad_() for each in (anchors, keys, block)]
    loss = infonce_loss(narrow[0], narrow[1], own_negatives=narrow[2].view(20, 3, 6), temperature=temperature, **given)
    torch.testing.assert_close(loss.double(), expected.mean(), rtol=2e-4, atol=2e-5)
    assert all(each.isfinite().all() for each in torch.autograd.grad(loss, narrow))


def test_elimination_by_the_adaptive_threshold(backend: str) -> None:
    z = rows(120, 6, 23)
    given: dict[str, Any] = {"formulation": "elimination", "temperature": TEMPERATURE, "return_statistics": True}
    found, statistics = hex_loss(*z.chunk(2), threshold=AdaptiveThreshold(0.9), **given)
    fixed = FixedThreshold(float(statistics.threshold), scale="cosine")
    right, _ = hex_loss(*z.chunk(2), threshold=fixed, **given)
    assert statistics.hierarchical_negatives > 5
    assert_like(found, right, z)
    assert found < ntxent_loss(*z.chunk(2), temperature=TEMPERATURE)
    criterion = HexLoss(threshold=AdaptiveThreshold(0.9), formulation="elimination", temperature=TEMPERATURE)
    assert torch.equal(criterion(*z.chunk(2)), found)


def test_without_a_negative_left_loss_and_gradient_are_0(backend: str) -> None:
    z, labels = rows(20, 5, 24), torch.zeros(10, dtype=torch.int64)
    given: dict[str, Any] = {"threshold": "supervised", "formulation": "elimination", "return_statistics": True}
    loss, statistics = hex_loss(*z.chunk(2), labels=labels, **given)
    assert loss == 0
    assert statistics.undefined_anchors == 0
    assert statistics.hierarchical_negatives == 18
    assert torch.autograd.grad(loss, z)[0].abs().max() < 1e-15
    losses = clip_loss(*z.chunk(2), labels=labels, threshold="supervised", formulation="elimination", reduction="none")
    assert torch.equal(losses, torch.zeros_like(losses))


def test_lists_of_nothing_and_of_everything(backend: str) -> None:
    anchors, keys = rows(6, 5, 25), rows(8, 5, 26)
    plain, statistics = infonce_loss(anchors, keys, return_statistics=True)
    for nothing in (torch.full((6, 3), -1), torch.full((6,), -1), torch.empty(6, 0, dtype=torch.int64)):
        found, same = infonce_loss(anchors, keys, ignored_index=nothing, return_statistics=True)
        assert torch.equal(found, plain)
        assert torch.equal(torch.stack(same)[1:], torch.stack(statistics)[1:])
    everything = torch.tensor([[j for j in range(8) if j != i] for i in range(6)])
    loss, statistics = infonce_loss(anchors, keys, ignored_index=everything, return_statistics=True)
    assert loss == 0
    assert statistics.negative_similarity.isnan()
    assert torch.equal(torch.autograd.grad(loss, keys)[0], torch.zeros_like(keys))
    # Of separate positives, all keys.
    every_key = torch.arange(8).expand(6, 8)
    apart = hex_loss_with_keys(anchors, keys, positives=rows(6, 5, 27), ignored_index=every_key, temperature=1.0)
    assert apart == 0


def test_lists_with_separate_positives(backend: str) -> None:
    anchors, keys, positives = rows(9, 5, 28), rows(14, 5, 29), rows(9, 5, 30)
    lists = [[], [3], [0, 13, 5]] * 3
    index = torch.tensor([each + [-1] * (4 - len(each)) for each in lists])
    found, statistics = hex_loss_with_keys(
        anchors, keys, positives=positives, ignored_index=index, threshold=FixedThreshold(math.inf, scale="cosine"),
        temperature=TEMPERATURE, return_statistics=True,
    )  # fmt: skip
    losses = []
    for i in range(9):
        left = [keys[j] for j in range(14) if j not in lists[i]]
        losses.append(by_loops(anchors[i : i + 1], torch.stack([positives[i], *left]), [[0]])[0])
    assert_like(found, torch.stack(losses).mean(), anchors, keys, positives)
    cosines = F.cosine_similarity(anchors[:, None], keys, dim=2)
    left = [cosines[i, j] for i in range(9) for j in range(14) if j not in lists[i]]
    torch.testing.assert_close(statistics.negative_similarity, torch.stack(left).mean().detach())


def test_positives_of_different_numbers_are_pairs(backend: str) -> None:
    # As docs/which-loss.md has it.
    anchors, keys, positives = rows(4, 5, 32), rows(9, 5, 33), [[0, 3], [1], [2, 4, 8], [7]]
    of_anchor = torch.tensor([i for i in range(4) for _ in positives[i]])
    of_key = torch.tensor([p for each in positives for p in each])
    same = of_anchor[:, None] == of_anchor
    others = torch.where(same & ~torch.eye(7).bool(), of_key, -1)
    pairs: dict[str, Any] = {"positive_index": of_key, "ignored_index": others, "weights": 1 / same.sum(1).double()}
    found = infonce_loss(anchors[of_anchor], keys, **pairs, temperature=TEMPERATURE)
    assert_like(found, by_loops(anchors, keys, positives).mean(), anchors, keys)


@pytest.mark.parametrize("formulation", ["importance", "official", "decoupled", "elimination"])
@pytest.mark.parametrize(("positives", "own"), [(0, 2), (1, 0), (1, 2), (3, 2)])
def test_a_key_that_is_named_twice_counts_once(
    positives: int, own: int, formulation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU nobody checks the lists. Expected is the CPU kernel, with an anchor and a list for each positive.

    With 0 positives they are apart. A key that is a positive twice counts twice as that, and once as no negative.
    """
    count, more, each = 7, 9, max(positives, 1)
    anchors, keys, block = rows(count, 5, 43), rows(more, 5, 44), rows(count * own, 5, 45)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inputs = [anchors, keys, temperature, *([block] if own else [])]
    generator = torch.Generator().manual_seed(positives)
    index = torch.randint(more, (count, positives), generator=generator)
    ignored = torch.randint(-2, 4, (count, 7), generator=generator)
    apart = {} if positives else {"positives": rows(count, 5, 46).detach()}

    def step(times: int, **pairing: Tensor) -> list[Tensor]:
        apart_of_each = {"own_negatives": block.view(count, own, 5).repeat_interleave(times, 0)} if own else {}
        loss, statistics = hex_loss_with_keys(
            anchors.repeat_interleave(times, 0), keys, **pairing, **apart, **apart_of_each, formulation=formulation,
            threshold=FixedThreshold(0.3, scale="cosine"), temperature=temperature, return_statistics=True,
        )  # fmt: skip
        return [loss.detach(), *torch.autograd.grad(loss, inputs), *statistics[:-1]]

    others: list[list[int]] = []
    for named, out in zip(index.tolist(), ignored.tolist(), strict=True):
        lists = [{*named, *out} - {-2, -1, positive} for positive in named or [-1]]
        others += [[*once, *[-1] * (more - len(once))] for once in lists]
    of_each = {"positive_index": index.view(-1)} if positives else {}
    expected = step(each, **of_each, ignored_index=torch.tensor(others))
    monkeypatch.setenv("HEX_SSL_BACKEND", "composite")
    monkeypatch.setattr(_core, "check", lambda operands: None)
    of_anchor = {"positive_index": index} if positives else {}
    found = step(1, **of_anchor, ignored_index=ignored)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("with_labels", [False, True])
def test_the_module_takes_lists_and_own_negatives(with_labels: bool, reduction: str, backend: str) -> None:
    anchors, keys, positives = rows(9, 5, 28), rows(14, 5, 29), rows(9, 5, 30)
    own = rows(36, 5, 31).view(9, 4, 5)
    pairing: dict[str, Any] = {
        "positives": positives,
        "ignored_index": torch.tensor([[3, -1], [-1, -1], [0, 13]] * 3),
        "own_negatives": own,
    }
    settings: dict[str, Any] = {"temperature": TEMPERATURE, "tau_plus": 0.0, "reduction": reduction}
    if with_labels:
        settings["threshold"] = "supervised"
        pairing |= {"anchor_labels": torch.arange(9) % 4, "key_labels": torch.arange(14) % 4}
    criterion = HexLoss(**settings)
    loss = criterion.against_keys(anchors, keys, **pairing)
    expected, statistics = hex_loss_with_keys(anchors, keys, **pairing, **settings, return_statistics=True)
    assert torch.equal(loss, expected)
    assert criterion.statistics is not None
    # With labels the threshold is NaN.
    torch.testing.assert_close(criterion.statistics, statistics, rtol=0.0, atol=0.0, equal_nan=True)
    inputs = (anchors, keys, positives, own)
    gradients = (torch.autograd.grad(each.sum(), inputs) for each in (loss, expected))
    for found, of_function in zip(*gradients, strict=True):
        assert torch.equal(found, of_function)
    for name in ("ignored_index", "own_negatives"):  # each changes the loss
        assert not torch.equal(loss, criterion.against_keys(anchors, keys, **pairing | {name: None}))


def test_the_module_in_its_warm_up_takes_them_too(backend: str) -> None:
    anchors, keys, positives = rows(9, 5, 28), rows(14, 5, 29), rows(9, 5, 30)
    lists, own = torch.arange(9)[:, None], rows(18, 5, 31).view(9, 2, 5)
    criterion = HexLoss(TEMPERATURE, "supervised", warmup_epochs=1)
    criterion.set_epoch(0)
    pairing: dict[str, Any] = {"positives": positives, "ignored_index": lists, "own_negatives": own}
    labels = {"anchor_labels": torch.zeros(9).long(), "key_labels": torch.zeros(14).long()}
    found = criterion.against_keys(anchors, keys, **pairing, **labels)
    losses = []
    for i in range(9):
        left = [keys[j] for j in range(14) if j != i]
        every_key = torch.stack([positives[i], *left])
        losses.append(by_loops(anchors[i : i + 1], every_key, [[0]], own=own[i : i + 1])[0])
    assert_like(found, torch.stack(losses).mean(), anchors, keys, positives)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_negative_that_repeats_the_positive_ties(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel finds both similarities with the same bits. Products of torch may differ by the column.
    monkeypatch.setenv("HEX_SSL_BACKEND", "cpu")
    anchors, positives = torch.randn(100, 37).to(dtype), torch.randn(100, 37).to(dtype)
    for margin, expected in ((0.0, 0), (-1e-4, 101)):
        _, statistics = infonce_loss(
            anchors, positives[:1].expand(100, -1), own_negatives=positives[:1].expand(100, 2, -1),
            threshold=MarginThreshold(margin), formulation="elimination", return_statistics=True,
        )  # fmt: skip
        assert statistics.hierarchical_negatives == expected


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_collapsed_rows(dtype: torch.dtype, backend: str) -> None:
    ones = torch.ones(12, 5, dtype=dtype, requires_grad=True)
    loss = infonce_loss(
        ones, ones.detach().clone(), own_negatives=ones.detach()[:, None].expand(12, 4, 5),
        threshold=MarginThreshold(0.1), formulation="elimination",
    )  # fmt: skip
    torch.testing.assert_close(loss.double(), torch.tensor(math.log(16.0), dtype=torch.float64), rtol=1e-5, atol=0)
    assert torch.autograd.grad(loss, ones)[0].abs().max() < 1e-5


def test_compiled_without_a_break() -> None:
    anchors, keys, block = rows(12, 6, 31), rows(12, 6, 32), rows(36, 6, 33)

    def loss(anchors: Tensor, keys: Tensor, block: Tensor) -> Tensor:
        return infonce_loss(
            anchors, keys, own_negatives=block.view(12, 3, 6), ignored_index=ragged(12, 12),
            threshold=MarginThreshold(0.1), formulation="elimination",
        )  # fmt: skip

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found, expected = compiled(anchors, keys, block), loss(anchors, keys, block)
    assert torch.equal(found, expected)
    gradients = (torch.autograd.grad(each, (anchors, keys, block)) for each in (found, expected))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


# -------------------------------------------------------------------------------- other packages' definitions, restated


@pytest.mark.parametrize("relative", [False, True])
def test_is_the_mask_of_gist_embed(relative: bool, backend: str) -> None:
    """sentence-transformers' GISTEmbedLoss whose guide is the model, of anchors against positives and negatives."""
    anchors, positives, hard, m = rows(30, 6, 34), rows(30, 6, 35), rows(30, 6, 36), 0.15
    candidates = torch.cat([positives, hard])
    similarities = F.cosine_similarity(anchors[:, None], candidates, dim=2)
    own = similarities.diagonal().view(-1, 1)
    mask = similarities > (own - own.abs() * m if relative else own - m)
    mask[torch.arange(30), torch.arange(30)] = False
    expected = F.cross_entropy(similarities.masked_fill(mask.detach(), -torch.inf) / 0.1, torch.arange(30))
    criterion = InfoNCELoss(0.1, threshold=MarginThreshold(-m, relative), formulation="elimination")
    assert_like(criterion(anchors, candidates), expected, anchors, positives, hard)
    assert criterion.statistics is not None
    torch.testing.assert_close(criterion.statistics.hierarchical_negatives, mask.double().sum(1).mean())


def test_is_cross_entropy_without_duplicates(backend: str) -> None:
    """MultipleNegativesRankingLoss where a text that occurs again is no negative: labels number the texts."""
    texts = torch.tensor([0, 1, 2, 0, 3, 1, 4])
    queries, documents = rows(7, 5, 37), rows(5, 5, 38)
    logits = F.cosine_similarity(queries[:, None], documents[texts], dim=2) * 20.0
    again = (texts[:, None] == texts) & ~torch.eye(7, dtype=torch.bool)
    expected = F.cross_entropy(logits.masked_fill(again, -torch.inf), torch.arange(7))
    criterion = InfoNCELoss(1 / 20, threshold="supervised", formulation="elimination")
    found = criterion(queries, documents[texts], anchor_labels=texts, key_labels=texts)
    assert_like(found, expected, queries, documents)


def test_is_ntxent_of_labels_for_the_pair_of_views(backend: str) -> None:
    """pytorch-metric-learning's NTXentLoss, of the pairs of views alone: its negatives have other labels."""
    z, labels = rows(24, 5, 39), torch.arange(12) % 3
    of_row = labels.repeat(2)
    logits = F.cosine_similarity(z[:, None], z, dim=2) / TEMPERATURE
    positive = logits[torch.arange(24), (torch.arange(24) + 12) % 24]
    others = logits.masked_fill(of_row[:, None] == of_row, -torch.inf)
    expected = (torch.logaddexp(positive, others.logsumexp(1)) - positive).mean()
    found = hex_loss(
        *z.chunk(2), labels=labels, threshold="supervised", formulation="elimination", temperature=TEMPERATURE
    )
    assert_like(found, expected, z)


def test_is_info_nce_of_paired_negatives(backend: str) -> None:
    """info-nce-pytorch's negative_mode="paired": one label for all keys leaves the own negatives alone."""
    queries, positives, block = rows(15, 5, 40), rows(15, 5, 41), rows(60, 5, 42)
    own = block.view(15, 4, 5)
    unit = F.normalize(queries, dim=1)
    positive = (unit * F.normalize(positives, dim=1)).sum(1, keepdim=True)
    paired = (unit[:, None] @ F.normalize(own, dim=2).transpose(1, 2)).squeeze(1)
    logits = torch.cat([positive, paired], 1) / 0.1
    expected = F.cross_entropy(logits, torch.zeros(15, dtype=torch.int64))
    same = torch.zeros(15, dtype=torch.int64)
    criterion = InfoNCELoss(0.1, threshold="supervised", formulation="elimination")
    found = criterion(queries, positives, own_negatives=own, anchor_labels=same, key_labels=same)
    assert_like(found, expected, queries, positives, block)


# --------------------------------------------------------------------------------------------------------------- errors

Z = torch.ones(6, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MarginThreshold(math.inf), "expected `margin` to be a finite number, but got inf"),
        (
            lambda: infonce_loss(Z, Z, own_negatives=torch.ones(5, 2, 4)),
            r"expected `own_negatives` to have shape \[6, H, 4\], H for each of the `anchors`, but got \[5, 2, 4\]",
        ),
        (lambda: infonce_loss(Z, Z, own_negatives=Z), r"expected `own_negatives` to have shape .* but got \[6, 4\]"),
        (
            lambda: hex_loss_with_keys(Z, Z, positives=Z + 1, own_negatives=torch.ones(6, 2, 4).double()),
            "expected `own_negatives` to have dtype float32 like `anchors`, but got float64",
        ),
        (
            lambda: hex_loss_with_keys(
                Z, Z, positives=Z + 1, own_negatives=torch.ones(6, 3, 4).index_fill(1, torch.tensor(2), 0.0)
            ),
            r"not all zero, but row 2 of `own_negatives\[0\]` is all zeros",
        ),
        (
            lambda: hex_loss_with_keys(Z, Z, positives=Z * 0.0, own_negatives=torch.ones(6, 3, 4)),
            "not all zero, but row 0 of `positives` is all zeros",
        ),
        (
            lambda: infonce_loss(
                Z, Z, own_negatives=torch.ones(6, 3, 4).cumsum(1).index_fill(0, torch.tensor(4), math.nan)
            ),
            r"but row 0 of `own_negatives\[4\]` has a NaN or an infinity",
        ),
        (
            lambda: infonce_loss(Z, Z, ignored_index=torch.arange(6).expand(2, 6).T),
            "expected the positives and the ignored keys of an anchor to differ, but anchor 0 has key 0 twice",
        ),
        (
            lambda: infonce_loss(Z, Z, ignored_index=torch.tensor([[-1, 6]] * 6)),
            r"expected `ignored_index` to be in \[-1, 6\), but got 6",
        ),
        (
            lambda: HexLoss().against_keys(Z, Z, positives=Z + 1, own_negatives=torch.ones(5, 2, 4)),
            r"expected `own_negatives` to have shape \[6, H, 4\], H for each of the `anchors`, but got \[5, 2, 4\]",
        ),
        (
            lambda: HexLoss().against_keys(Z, Z, positives=Z + 1, ignored_index=torch.tensor([[-1, 6]] * 6)),
            r"expected `ignored_index` to be in \[-1, 6\), but got 6",
        ),
        (
            lambda: infonce_loss(Z, Z, anchor_labels=torch.arange(6), formulation="elimination"),
            "expected no `anchor_labels` for FixedThreshold, which does not read them",
        ),
        (
            lambda: InfoNCELoss(threshold=StepThreshold(), formulation="elimination"),
            "expected a `threshold` that does not change with the epoch, but got StepThreshold",
        ),
        (
            lambda: infonce_loss(
                Z, Z, threshold="supervised", formulation="elimination", anchor_labels=torch.arange(6)
            ),
            "expected `key_labels` for the supervised threshold, but got None",
        ),
        (lambda: CLIPLoss(formulation="eliminated"), '"decoupled", "elimination", but got "eliminated"'),
    ],
)
def test_errors(call: Callable[[], Any], message: str, backend: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_threshold_that_is_set_later_counts() -> None:
    criterion, labels = CLIPLoss(), torch.arange(6) % 2
    z1, z2 = torch.randn(2, 6, 8)
    criterion.threshold = "supervised"
    expected = CLIPLoss(threshold="supervised")(z1, z2, labels=labels)
    assert torch.equal(criterion(z1, z2, labels=labels), expected)
    with pytest.raises(ValueError, match="that does not change with the epoch, but got StepThreshold"):
        criterion.threshold = StepThreshold()


def test_a_strategy_of_a_margin_is_no_name() -> None:
    # sentence-transformers' GISTEmbedLoss takes margin_strategy="relative".
    with pytest.raises(TypeError, match="expected `relative` to be True or False, but got 'absolute'"):
        MarginThreshold(0.1, relative="absolute")  # type: ignore[arg-type]


def test_repr_of_a_copy_is_that_of_the_loss() -> None:
    assert repr(copy.deepcopy(CLIPLoss())) == repr(CLIPLoss())


def test_repr() -> None:
    criterion = CLIPLoss(0.2, threshold=MarginThreshold(0.1), formulation="elimination")
    assert repr(criterion) == (
        "CLIPLoss(temperature=0.2, gather_distributed=False, reduction='mean', "
        "threshold=MarginThreshold(margin=0.1, relative=False), formulation='elimination', beta=1.0, tau_plus=0.1)"
    )
