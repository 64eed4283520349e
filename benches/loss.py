"""Time and peak memory of the loss, forward and backward, beside its peers: one process, runs interleaved, medians.

    python benches/loss.py                     # everything; writes a table and JSON to benches/results/
    python benches/loss.py --rows 512 --quick  # a look
    python benches/loss.py --host              # the host's time of a call alone

Memory is the peak of resident bytes above what there was when the inputs stood ready, each in a process of its own.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

import hex_ssl
from peers import (
    QUANTILE,
    TAU_PLUS,
    TEMPERATURE,
    Loss,
    hex_chunked,
    hex_masked_sums,
    hex_where,
    threshold_by_quantile,
    threshold_by_topk,
)

OURS = "HexLoss"
EAGER = ("eager, torch.quantile", "eager, topk", "eager, topk, where")
COMPILED = ("compiled, topk", "compiled, topk, where")
CHUNKED = "chunked torch ops"
PLAIN = ("lightly NTXentLoss", "PML NTXentLoss", "hex_ssl NTXentLoss")
BUDGET = 5.0
"""Seconds after which a slow peer is not repeated more than three times."""
PEERS = (OURS, *EAGER, *COMPILED, CHUNKED, *PLAIN)


def peer(name: str) -> Loss:
    """The loss of that name."""
    if name == OURS:
        threshold = hex_ssl.thresholds.AdaptiveThreshold(QUANTILE)
        return hex_ssl.HexLoss(temperature=TEMPERATURE, threshold=threshold, tau_plus=TAU_PLUS)
    if name == "lightly NTXentLoss":
        from lightly.loss import NTXentLoss

        return NTXentLoss(temperature=TEMPERATURE)
    if name == "PML NTXentLoss":
        from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

        return SelfSupervisedLoss(NTXentLoss(temperature=TEMPERATURE), symmetric=True)
    if name == "hex_ssl NTXentLoss":
        return hex_ssl.NTXentLoss(temperature=TEMPERATURE)
    if name == CHUNKED:
        return hex_chunked
    forms = {
        "eager, torch.quantile": partial(hex_masked_sums, threshold=threshold_by_quantile),
        "eager, topk": partial(hex_masked_sums, threshold=threshold_by_topk),
        "eager, topk, where": partial(hex_where, threshold=threshold_by_topk),
    }
    if name.startswith("compiled"):
        return torch.compile(forms[name.replace("compiled", "eager")])
    return forms[name]


def applies(name: str, rows: int, dims: int, dtype: torch.dtype) -> bool:
    """Peers whose time or memory would get out of hand are left out, and say so in the table by a dash."""
    if name == "PML NTXentLoss":
        return rows <= 512  # forms every pair of a positive and a negative
    if name in COMPILED:
        return rows <= 8192
    if name == "eager, topk, where":
        return rows <= 8192 or dims == 128
    if name in EAGER:
        return rows <= 8192
    return True


def views(rows: int, dims: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two views around 100 centers, so that similarities spread as those of a network do."""
    generator = torch.Generator().manual_seed(rows)
    n = rows // 2
    centers = torch.randn(100, dims, generator=generator)[torch.arange(n) % 100]
    z1, z2 = (centers + 1.5 * torch.randn(n, dims, generator=generator) for _ in range(2))
    return z1.to(dtype).requires_grad_(), z2.to(dtype).requires_grad_()


def step(loss: Loss, z1: Tensor, z2: Tensor) -> float:
    """Forward and backward; the loss."""
    z1.grad = z2.grad = None
    value = loss(z1, z2)
    if value.requires_grad:
        value.backward()
    return value.item()


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def gemm_peak() -> float:
    """The best rate of torch.mm in float32 on this machine now, in FLOP/s."""
    best = 0.0
    for size in (1024, 1536, 2048):
        a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
        seconds = min(timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) for _ in range(5))
        best = max(best, 2 * size**3 / seconds)
    return best


def measure_times(rows: int, dims: int, dtype: torch.dtype, quick: bool) -> tuple[dict[str, float], float]:
    """Median seconds of each peer, and the median over the rounds of torch.mm's best rate in each: a machine's own rate
    is another from minute to minute."""
    z1, z2 = views(rows, dims, dtype)
    losses = {name: peer(name) for name in PEERS if applies(name, rows, dims, dtype)}
    values = {name: step(loss, z1, z2) for name, loss in losses.items()}  # also the warm-up, and the compilation
    check_values(values, dtype)
    repeats = 3 if quick else {512: 41, 1024: 31, 2048: 21, 4096: 9, 8192: 11}.get(rows, 5)
    times: dict[str, list[float]] = {name: [] for name in losses}
    peaks = []
    names = list(losses)
    for repeat in range(repeats):
        peaks.append(gemm_peak())
        first = repeat % len(names)
        for name in names[first:] + names[:first]:  # torch.mm slows the next one: each in turn
            loss = losses[name]
            if len(times[name]) < 3 or sum(times[name]) < BUDGET:
                times[name].append(timed(lambda loss=loss: step(loss, z1, z2)))
    return {name: statistics.median(all_) for name, all_ in times.items()}, statistics.median(peaks)


HOST_SHAPES = ((8, 128), (4, 32))
HOST = (OURS, "lightly NTXentLoss", "a product and a sum")
"""Whose time of a call is measured, in this order in each round. The last is what torch itself takes for any loss."""


def measure_host(rows: int, dims: int, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of a forward and backward so small that the host's work is what it takes.

    "plain": after a step of a small network, which leaves the caches to a call as a training step does. "hot": the mean
    of 20 of the same call. The tenth part of the rounds is faster than the figures: what others do on the machine only
    adds.
    """
    z1, z2 = views(rows, dims, torch.float32)
    network = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128))
    images = torch.randn(64, 256)
    losses = {name: (lambda a, b: (a * b).sum()) if name == HOST[-1] else peer(name) for name in HOST}
    times: dict[str, dict[str, list[float]]] = {name: {"plain": [], "hot": []} for name in HOST}

    def call(loss: Loss) -> None:
        z1.grad = z2.grad = None
        loss(z1, z2).backward()

    for _ in range(rounds):
        for name, loss in losses.items():
            network.zero_grad()
            network(images).square().mean().backward()
            times[name]["plain"].append(timed(lambda loss=loss: call(loss)))
            times[name]["hot"].append(timed(lambda loss=loss: [call(loss) for _ in range(20)]) / 20)
    return {
        name: {how: statistics.quantiles(all_, n=10)[0] * 1e6 for how, all_ in ways.items()}
        for name, ways in times.items()
    }


def host_table(quick: bool) -> str:
    """The host's time of a call, one line for each peer and shape."""
    lines = [
        "\n### The host's time of a call, forward and backward, float32\n",
        "Microseconds, the first decile of interleaved rounds: after other work (plain), and in a loop (hot).\n",
        "| | N | D | plain | hot |",
        "|---|---|---|---|---|",
    ]
    for rows, dims in HOST_SHAPES:
        found = measure_host(rows, dims, 100 if quick else 2000)
        lines += [f"| {name} | {rows} | {dims} | {at['plain']:.0f} | {at['hot']:.0f} |" for name, at in found.items()]
    return "\n".join(lines)


def check_values(values: dict[str, float], dtype: torch.dtype) -> None:
    """All forms of HEX must agree, and all forms of NT-Xent."""
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for group in ((OURS, *EAGER, *COMPILED, CHUNKED), PLAIN):
        found = [values[name] for name in group if name in values]
        if max(found) - min(found) > tolerance * abs(found[0]):
            raise RuntimeError(f"the peers do not compute the same loss: {values}")


def resident(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS now, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{field} is not in /proc/self/status")


def measure_memory_here(name: str, rows: int, dims: int, dtype: torch.dtype) -> int:
    """Peak bytes above the inputs of one step, after one at a small size has loaded every library."""
    loss = peer(name)
    step(loss, *views(64, dims, dtype))
    z1, z2 = views(rows, dims, dtype)
    ctypes.CDLL(None).malloc_trim(0)  # what malloc keeps would otherwise be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    step(loss, z1, z2)
    return resident("VmHWM") - before


def measure_memory(name: str, rows: int, dims: int, dtype: torch.dtype) -> int | None:
    """The same in a process of its own; None where that cannot be."""
    arguments = ["--memory-of", name, "--rows", str(rows), "--dims", str(dims), "--dtype", str(dtype).split(".")[1]]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def machine() -> str:
    """The processor, the cores in use, and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, hex_ssl {hex_ssl.__version__}"


def table(results: list[dict[str, object]]) -> str:
    """A block for each shape, with every peer."""
    return "\n".join(block(f"N = {each['rows']}, D = {each['dims']}, {each['dtype']}", PEERS, each) for each in results)


def block(title: str, names: Sequence[str], result: dict[str, object]) -> str:
    """Milliseconds, ratios to the first of the losses, and memory: a line for each. A dash: not measured."""
    times, memory = result["seconds"], result["bytes"]
    ours = times[names[0]]
    floor = 6 * result["rows"] ** 2 * result["dims"] / result["gemm_peak"]
    lines = [
        f"\n### {title}\n",
        f"torch.mm in float32, its best rate in each round, median: {result['gemm_peak'] / 1e9:.0f} GFLOP/s. Three"
        f" N x N x D products at that rate take {floor * 1e3:.2f} ms, {floor / ours:.0%} of the time of {names[0]}.\n",
        f"| | ms | x {names[0]} | MB above the inputs |",
        "|---|---|---|---|",
    ]
    for name in names:
        time_text = f"{times[name] * 1e3:.2f} | {times[name] / ours:.2f}" if name in times else "- | -"
        peak = memory.get(name)
        lines.append(f"| {name} | {time_text} | {'-' if peak is None else f'{peak / 1e6:.1f}'} |")
    return "\n".join(lines)


def save(results: list[dict[str, object]], name: str, host: str) -> None:
    """Writes the tables and the JSON."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    stem = folder / name
    command = " ".join(["python", os.path.relpath(__file__), *sys.argv[1:]])
    header = f"# Loss on the CPU: {name}\n\n{machine()}\n\n`{command}`\n"
    stem.with_suffix(".md").write_text(header + host + "\n" + table(results) + "\n")
    stem.with_suffix(".json").write_text(json.dumps({"machine": machine(), "results": results}, indent=1))


def kept(name: str) -> list[dict[str, object]]:
    """What an earlier run under that name has measured on this machine with these versions."""
    path = (Path(__file__).parent / "results" / name).with_suffix(".json")
    saved = json.loads(path.read_text()) if path.exists() else {}
    return saved["results"] if saved.get("machine") == machine() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--quick", action="store_true", help="few repeats, no memory, nothing saved")
    parser.add_argument("--name", default="loss-cpu", help="of the files of results, before the date")
    parser.add_argument("--resume", action="store_true", help="keep what a run of today has measured")
    parser.add_argument("--host", action="store_true", help="the host's time of a call alone; nothing saved")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        dtype = getattr(torch, arguments.dtype[0])
        print(measure_memory_here(arguments.memory_of, arguments.rows[0], arguments.dims[0], dtype))
        return
    print(machine())
    host = host_table(arguments.quick)
    print(host, flush=True)
    if arguments.host:
        return
    name_of_results = f"{arguments.name}-{date.today()}"
    results = kept(name_of_results) if arguments.resume else []
    for name, dims, rows in product(arguments.dtype, arguments.dims, arguments.rows):
        dtype = getattr(torch, name)
        shape = {"rows": rows, "dims": dims, "dtype": name}
        result = next((result for result in results if shape.items() <= result.items()), None)
        if result is None:
            seconds, peak = measure_times(rows, dims, dtype, arguments.quick)
            result = {**shape, "gemm_peak": peak, "seconds": seconds, "bytes": {}}
            results.append(result)
            torch._dynamo.reset()
        if not arguments.quick and not result["bytes"]:
            names = [each for each in result["seconds"] if each not in COMPILED or rows in (4096, 8192)]
            result["bytes"] = {each: measure_memory(each, rows, dims, dtype) for each in names}
        print(table([result]), flush=True)
        if not arguments.quick:  # after each shape: what is measured is kept, whatever comes
            save(results, name_of_results, host)


if __name__ == "__main__":
    main()
