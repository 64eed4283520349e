"""Step: `python -m gpu.beside ROWS...`: HexLoss beside everything else that computes it, at some numbers of rows.

`python -m gpu.beside others`: NT-Xent, HCL, a queue, and float32, each beside its best plain form.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters

import hex_ssl
from gpu.records import REHEARSAL, emit, left
from gpu.workload import DEVICE, captured, clear, hex_loss, milliseconds, peak_bytes, precision, step, views
from gpu_peers import lightly_ntxent, triton_infonce
from hex_ssl.losses import moco_loss
from peers import (
    TAU_PLUS,
    TEMPERATURE,
    hex_chunked,
    hex_masked_sums,
    hex_where,
    pairs,
    reweighted,
    threshold_by_quantile,
    threshold_by_topk,
    unit_rows,
)

BYTES_OF_EAGER = 7.8 * 4
"""Peak bytes for each element of the N x N matrix: measured on the CPU."""
COMPILATION = 30.0
"""Seconds that a compiler may take: it is not begun with fewer left."""

topk, quantile = {"threshold": threshold_by_topk}, {"threshold": threshold_by_quantile}


class Peer(NamedTuple):
    """One way to compute a loss.

    Attributes:
        name: Of it.
        group: Losses of one group must be equal.
        make: Makes it.
        sizes: The rows at which it is tried, None for all; peers that store the matrix, where that fits.
        stores_matrix: Whether it stores N x N numbers.
        graph: Whether it is captured in a CUDA graph.
        compiles: Whether making it takes long.
    """

    name: str
    group: str
    make: Callable[[], Callable[..., Tensor]]
    sizes: tuple[int, ...] | None = None
    stores_matrix: bool = True
    graph: bool = False
    compiles: bool = False


def compiled(function: Callable[..., Tensor], **options: Any) -> Callable[[], Callable[..., Tensor]]:
    """`torch.compile`; its CUDA graphs are told where a step begins."""

    def make() -> Callable[..., Tensor]:
        torch._dynamo.reset()
        if REHEARSAL:
            return torch.compile(function, dynamic=False, backend="eager")
        inner = torch.compile(function, dynamic=False, **options)
        if not options:
            return inner

        def call(*inputs: Tensor) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            return inner(*inputs)

        return call

    return make


def ours(name: str) -> Callable[[], Callable[..., Tensor]]:
    """NT-Xent or HCL of hex_ssl."""
    if name == "NTXentLoss":
        return lambda: hex_ssl.NTXentLoss(temperature=TEMPERATURE)
    return lambda: hex_ssl.HCLLoss(temperature=TEMPERATURE, tau_plus=TAU_PLUS)


def hcl_where(z1: Tensor, z2: Tensor) -> Tensor:
    """HCL in plain PyTorch: all negatives reweighted."""
    z = unit_rows(z1, z2)
    index, partner = pairs(z)
    logits = (z @ z.T).float() / TEMPERATURE
    excluded = torch.zeros_like(logits, dtype=torch.bool)
    excluded[index, index] = True
    excluded[index, partner] = True
    positive = logits[index, partner]
    exponentials = torch.exp(logits.masked_fill(excluded, float("-inf")))
    count = torch.full_like(positive, z.shape[0] - 2)
    local = reweighted(positive.exp(), exponentials.square().sum(1), exponentials.sum(1), count)
    return (torch.log(positive.exp() + local) - positive).mean()


def moco_plain(queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
    """MoCo's own form: one matrix product with the queue, and cross entropy."""
    queries, keys, queue = (F.normalize(each, dim=1) for each in (queries, keys, queue))
    positive, negative = (queries * keys).sum(1, keepdim=True), queries @ queue.T
    logits = torch.cat([positive, negative], 1).float() / TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.long, device=queries.device))


MASKED, WHERE = partial(hex_masked_sums, **topk), partial(hex_where, **topk)
PEERS = [
    Peer("HexLoss", "hex", hex_loss, stores_matrix=False),
    Peer("HexLoss, in a graph", "hex", hex_loss, stores_matrix=False, graph=True),
    Peer("NTXentLoss", "ntxent", ours("NTXentLoss"), stores_matrix=False),
    Peer("Triton tiled InfoNCE", "ntxent", lambda: triton_infonce, stores_matrix=False),
    Peer("eager, topk, where", "hex", lambda: WHERE),
    Peer("compiled, topk, where", "hex", compiled(WHERE), compiles=True),
    Peer("compiled in a graph, topk, where", "hex", compiled(WHERE, mode="reduce-overhead"), (512, 8192),
         compiles=True),
    Peer("chunked torch ops", "hex", lambda: partial(hex_chunked, rows=64 if REHEARSAL else 2048), stores_matrix=False),
    Peer("eager, topk", "hex", lambda: MASKED),
    Peer("lightly NTXentLoss (restated)", "ntxent", lambda: lightly_ntxent),
    Peer("compiled, topk", "hex", compiled(MASKED), (8192,), compiles=True),
    Peer("eager, torch.quantile", "hex", lambda: partial(hex_masked_sums, **quantile), (512, 8192)),
]  # fmt: skip


def applies(peer: Peer, rows: int) -> bool:
    """Whether it is tried, and its matrix fits."""
    if REHEARSAL:
        return True
    fits = BYTES_OF_EAGER * rows**2 < 0.9 * torch.cuda.get_device_properties(0).total_memory
    return (fits or not peer.stores_matrix) and (peer.sizes is None or rows in peer.sizes)


def measure(peer: Peer, inputs: tuple[Tensor, ...]) -> dict[str, object]:
    """Loss, time, and memory above the inputs. And how often the compiler has gone without CUDA graphs."""
    skipped = counters["inductor"]["cudagraph_skips"]
    loss = peer.make()
    run = captured(loss, *inputs) if peer.graph else partial(step, loss, *inputs)
    found: dict[str, object] = {"loss": run().item()}  # also compiles
    if not peer.graph:
        for each in inputs:
            each.grad = None
        found["bytes"] = peak_bytes(run)
    found["ms"] = milliseconds(run, 0.6)
    return {**found, "skipped_graphs": counters["inductor"]["cudagraph_skips"] - skipped}


def compare(peers: list[Peer], inputs: tuple[Tensor, ...], tolerance: float, **told: object) -> None:
    """Every peer, as long as time lasts; an error is a peer's result too. Equal losses are held against the first."""
    expected: dict[str, float] = {}
    for peer in peers:
        if left() < (COMPILATION if peer.compiles and not REHEARSAL else 3.0):
            emit("peer", name=peer.name, problem="no time left", **told)
            continue
        try:
            found = measure(peer, inputs)
        except Exception as error:
            emit("peer", name=peer.name, problem=f"{type(error).__name__}: {str(error)[:300]}", **told)
            clear()
            continue
        value = float(str(found["loss"]))
        first = expected.setdefault(peer.group, value)
        equal = abs(value - first) <= tolerance * abs(first)
        emit("peer", name=peer.name, group=peer.group, agrees=equal, **found, **told)
        clear()


def others() -> None:
    """The other losses and shapes, and the other dtypes of HEX."""
    rows = 64 if REHEARSAL else 8192
    told: dict[str, object] = {"rows": rows, "dtype": "bfloat16"}
    inputs = views(rows)
    compare([Peer("HCLLoss", "hcl", ours("HCLLoss")), Peer("eager HCL", "hcl", lambda: hcl_where)], inputs, 2e-2,
            shape="HCL", **told)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    anchors, entries = (16, 128) if REHEARSAL else (512, 65536)
    drawn = [torch.randn(n, 128, generator=generator).to(DEVICE, torch.bfloat16) for n in (anchors, anchors, entries)]
    queue = [Peer("moco_loss", "moco", lambda: partial(moco_loss, temperature=TEMPERATURE), stores_matrix=False),
             Peer("eager MoCo", "moco", lambda: moco_plain)]  # fmt: skip
    told = {"rows": anchors, "dtype": "bfloat16", "shape": f"{anchors} x {entries} queue"}
    compare(queue, (drawn[0].requires_grad_(), *drawn[1:]), 2e-2, **told)
    for dtype, tolerance in (("float32", 1e-4), ("tf32", 3e-3), ("float16", 2e-3)):
        with precision(dtype):
            few = [peer for peer in PEERS if peer.name in ("HexLoss", "HexLoss, in a graph", "eager, topk, where")]
            few += [peer for peer in PEERS if peer.group == "ntxent"]
            compare(few, views(rows, dtype), tolerance, rows=rows, dtype=dtype, shape="")


if __name__ == "__main__":
    if sys.argv[1] == "others":
        others()
    else:
        # Triton's interpreter has no arithmetic for bfloat16.
        for size, dtype in [("64", "tf32")] if REHEARSAL else [(size, "bfloat16") for size in sys.argv[1:]]:
            rows = int(size)
            with precision(dtype):
                peers = [peer for peer in PEERS if applies(peer, rows)]
                compare(peers, views(rows, dtype), 2e-2, rows=rows, dtype=dtype, shape="")
