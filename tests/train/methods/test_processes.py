"""Two gloo processes equal one process on the joined batch: each method's loss, gradients, queue and momentum encoder.

The networks have no batch norm, because it shares statistics over processes only on a GPU (SyncBN).
"""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hex_ssl.losses import (
    HexLoss,
    barlow_twins_loss,
    feature_contrast_loss,
    moco_loss,
    nnclr_loss,
    vicreg_loss,
)
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods import Method
from hex_ssl.train.methods.mocov2 import MoCoV2
from hex_ssl.train.methods.settings import MoCoV2Settings

from .small import HEADS, part_of, random_batch, small_method, without_norms

WORLD = 2
IMAGES = 20
"""Batch size of each process."""
LOSSES: dict[str, dict[str, Any]] = {
    "off": {},
    "adaptive": {"hex": "adaptive", "threshold_arguments": {"quantile": 0.9}},
    "supervised": {"hex": "supervised"},
}


def method_for(name: str, loss: str) -> Method:
    """The method, with the same weights in every process."""
    if name == "mocov2, symmetric":
        plain = small_method("mocov2", **LOSSES[loss])
        assert isinstance(plain, MoCoV2)
        settings = MoCoV2Settings(hidden_dim=32, output_dim=16, queue_size=96, symmetric=True)
        torch.manual_seed(0)
        both = MoCoV2(plain.backbone, 16, settings, hex_loss=plain.hex_loss)
        return without_norms(both)
    return without_norms(small_method(name, **LOSSES[loss]))


CASES = [
    *((name, loss) for name in HEADS for loss in ("off", "adaptive")),
    *((name, "supervised") for name in ("simclr", "nnclr", "mocov2")),
    ("mocov2, symmetric", "adaptive"),
]
COUNTS = (13, 6)
"""Number of rows of each process for the functional losses."""


def functions(z: list[Tensor]) -> dict[str, Tensor]:
    """The losses that use the images of all processes, for the rows of this process."""
    queue = torch.randn(30, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    everywhere: dict[str, Any] = {"gather_distributed": True}
    return {
        "barlow_twins": barlow_twins_loss(*z[:2], **everywhere),
        "vicreg": vicreg_loss(*z[:2], **everywhere),
        "feature_contrast": feature_contrast_loss(*z, **everywhere),
        "nnclr": nnclr_loss(*z[:2], **everywhere),
        "nnclr, sum": nnclr_loss(*z[:2], reduction="sum", **everywhere),
        "moco": moco_loss(*z[:2], queue, **everywhere),
        "moco + hex": HexLoss(**everywhere).against_keys(z[0], queue, positives=z[1]),
        "barlow_twins, own statistics": barlow_twins_loss(*z[:2], sync_statistics=False, **everywhere),
    }


def evaluated(part: slice) -> dict[str, tuple[Tensor, Tensor]]:
    """Each function's value, and its gradient with respect to a matrix that all rows go through."""
    generator = torch.Generator().manual_seed(8)
    rows = [torch.randn(sum(COUNTS), 6, generator=generator, dtype=torch.float64)[part] for _ in range(4)]
    matrix = torch.eye(6, dtype=torch.float64).add(0.1).requires_grad_()
    results = {}
    for name, value in functions([each @ matrix for each in rows]).items():
        (gradient,) = torch.autograd.grad(value, matrix, retain_graph=True)
        results[name] = (value.detach(), gradient)
    return results


class Loss(nn.Module):
    """A method whose forward is its training step, as DDP requires."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self._ddp_params_and_buffers_to_ignore = [f"method.{name}" for name in method._ddp_params_and_buffers_to_ignore]

    def forward(self, batch: Batch) -> Tensor:
        embeddings = self.method.embed(batch.views)
        loss = self.method.compute_loss(embeddings, batch)
        self.method.after_loss(embeddings, batch)
        return loss


def steps(method: Method, run: nn.Module, part: slice) -> dict[str, Any]:
    """Makes two steps of SGD on this process's part of the images. Returns losses, last gradients and the state."""
    optimizer = torch.optim.SGD([each for each in method.parameters() if each.requires_grad], lr=0.1)
    losses = []
    for seed in range(2):
        batch = part_of(random_batch(WORLD * IMAGES, seed, dtype=torch.float64), part)
        optimizer.zero_grad()
        loss = run(batch)
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
        method.after_optimizer_step(seed)
    return {
        "losses": torch.stack(losses),
        "gradients": {name: each.grad for name, each in method.named_parameters() if each.requires_grad},
        "state": {name: value for name, value in method.state_dict().items() if isinstance(value, Tensor)},
    }


def worker(rank: int, folder: str) -> None:
    """One process: evaluates every method and writes the results to a file."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    own = slice(rank * IMAGES, (rank + 1) * IMAGES)
    results = {}
    for name, loss in CASES:
        method = method_for(name, loss)
        results[name, loss] = steps(method, DistributedDataParallel(Loss(method)), own)
    results["functions"] = evaluated(slice(0, COUNTS[0]) if rank == 0 else slice(COUNTS[0], None))
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """The results of every process, computed once for all tests."""
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, args=(str(folder),), nprocs=WORLD)
    return [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize(("name", "loss"), CASES)
def test_processes_equal_one(name: str, loss: str, processes: list[dict[Any, Any]]) -> None:
    method = method_for(name, loss)
    expected = steps(method, Loss(method), slice(None))
    results = [each[name, loss] for each in processes]
    mean = torch.stack([each["losses"] for each in results]).mean(dim=0)
    torch.testing.assert_close(mean, expected["losses"], rtol=1e-10, atol=1e-12)
    for result in results:
        torch.testing.assert_close(result["gradients"], expected["gradients"], rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(result["state"], expected["state"], rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", list(functions([torch.randn(4, 6, dtype=torch.float64) for _ in range(4)]))[:-1])
def test_losses_of_uneven_batches_equal_one(name: str, processes: list[dict[Any, Any]]) -> None:
    expected = evaluated(slice(None))[name]
    # DDP's mean of the gradients, and the mean of the losses.
    for which in (0, 1):
        mean = torch.stack([each["functions"][name][which] for each in processes]).mean(dim=0)
        torch.testing.assert_close(mean, expected[which], rtol=1e-10, atol=1e-12)


def test_barlow_twins_with_each_process_s_own_statistics(processes: list[dict[Any, Any]]) -> None:
    generator = torch.Generator().manual_seed(8)
    z1, z2 = (torch.randn(sum(COUNTS), 6, generator=generator, dtype=torch.float64) for _ in range(2))
    matrix = torch.eye(6, dtype=torch.float64).add(0.1).requires_grad_()

    def standardised(z: Tensor) -> Tensor:
        blocks = (z @ matrix).split(COUNTS)
        return torch.cat([(b - b.mean(dim=0)) / (b.var(dim=0, correction=0) + 1e-5).sqrt() for b in blocks])

    c = standardised(z1).T @ standardised(z2) / len(z1)
    on = (1 - c.diagonal()).square().sum()
    loss = on + 0.005 * (c.square().sum() - c.diagonal().square().sum())
    (gradient,) = torch.autograd.grad(loss, matrix)
    found = [each["functions"]["barlow_twins, own statistics"] for each in processes]
    torch.testing.assert_close(torch.stack([each[0] for each in found]).mean(), loss.detach())
    torch.testing.assert_close(torch.stack([each[1] for each in found]).mean(dim=0), gradient)
    everywhere = [each["functions"]["barlow_twins"][0] for each in processes]
    assert not torch.isclose(everywhere[0], loss.detach())
