"""W gloo processes equal one process on the joined batch, even or uneven: losses, statistics and gradients."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hex_ssl import CLIPLoss, DCLLoss, HCLLoss, HexLoss, InfoNCELoss, NTXentLoss, SupConLoss, _core
from hex_ssl.gradient_cache import GradientCache
from hex_ssl.losses import DCLWLoss
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold, MarginThreshold

DIMS = 10
# Samples of each process, by case; even and uneven, with a last batch of one sample.
SAMPLES = {
    2: {"even": [33, 33], "uneven": [37, 12], "one sample": [40, 1]},
    3: {"even": [21, 21, 21], "uneven": [30, 5, 17], "one sample": [1, 30, 29]},
}
CRITERIA: dict[str, Any] = {
    "adaptive": lambda **more: HexLoss(threshold=AdaptiveThreshold(0.95), **more),
    "official": lambda **more: HexLoss(threshold=AdaptiveThreshold(0.9), formulation="official", **more),
    "minmax": lambda **more: HexLoss(threshold=FixedThreshold(0.8), **more),
    "cosine": lambda **more: HexLoss(threshold=FixedThreshold(0.4, scale="cosine"), **more),
    "supervised": lambda **more: HexLoss(threshold="supervised", **more),
    "official, some without a loss": lambda **more: HexLoss(threshold="supervised", formulation="official", **more),
    "sum": lambda **more: HexLoss(reduction="sum", **more),
    "ntxent": lambda **more: NTXentLoss(**more),
    "hcl": lambda **more: HCLLoss(**more),
    "dcl": lambda **more: DCLLoss(**more),
    "dcl, weights with a gradient": lambda **more: DCLLoss(weight_fn=lambda a, b: (a - b).square().sum(1), **more),
    "dclw": lambda **more: DCLWLoss(**more),
    "memory bank": lambda **more: NTXentLoss(memory_bank_size=(50, DIMS), **more),
    "clip": lambda **more: CLIPLoss(**more),
    "labels eliminated": lambda **more: HexLoss(threshold="supervised", formulation="elimination", **more),
    "clip, margin": lambda **more: CLIPLoss(threshold=MarginThreshold(-0.2), formulation="elimination", **more),
    "supcon": lambda **more: SupConLoss(**more),
}
VIEWS = {"adaptive": 3}


class Cached(nn.Module):
    """A loss of embeddings that are computed in chunks, with a parameter of its own."""

    def __init__(self, **gathering: bool) -> None:
        super().__init__()
        self.network, self.scale = projector(), nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.cache = GradientCache(chunk=7, automatic=True)
        self.loss = HexLoss(**gathering)

    def embed(self, views: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(self.network(view) for view in views)

    def forward(self, views: list[Tensor]) -> Tensor:
        return self.scale * self.loss(*self.cache.embed(self, views))


def cached_step(module: nn.Module, views: list[Tensor]) -> list[Tensor]:
    """The gradients of one training step."""
    module(views[:2]).backward()
    return [parameter.grad.clone() for parameter in module.parameters()]  # type: ignore[union-attr]


def joined_batch(world: int, case: str) -> tuple[list[Tensor], Tensor, list[int]]:
    """Images of three views, labels, and where each process's samples end."""
    counts = SAMPLES[world][case]
    generator = torch.Generator().manual_seed(10 * world + len(case))
    samples = sum(counts)
    base = torch.randn(samples, 16, generator=generator, dtype=torch.float64)
    views = [base + 0.5 * torch.randn(samples, 16, generator=generator, dtype=torch.float64) for _ in range(3)]
    return views, torch.randint(3, (samples,), generator=generator), counts


def projector() -> nn.Linear:
    """A small linear model, the same everywhere."""
    torch.manual_seed(5)
    return nn.Linear(16, DIMS, dtype=torch.float64)


def step(model: nn.Module, criterion: nn.Module, name: str, views: list[Tensor], labels: Tensor) -> dict[str, Any]:
    """One training step: loss, gradients, statistics."""
    model.zero_grad()
    used = views[: VIEWS.get(name, 2)]
    # One forward for all views, as DDP requires.
    z = model(torch.cat(used)).chunk(len(used))
    supervised = isinstance(criterion, HexLoss) and criterion.threshold.reads_labels
    given = {"labels": labels} if supervised or isinstance(criterion, SupConLoss) else {}
    loss = criterion(*z, **given)
    loss.backward()
    assert criterion.statistics is not None
    return {
        "loss": loss.detach(),
        "gradients": [parameter.grad.clone() for parameter in model.parameters()],  # type: ignore[union-attr]
        "statistics": torch.stack(list(criterion.statistics)),
        "state": criterion.state_dict(),
    }


def infonce_step(
    counts: list[int], rank: int | None, threshold: Any, weighted: bool, times: int = 1
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """InfoNCE with own negatives and lists of keys to ignore: loss, statistics, gradients. `rank` None: joined.

    The lists name each key `times` times.
    """
    samples, start = sum(counts), 0 if rank is None else sum(counts[:rank])
    own = slice(start, samples if rank is None else start + counts[rank])
    generator = torch.Generator().manual_seed(samples)
    made = [torch.randn(samples, *shape, generator=generator, dtype=torch.float64) for shape in ((6,), (6,), (3, 6))]
    # Each row of a process ignores the next one, and each second row another one too.
    lists = []
    for first, count in zip(torch.tensor([0, *counts]).cumsum(0).tolist(), counts, strict=False):
        offset = first if rank is None else 0
        lists += [
            [
                offset + (i + step) % count if (i + step) % count != i and step <= count - 1 - i % 2 else -1
                for step in (1, 2)
            ]
            for i in range(count)
        ]
    labels = torch.arange(samples)[own] % 5
    given: dict[str, Any] = {"anchor_labels": labels, "key_labels": labels} if threshold == "supervised" else {}
    inputs = [each[own].clone().requires_grad_() for each in made]
    criterion = InfoNCELoss(
        0.2, gather_distributed=rank is not None, threshold=threshold,
        formulation="importance" if isinstance(threshold, AdaptiveThreshold) else "elimination",
    )  # fmt: skip
    loss = criterion(
        *inputs[:2], own_negatives=inputs[2], ignored_index=torch.tensor(lists)[own].repeat(1, times),
        weights=torch.arange(samples)[own] % 3 + 0.5 if weighted else None, **given,
    )  # fmt: skip
    loss.backward()
    assert criterion.statistics is not None
    return loss.detach(), torch.stack(criterion.statistics), [each.grad for each in inputs]  # type: ignore[misc]


THRESHOLDS = {"labels": "supervised", "margin": MarginThreshold(-0.2), "adaptive": AdaptiveThreshold(0.8)}


def worker(rank: int, world: int, folder: str) -> None:
    """One process: evaluates every criterion on every case and writes the results to a file."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    model = DistributedDataParallel(projector())
    results: dict[Any, Any] = {}
    for case in SAMPLES[world]:
        views, labels, counts = joined_batch(world, case)
        start = sum(counts[:rank])
        own = slice(start, start + counts[rank])
        for name, make in CRITERIA.items():
            criterion = make(gather_distributed=True)
            results[case, name] = step(model, criterion, name, [view[own] for view in views], labels[own])
        results[case, "cached"] = cached_step(
            DistributedDataParallel(Cached(gather_distributed=True)), [view[own] for view in views]
        )
        for name, threshold in THRESHOLDS.items():
            for weighted in (False, True):
                results[case, name, weighted] = infonce_step(counts, rank, threshold, weighted)
        with pytest.MonkeyPatch.context() as patch:
            # As on a GPU, where nobody checks the lists.
            patch.setenv("HEX_SSL_BACKEND", "composite")
            patch.setattr(_core, "check", lambda operands: None)
            results[case, "named twice"] = infonce_step(counts, rank, THRESHOLDS["margin"], False, times=2)
        with torch.no_grad():
            z1, z2 = (model.module(view[own]) for view in views[:2])
            results[case, "none"] = HexLoss(gather_distributed=True, reduction="none")(z1, z2)
            for reduction in ("mean", "sum", "none"):
                infonce = InfoNCELoss(gather_distributed=True, reduction=reduction)
                results[case, "infonce", reduction] = infonce(z1, z2)
                results[case, "infonce", reduction, "weights"] = infonce(z1, z2, weights=labels[own] + 0.5)
            if counts[rank] > 1:
                results[case, "local"] = HexLoss()(z1, z2)
            results[case, "float32"] = HexLoss(gather_distributed=True)(z1.float(), z2.float())
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


Results = tuple[int, list[dict[Any, Any]]]


@pytest.fixture(scope="module", params=[2, 3], ids=["2 processes", "3 processes"])
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of every process, computed once for all tests."""
    world: int = request.param
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, args=(world, str(folder)), nprocs=world)
    return world, [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(world)]


@pytest.mark.parametrize("case", ["even", "uneven", "one sample"])
@pytest.mark.parametrize("name", CRITERIA)
def test_processes_equal_one(name: str, case: str, processes: Results) -> None:
    world, ranks = processes
    views, labels, _ = joined_batch(world, case)
    expected = step(projector(), CRITERIA[name](), name, views, labels)
    results = [rank[case, name] for rank in ranks]

    loss = torch.stack([result["loss"] for result in results]).mean()
    torch.testing.assert_close(loss, expected["loss"], rtol=1e-11, atol=1e-12)
    for result in results:
        # DDP has averaged: every process holds the joined batch's gradient, and its statistics.
        torch.testing.assert_close(result["gradients"], expected["gradients"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(result["statistics"], expected["statistics"], rtol=1e-11, atol=1e-12, equal_nan=True)
        torch.testing.assert_close(result["state"], expected["state"])  # a memory bank


@pytest.mark.parametrize("case", ["even", "uneven", "one sample"])
def test_losses_of_each_anchor(case: str, processes: Results) -> None:
    world, ranks = processes
    views, _, counts = joined_batch(world, case)
    model = projector()
    expected = HexLoss(reduction="none")(*(model(view) for view in views[:2])).detach()
    joined = [torch.cat(blocks) for blocks in zip(*(rank[case, "none"].chunk(2) for rank in ranks), strict=True)]
    assert [len(rank[case, "none"]) for rank in ranks] == [2 * count for count in counts]
    torch.testing.assert_close(torch.cat(joined), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("case", ["even", "uneven", "one sample"])
def test_automatic_gradient_caches_equal_one(case: str, processes: Results) -> None:
    world, ranks = processes
    views, _, _ = joined_batch(world, case)
    expected = cached_step(Cached(), views)
    for rank in ranks:
        torch.testing.assert_close(rank[case, "cached"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", ["even", "uneven", "one sample"])
def test_infonce_of_processes_is_that_of_one(case: str, reduction: str, weighted: bool, processes: Results) -> None:
    world, ranks = processes
    views, labels, _ = joined_batch(world, case)
    z1, z2 = map(projector(), views[:2])
    given = {"weights": labels + 0.5} if weighted else {}
    expected = InfoNCELoss(reduction=reduction)(z1, z2, **given).detach()
    found = [rank[(case, "infonce", reduction, *given)] for rank in ranks]
    joined = torch.cat(found) if reduction == "none" else torch.stack(found).mean()
    torch.testing.assert_close(joined, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("name", THRESHOLDS)
@pytest.mark.parametrize("case", ["even", "uneven", "one sample"])
def test_infonce_with_negatives_taken_out_and_added(case: str, name: str, weighted: bool, processes: Results) -> None:
    world, ranks = processes
    loss, statistics, gradients = infonce_step(SAMPLES[world][case], None, THRESHOLDS[name], weighted)
    losses, of_ranks, of_inputs = zip(*(rank[case, name, weighted] for rank in ranks), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), loss, rtol=1e-11, atol=1e-12)
    for found in of_ranks:
        torch.testing.assert_close(found, statistics, rtol=1e-11, atol=1e-12, equal_nan=True)
    for blocks, expected in zip(zip(*of_inputs, strict=True), gradients, strict=True):
        torch.testing.assert_close(torch.cat(blocks) / world, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", ["even", "uneven", "one sample"])
def test_a_key_that_is_named_twice_counts_once(case: str, processes: Results) -> None:
    world, ranks = processes
    _, statistics, _ = infonce_step(SAMPLES[world][case], None, THRESHOLDS["margin"], False)
    for rank in ranks:
        torch.testing.assert_close(rank[case, "named twice"][1], statistics, rtol=1e-11, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("case", ["even", "uneven"])
def test_without_gathering_each_process_is_alone(case: str, processes: Results) -> None:
    world, ranks = processes
    views, _, counts = joined_batch(world, case)
    model = projector()
    for rank, blocks in zip(ranks, zip(*(view.split(counts) for view in views[:2]), strict=True), strict=True):
        torch.testing.assert_close(rank[case, "local"], HexLoss()(*map(model, blocks)).detach(), rtol=1e-11, atol=0)


def test_float32_processes_equal_one(processes: Results) -> None:
    world, ranks = processes
    views, _, _ = joined_batch(world, "uneven")
    model = projector()
    expected = HexLoss()(*(model(view).float() for view in views[:2])).detach()
    loss = torch.stack([rank["uneven", "float32"] for rank in ranks]).mean()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_without_a_process_group_gathering_changes_nothing(backend: str) -> None:
    z1, z2 = torch.randn(2, 20, 6)
    assert not dist.is_initialized()
    assert torch.equal(HexLoss(gather_distributed=True)(z1, z2), HexLoss()(z1, z2))
