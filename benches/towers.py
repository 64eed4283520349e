"""Time and peak memory of the losses of two towers and of labels, beside their peers: forward and backward, medians.

    python benches/towers.py                     # everything; writes a table and JSON to benches/results/
    python benches/towers.py --rows 512 --quick  # a look

Runs in one process, interleaved, each peer first in its turn. Every peer gets rows of any length and normalises them.
Memory is the peak of resident bytes above what there was when the inputs stood ready, each in a process of its own.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import hex_ssl
from loss import BUDGET, block, gemm_peak, machine, resident, timed

TEMPERATURE = 0.07
COMPILED = "open_clip ClipLoss, compiled"
PROBLEMS = {
    "two towers": ("hex_ssl CLIPLoss", "open_clip ClipLoss", COMPILED),
    "one direction": ("hex_ssl InfoNCELoss", "sentence-transformers MultipleNegativesRankingLoss"),
    "labels": ("hex_ssl SupConLoss", "PML SupConLoss"),
}
"""The losses of each problem. The others are compared with the first."""
Loss = Callable[..., Tensor]


def peer(name: str) -> Loss:
    """The loss of that name, as a function of the problem's inputs."""
    if name == "hex_ssl CLIPLoss":
        return hex_ssl.CLIPLoss(temperature=TEMPERATURE)
    if name == "hex_ssl InfoNCELoss":
        return hex_ssl.InfoNCELoss(temperature=TEMPERATURE)
    if name == "hex_ssl SupConLoss":
        supcon = hex_ssl.SupConLoss(temperature=TEMPERATURE)
        return lambda z, labels: supcon(z, labels=labels)
    if name == "PML SupConLoss":
        from pytorch_metric_learning.losses import SupConLoss

        return SupConLoss(temperature=TEMPERATURE)
    if name.startswith("open_clip"):
        import open_clip

        theirs = open_clip.ClipLoss()

        def clip(images: Tensor, texts: Tensor) -> Tensor:
            return theirs(F.normalize(images, dim=1), F.normalize(texts, dim=1), 1 / TEMPERATURE)

        return torch.compile(clip) if name == COMPILED else clip
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    ranking = MultipleNegativesRankingLoss(model=None, scale=1 / TEMPERATURE)
    return lambda anchors, positives: ranking.compute_loss_from_embeddings([anchors, positives], None)


def applies(name: str, rows: int) -> bool:
    """PML's loss lists every pair, and needs about 60 bytes for each."""
    return rows <= 8192 if name == "PML SupConLoss" else True


def inputs_of(problem: str, rows: int, dims: int, dtype: torch.dtype) -> list[Tensor]:
    """Rows around 100 centers, so that similarities spread as those of a network do: two towers, or rows and labels."""
    generator = torch.Generator().manual_seed(rows)
    labels = torch.arange(rows) % 100
    centers = torch.randn(100, dims, generator=generator)[labels]
    towers = [centers + 1.5 * torch.randn(rows, dims, generator=generator) for _ in range(2)]
    z1, z2 = (each.to(dtype).requires_grad_() for each in towers)
    return [z1, labels] if problem == "labels" else [z1, z2]


def step(loss: Loss, inputs: list[Tensor]) -> float:
    """Forward and backward; the loss."""
    for each in inputs:
        each.grad = None
    value = loss(*inputs)
    value.backward()
    return value.item()


def measure_times(
    problem: str, rows: int, dims: int, dtype: torch.dtype, quick: bool
) -> tuple[dict[str, float], float]:
    """Median seconds of each peer, and the median over the rounds of torch.mm's best rate."""
    inputs = inputs_of(problem, rows, dims, dtype)
    losses = {name: peer(name) for name in PROBLEMS[problem] if applies(name, rows)}
    values = {name: step(loss, inputs) for name, loss in losses.items()}  # also the warm-up, and the compilation
    ours, *others = values.values()
    if any(abs(each - ours) > (1e-4 if dtype == torch.float32 else 2e-2) * abs(ours) for each in others):
        raise RuntimeError(f"the peers do not compute the same loss: {values}")
    repeats = 3 if quick else {512: 41, 1024: 31, 2048: 21, 4096: 9}.get(rows, 5)
    times: dict[str, list[float]] = {name: [] for name in losses}
    names, peaks = list(losses), []
    for repeat in range(repeats):
        peaks.append(gemm_peak())
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            if len(times[name]) < 3 or sum(times[name]) < BUDGET:
                times[name].append(timed(lambda loss=losses[name]: step(loss, inputs)))
    return {name: statistics.median(all_) for name, all_ in times.items()}, statistics.median(peaks)


def measure_memory_here(problem: str, name: str, rows: int, dims: int, dtype: torch.dtype) -> int:
    """Peak bytes above the inputs of one step, after one that loads every library: small, or of the size to compile."""
    loss = peer(name)
    step(loss, inputs_of(problem, rows if name == COMPILED else 64, dims, dtype))
    inputs = inputs_of(problem, rows, dims, dtype)
    ctypes.CDLL(None).malloc_trim(0)  # what malloc keeps would otherwise be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    step(loss, inputs)
    return resident("VmHWM") - before


def measure_memory(problem: str, name: str, rows: int, dims: int, dtype: str) -> int | None:
    """The same in a process of its own; None where that cannot be."""
    arguments = ["--memory-of", problem, name, "--rows", str(rows), "--dims", str(dims), "--dtype", dtype]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def table(result: dict[str, object]) -> str:
    """The block of a shape."""
    problem = result["problem"]
    title = f"{problem.capitalize()}, N = {result['rows']}, D = {result['dims']}, {result['dtype']}"
    return block(title, PROBLEMS[problem], result)


def save(results: list[dict[str, object]], name: str) -> None:
    """Writes the tables and the JSON."""
    folder = Path(__file__).parent / "results"
    command = " ".join(["python", os.path.relpath(__file__), *sys.argv[1:]])
    header = f"# Two towers and labels on the CPU: {name}\n\n{machine()}\n\n`{command}`\n"
    (folder / f"{name}.md").write_text(header + "\n".join(map(table, results)) + "\n")
    (folder / f"{name}.json").write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--problem", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--quick", action="store_true", help="few repeats, no memory, nothing saved")
    parser.add_argument("--name", default="towers-cpu", help="of the files of results, before the date")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        dtype = getattr(torch, arguments.dtype[0])
        print(measure_memory_here(*arguments.memory_of, arguments.rows[0], arguments.dims[0], dtype))
        return
    print(machine())
    results: list[dict[str, object]] = []
    for name, problem, dims, rows in product(arguments.dtype, arguments.problem, arguments.dims, arguments.rows):
        seconds, peak = measure_times(problem, rows, dims, getattr(torch, name), arguments.quick)
        torch._dynamo.reset()
        shape = {"problem": problem, "rows": rows, "dims": dims, "dtype": name}
        result = {**shape, "gemm_peak": peak, "seconds": seconds, "bytes": {}}
        results.append(result)
        if not arguments.quick:
            measured = [each for each in seconds if each != COMPILED or rows in (4096, 16384)]
            result["bytes"] = {each: measure_memory(problem, each, rows, dims, name) for each in measured}
        print(table(result), flush=True)
        if not arguments.quick:  # after each shape: what is measured is kept, whatever comes
            save(results, f"{arguments.name}-{date.today()}")


if __name__ == "__main__":
    main()
