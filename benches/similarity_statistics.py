"""Time and peak memory of the similarity statistics beside NumPy: one process, runs interleaved, medians.

    python benches/similarity_statistics.py                      # 50,000 x 512; table and JSON to benches/results/
    python benches/similarity_statistics.py --rows 5000 --quick  # a look, nothing written

The obvious NumPy goes through the matrix of similarities in blocks of rows, since it would take 10 GB, and calls
`np.quantile`, masks, `np.histogram`. Both find the same statistics, which is checked. Memory is the peak of resident
bytes above what there was when the embeddings stood ready, each in a process of its own.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import hex_ssl
from hex_ssl.statistics import SimilarityStatistics, similarity_statistics

QUANTILE = 0.99
BINS = 200
CLASSES, SUPERCLASSES = 100, 20
BLOCK = 1000
"""Rows of similarities that NumPy has at a time."""

Array = NDArray[np.float32]
Labels = NDArray[np.int64]


def embeddings(rows: int, dims: int) -> tuple[Array, Labels, Labels]:
    """Rows around the centres of classes, which are around those of superclasses."""
    generator = np.random.default_rng(0)
    trunk = generator.standard_normal((SUPERCLASSES, dims), dtype=np.float32)
    classes = np.arange(rows) % CLASSES
    superclasses = classes % SUPERCLASSES
    twigs = trunk[np.arange(CLASSES) % SUPERCLASSES] + generator.standard_normal((CLASSES, dims), dtype=np.float32)
    return twigs[classes] + generator.standard_normal((rows, dims), dtype=np.float32), classes, superclasses


def obvious_numpy(z: Array, classes: Labels, superclasses: Labels) -> SimilarityStatistics:
    """What one writes first; in two passes over the blocks, since counts need the threshold."""
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    rows = len(unit)
    blocks = [slice(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK)]
    quantiles = np.empty(rows)
    for block in blocks:
        quantiles[block] = np.quantile(unit[block] @ unit.T, QUANTILE, axis=1, method="nearest")
    threshold = float(quantiles.mean())
    negatives, above = np.empty((rows, 3), np.int64), np.empty((rows, 3), np.int64)
    means = np.empty((rows, 3))
    histogram = np.zeros((3, BINS), np.int64)
    for block in blocks:
        similarities = unit[block] @ unit.T
        same_class = classes[block, None] == classes
        same_superclass = superclasses[block, None] == superclasses
        groups = (same_class, same_superclass & ~same_class, ~same_superclass)
        own = np.arange(rows)[block]
        same_class[np.arange(len(own)), own] = False
        for group, mask in enumerate(groups):
            negatives[block, group] = mask.sum(axis=1)
            means[block, group] = np.where(mask, similarities, 0.0).sum(axis=1) / negatives[block, group]
            above[block, group] = (mask & (similarities > threshold)).sum(axis=1)
            histogram[group] += np.histogram(similarities[mask], bins=BINS, range=(-1.0, 1.0))[0]
    return SimilarityStatistics(threshold, quantiles, negatives, means, above, histogram // 2)


def ours(z: Array, classes: Labels, superclasses: Labels) -> SimilarityStatistics:
    """hex_ssl's."""
    return similarity_statistics(z, classes, superclasses, QUANTILE, bins=BINS)


PEERS: dict[str, Callable[[Array, Labels, Labels], SimilarityStatistics]] = {
    "hex_ssl": ours,
    "NumPy": obvious_numpy,
}


def compare(found: SimilarityStatistics, expected: SimilarityStatistics) -> None:
    """Both saw the same, up to the rounding of similarities in single precision.

    Raises:
        AssertionError: They did not.
    """
    np.testing.assert_allclose(found.quantiles, expected.quantiles, atol=1e-5)
    np.testing.assert_array_equal(found.negatives, expected.negatives)
    np.testing.assert_allclose(found.means, expected.means, atol=1e-5)
    np.testing.assert_allclose(found.above.mean(axis=0), expected.above.mean(axis=0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.histogram.sum(axis=1), expected.histogram.sum(axis=1), rtol=1e-6)
    moved = np.abs(found.histogram.cumsum(axis=1) - expected.histogram.cumsum(axis=1)).max()
    assert moved <= 1e-4 * found.histogram.sum(), f"{moved} pairs stand in other bins"


def seconds(rows: int, dims: int, rounds: int) -> dict[str, list[float]]:
    """The times of each peer, one after the other in each round."""
    inputs = embeddings(rows, dims)
    times: dict[str, list[float]] = {name: [] for name in PEERS}
    found: dict[str, SimilarityStatistics] = {}
    for _ in range(rounds):
        for name, peer in PEERS.items():
            start = time.perf_counter()
            found[name] = peer(*inputs)
            times[name].append(time.perf_counter() - start)
    compare(found["hex_ssl"], found["NumPy"])
    return times


def peak_bytes(name: str, rows: int, dims: int) -> dict[str, int]:
    """Resident bytes of a process that runs one peer: with the inputs, and what came on top at the peak."""
    command = [sys.executable, __file__, "--rows", str(rows), "--dims", str(dims), "--memory-of", name]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def report_memory(name: str, rows: int, dims: int) -> None:
    """Prints what `peak_bytes` reads."""
    inputs = embeddings(rows, dims)
    PEERS[name](*(each[:200] for each in inputs))  # threads, libraries
    page = resource.getpagesize()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * page
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, below that of making the inputs
    PEERS[name](*inputs)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps({"inputs": sum(each.nbytes for each in inputs), "added": peak - before, "resident": peak}))


def main() -> None:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    parser.add_argument("--memory-of", choices=PEERS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.memory_of:
        return report_memory(chosen.memory_of, chosen.rows, chosen.dims)
    load = os.getloadavg()[0]
    times = seconds(chosen.rows, chosen.dims, chosen.rounds)
    memory = {name: peak_bytes(name, chosen.rows, chosen.dims) for name in PEERS}
    median = {name: statistics.median(each) for name, each in times.items()}
    machine = (
        f"{_processor()}, {torch.get_num_threads()} threads, NumPy {np.__version__}, hex_ssl {hex_ssl.__version__}"
    )
    lines = [
        f"{chosen.rows:,} x {chosen.dims} float32, {CLASSES} classes in {SUPERCLASSES} superclasses",
        f"{machine}; load average before: {load:.2f}",
        "",
        "| | seconds (median) | all rounds | added memory | memory of the process |",
        "|---|---|---|---|---|",
    ]
    for name in PEERS:
        each = ", ".join(f"{value:.1f}" for value in times[name])
        added, resident = (memory[name][key] / 1e6 for key in ("added", "resident"))
        lines.append(f"| {name} | {median[name]:.1f} | {each} | {added:.0f} MB | {resident:.0f} MB |")
    lines += ["", f"NumPy takes {median['NumPy'] / median['hex_ssl']:.1f} times as long."]
    print("\n".join(lines))
    if not chosen.quick:
        record = {
            "machine": machine,
            "load": load,
            "rows": chosen.rows,
            "dims": chosen.dims,
            "seconds": times,
            "bytes": memory,
        }
        place = Path(__file__).parent / "results" / f"statistics-cpu-{date.today()}"
        place.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        place.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


if __name__ == "__main__":
    main()
