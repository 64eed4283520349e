"""Everything that only a GPU can tell, in one call of some minutes: tests, compute-sanitizer, time and memory.

    python benches/gpu_check.py                 # tests, sanitizer, benchmark; one JSON, a table last
    python benches/gpu_check.py --cubins 9.0    # needs no GPU: compiles the kernels ahead, into $HEX_SSL_CACHE
    python benches/gpu_check.py --dry-run       # needs no GPU: the same on the CPU in a minute, so that it cannot rot

Builds nothing. Each part has its share of the time and may fail without the others; the JSON is written after each.
How to run it on a machine that has no checkout's environment: GPU.md beside this file.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DRY = "--dry-run" in sys.argv
if DRY:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import hex_ssl  # noqa: E402
from gpu_peers import lightly_ntxent, triton_infonce  # noqa: E402
from hex_ssl import _core  # noqa: E402
from peers import (  # noqa: E402
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

DEVICE = torch.device("cpu" if DRY else "cuda")
OURS, OURS_GRAPH, OURS_PLAIN = "HexLoss", "HexLoss, in a graph", "hex_ssl NTXentLoss"
EAGER = {
    "eager, topk": partial(hex_masked_sums, threshold=threshold_by_topk),
    "eager, topk, where": partial(hex_where, threshold=threshold_by_topk),
    "eager, torch.quantile": partial(hex_masked_sums, threshold=threshold_by_quantile),
}
COMPILED = {
    "compiled, topk": EAGER["eager, topk"],
    "compiled, topk, where": EAGER["eager, topk, where"],
}
CHUNKED, LIGHTLY, TRITON = "chunked torch ops", "lightly NTXentLoss (restated)", "Triton tiled InfoNCE"
PEERS = (OURS, OURS_GRAPH, *EAGER, *COMPILED, CHUNKED, OURS_PLAIN, LIGHTLY, TRITON)
HEX = (OURS, OURS_GRAPH, *EAGER, *COMPILED, CHUNKED)

Case = tuple[int, int, str]
# What the targets need comes first: time may run out.
CASES: list[Case] = [
    (8192, 128, "bfloat16"),
    (512, 128, "bfloat16"),
    (32768, 128, "bfloat16"),
    (65536, 128, "bfloat16"),
    (8192, 128, "float32"),
    (8192, 128, "tf32"),
    (8192, 256, "bfloat16"),
    (512, 128, "float32"),
    (2048, 128, "bfloat16"),
    (65536, 128, "tf32"),
    (65536, 128, "float32"),
    (65536, 256, "bfloat16"),
    (16384, 128, "bfloat16"),
    (1024, 128, "bfloat16"),
    (4096, 128, "bfloat16"),
    (32768, 256, "bfloat16"),
    (32768, 128, "tf32"),
    (32768, 128, "float32"),
]
DRY_CASES: list[Case] = [(64, 128, "tf32")]
BYTES_OF_EAGER = 7.8 * 4
"""Peak bytes for each element of the N x N matrix: measured on the CPU."""
COST = {**dict.fromkeys(COMPILED, 45.0), TRITON: 30.0}
"""Seconds that a peer may take at the worst, most of them its compiler's: it is left out where fewer are left."""


class Report:
    """The results so far, written to the file after each part."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.end = path, time.monotonic() + seconds
        self.content: dict[str, Any] = {"command": " ".join(sys.argv), "dry_run": DRY, "parts": {}}
        path.parent.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    def part(self, name: str, run: Callable[[], Any]) -> None:
        """Runs a part; what it raises is its result."""
        start = time.monotonic()
        try:
            found = {"ok": True, "result": run()}
        except Exception as error:
            found = {"ok": False, "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-3000:]}
        found["seconds"] = round(time.monotonic() - start, 1)
        self.content["parts"][name] = found
        self.write()
        print(f"{name}: {'done' if found['ok'] else found['error'][:200]} ({found['seconds']} s)", flush=True)

    def result(self, name: str) -> Any:
        """What a part found; None where it failed."""
        return self.content["parts"].get(name, {}).get("result")

    def write(self) -> None:
        self.path.write_text(json.dumps(self.content, indent=1))


def machine() -> dict[str, Any]:
    """The GPU, the versions, and what runs where."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "config": hex_ssl.show_config(),
    }
    if DEVICE.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "name": properties.name,
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "capability": list(torch.cuda.get_device_capability()),
        }
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"]
        if shutil.which("nvidia-smi"):
            found["nvidia-smi"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return found


def run_tests(seconds: float) -> dict[str, Any]:
    """`pytest tests/gpu`; fails where a test fails or none runs."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/gpu",
        "-m",
        "gpu",
        "-q",
        "-x",
        "--maxfail=20",
        "-p",
        "no:cacheprovider",
    ]
    # Warnings of packages that this environment does not choose are no failures here.
    command += ["-W", "default", "-W", "error::RuntimeWarning"] + (["-k", "core"] if DRY else [])
    return _pytest(command, seconds)


def run_sanitizer(seconds: float) -> dict[str, Any]:
    """compute-sanitizer over the suite's core: bad addresses, then races in shared memory."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None or DRY:
        return {"skipped": "no compute-sanitizer here"}
    found = {}
    for name in ("memcheck", "racecheck"):
        command = [tool, "--tool", name, "--error-exitcode", "9"]
        test = [sys.executable, "-m", "pytest", "tests/gpu/test_parity.py", "-q", "-k", "core and 254", "-W", "default"]
        # Each tensor an allocation of its own: torch's store would hide an address beyond one.
        found[name] = _pytest([*command, *test], seconds / 2, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return found


def _pytest(command: list[str], seconds: float, **variables: str) -> dict[str, Any]:
    environment = {**os.environ, **variables, **({"HEX_SSL_GPU_REHEARSAL": "cpu"} if DRY else {})}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=max(20.0, seconds)
    )
    tail = (done.stdout + done.stderr)[-6000:]
    if done.returncode != 0:
        raise RuntimeError(f"exit {done.returncode}: {tail}")
    summary = [line for line in done.stdout.splitlines() if " passed" in line or " skipped" in line]
    if not summary and "..." not in done.stdout:
        raise RuntimeError(f"no test ran: {tail}")
    return {"summary": summary[-1:], "tail": tail}


def measure_rates() -> dict[str, float]:
    """The chip's own rates, by torch: of matrix products in FLOP/s, of a copy in bytes/s, read and written."""
    size, large = (256, 1 << 16) if DRY else (8192, 1 << 31)
    rates = {}
    for name in ("bfloat16", "tf32", "float32"):
        with precision(name):
            a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype_of(name)) for _ in range(2))
            out = torch.empty_like(a)
            rates[name] = 2 * size**3 / median_seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 1.0)
    source = torch.empty(large, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    rates["copy"] = 2 * large / median_seconds(lambda: target.copy_(source), 1.0)
    return rates


def dtype_of(name: str) -> torch.dtype:
    """tf32 is a way to multiply float32."""
    return torch.bfloat16 if name == "bfloat16" else torch.float32


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """torch's setting for float32 products, for a while."""
    # By the older name: torch's compiler reads that one, which may not be mixed with the newer.
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def median_seconds(run: Callable[[], object], seconds: float) -> float:
    """Median time of a call among calls back to back, each sample some milliseconds of them, after a warm-up.

    The host's time counts where it is longer than the device's, as it does in training.
    """
    for _ in range(1 if DRY else 3):
        run()
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    once = time.perf_counter() - start
    calls = max(1, min(200, int(0.005 / once)))
    samples = []
    end = time.perf_counter() + (0.0 if DRY else seconds)
    while len(samples) < 3 or (time.perf_counter() < end and len(samples) < 50):
        samples.append(_sample(run, calls))
    return statistics.median(samples)


def _sample(run: Callable[[], object], calls: int) -> float:
    if DEVICE.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    for _ in range(calls):
        run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3 / calls


def peer(name: str) -> Loss:
    """The loss of that name."""
    if name in (OURS, OURS_GRAPH):
        threshold = hex_ssl.thresholds.AdaptiveThreshold(QUANTILE)
        return hex_ssl.HexLoss(temperature=TEMPERATURE, threshold=threshold, tau_plus=TAU_PLUS)
    if name == OURS_PLAIN:
        return hex_ssl.NTXentLoss(temperature=TEMPERATURE)
    if name in COMPILED:
        torch._dynamo.reset()
        return torch.compile(COMPILED[name], dynamic=False, backend="eager" if DRY else "inductor")
    others = {**EAGER, CHUNKED: partial(hex_chunked, rows=64 if DRY else 2048), LIGHTLY: lightly_ntxent}
    return {**others, TRITON: triton_infonce}[name]


def applies(name: str, case: Case) -> bool:
    """Whether the peer can run: the N x N matrices must fit, and only some shapes are worth a compilation."""
    rows, dims, dtype = case
    fits = DRY or BYTES_OF_EAGER * rows**2 < 0.9 * torch.cuda.get_device_properties(0).total_memory
    if name == OURS_GRAPH:
        return not DRY
    if name == "eager, torch.quantile":
        return fits and rows <= 8192
    if name in COMPILED:
        return (fits and (dims, dtype) == (128, "bfloat16")) or rows == 8192 or DRY
    if name in EAGER or name == LIGHTLY:
        return fits
    if name == TRITON:
        return rows in (512, 8192, 32768, 65536) or DRY
    return True


def views(case: Case) -> tuple[Tensor, Tensor]:
    """Two views around 100 centres, so that similarities spread as those of a network do."""
    rows, dims, dtype = case
    generator = torch.Generator().manual_seed(rows)
    n = rows // 2
    centres = torch.randn(100, dims, generator=generator)[torch.arange(n) % 100]
    z1, z2 = (centres + 1.5 * torch.randn(n, dims, generator=generator) for _ in range(2))
    return tuple(z.to(DEVICE, dtype_of(dtype)).requires_grad_() for z in (z1, z2))  # type: ignore[return-value]


def step(loss: Loss, z1: Tensor, z2: Tensor) -> Tensor:
    """Forward and backward, without waiting; the loss."""
    z1.grad = z2.grad = None
    value = loss(z1, z2)
    if value.requires_grad:
        value.backward()
    return value.detach()


def captured(loss: Loss, z1: Tensor, z2: Tensor) -> Callable[[], Tensor]:
    """The step as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(loss, z1, z2)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    z1.grad = z2.grad = None
    with torch.cuda.graph(graph):
        value = step(loss, z1, z2)

    def replay() -> Tensor:
        graph.replay()
        return value

    return replay


def measure(name: str, case: Case, seconds: float) -> dict[str, Any]:
    """Time, peak memory above the inputs, and the loss found, of one peer on one shape."""
    with precision(case[2]):
        z1, z2 = views(case)
        loss = peer(name)
        run = captured(loss, z1, z2) if name == OURS_GRAPH else partial(step, loss, z1, z2)
        value = run().item()  # also compiles
        found: dict[str, Any] = {"loss": value}
        if DEVICE.type == "cuda" and name != OURS_GRAPH:
            z1.grad = z2.grad = None
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            torch.cuda.synchronize()
            found["bytes"] = torch.cuda.max_memory_allocated() - before
        found["seconds"] = median_seconds(run, seconds)
    return found


def benchmark(report: Report, case: Case) -> dict[str, Any]:
    """Every peer that applies, as long as time lasts; an error is a peer's result too."""
    found: dict[str, Any] = {}
    result = {"rows": case[0], "dims": case[1], "dtype": case[2], "peers": found}
    for name in PEERS:
        if not applies(name, case):
            continue
        if report.left() < COST.get(name, 8.0) and not DRY:
            found[name] = {"skipped": "no time left"}
            continue
        try:
            found[name] = measure(name, case, 0.7)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
    result["disagree"] = disagreements(found, case)
    return result


def disagreements(found: dict[str, Any], case: Case) -> list[str]:
    """Peers whose loss is not ours: all must compute the same."""
    tolerance = {"float32": 1e-4, "tf32": 3e-3, "bfloat16": 2e-2}[case[2]]
    wrong = []
    for ours, group in ((OURS, HEX), (OURS_PLAIN, (LIGHTLY, TRITON))):
        expected = found.get(ours, {}).get("loss")
        for name in group:
            value = found.get(name, {}).get("loss")
            if None not in (value, expected) and not abs(value - expected) <= tolerance * abs(expected):
                wrong.append(f"{name}: {value}, {ours}: {expected}")
    return wrong


def time_of(report: Report, case: Case, *names: str) -> float | None:
    """The best time among the peers."""
    peers = (report.result(title(case)) or {"peers": {}})["peers"]
    times = [peers[name]["seconds"] for name in names if "seconds" in peers.get(name, {})]
    return min(times, default=None)


def title(case: Case) -> str:
    return f"N = {case[0]}, D = {case[1]}, {case[2]}"


def floor(report: Report, case: Case) -> float | None:
    """Seconds of 8 N^2 D operations at torch's own measured rate: three sweeps without symmetry, the design's least."""
    rates = report.result("rates")
    return None if rates is None else 8 * case[0] ** 2 * case[1] / rates[case[2]]


def targets(report: Report) -> list[dict[str, Any]]:
    """What the kernels are to reach on an H200, and what was found. None: not measured."""
    small, middle, large, largest = ((rows, 128, "bfloat16") for rows in (512, 8192, 32768, 65536))

    def times_ours(case: Case, seconds: float | None) -> float | None:
        ours = time_of(report, case, OURS)
        return None if seconds is None or ours is None else seconds / ours

    peers = (report.result(title(largest)) or {"peers": {}})["peers"]
    extra = peers.get(OURS, {}).get("bytes")
    rows = [
        ("x faster than the best eager form, N = 8192", 10.0, times_ours(middle, time_of(report, middle, *EAGER))),
        ("x faster than torch.compile, N = 8192", 3.0, times_ours(middle, time_of(report, middle, *COMPILED))),
        ("of the floor's speed, N = 32768", 0.4, times_ours(large, floor(report, large))),
        ("x faster than torch.compile, N = 512", 1.0, times_ours(small, time_of(report, small, *COMPILED))),
        ("x less than 100 MB above the inputs, N = 65536", 1.0, None if extra is None else 100e6 / extra),
    ]
    return [
        {"target": text, "at_least": least, "found": found, "reached": None if found is None else found >= least}
        for text, least, found in rows
    ]


def table(report: Report) -> str:
    """One block for each shape, the targets last."""
    lines = []
    for name, part in report.content["parts"].items():
        if not name.startswith("N = ") or not part["ok"]:
            continue
        result = part["result"]
        case = (result["rows"], result["dims"], result["dtype"])
        least, ours = floor(report, case), time_of(report, case, OURS)
        share = f", floor {least * 1e3:.3f} ms = {least / ours:.0%} of HexLoss" if least and ours else ""
        lines.append(f"{name}{share}")
        for label, found in result["peers"].items():
            if "seconds" not in found:
                lines.append(f"  {label:30s} {next(iter(found.values()))[:80]}")
                continue
            times = f"{found['seconds'] / ours:7.2f} x" if ours else ""
            memory = f"{found['bytes'] / 1e6:9.1f} MB" if "bytes" in found else ""
            lines.append(f"  {label:30s} {found['seconds'] * 1e3:10.3f} ms {times} {memory}")
        lines += [f"  DISAGREES {text}" for text in result["disagree"]]
    lines.append("rates: " + ", ".join(f"{k} {v / 1e12:.1f} T/s" for k, v in (report.result("rates") or {}).items()))
    for name in ("tests", "sanitizer"):
        part = report.content["parts"].get(name, {})
        lines.append(f"{name}: {'ok' if part.get('ok') else part.get('error', 'not run')[-1500:]}")
    for each in report.content.get("targets", []):
        found = "not measured" if each["found"] is None else f"{each['found']:.2f}"
        lines.append(f"target {each['target']}: {found} of {each['at_least']} -> {each['reached']}")
    return "\n".join(lines)


def compile_ahead(capability: str) -> None:
    """Fills the cache of cubins with what tests and benchmark run."""
    major, minor = (int(number) for number in capability.split("."))
    variants = [
        ("float32", False, (32, 64, 96, 128, 256)),
        ("float32", True, (128,)),
        ("bfloat16", False, (64, 96, 128, 256)),
        ("float16", False, (64, 128)),
    ]
    for dtype, allow_tf32, dimensions in variants:
        for dims in dimensions:
            start = time.monotonic()
            binary, found = _core.cuda_cubin((major, minor), dims, dtype, allow_tf32)
            took = "cached" if found else f"{time.monotonic() - start:.1f} s"
            name = f"{dtype}{' as tf32' if allow_tf32 else ''}"
            print(f"{name}, {dims} dimensions: {len(binary)} bytes, {took}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ROOT / "runs")) / "gpu_check.json")
    parser.add_argument("--seconds", type=float, default=510.0, help="for all of it")
    parser.add_argument("--skip", nargs="*", default=[], choices=["tests", "sanitizer", "benchmark"])
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, small")
    parser.add_argument("--cubins", metavar="CAPABILITY", help="only compile, for such as 9.0")
    arguments = parser.parse_args()
    if arguments.cubins:
        compile_ahead(arguments.cubins)
        return 0
    report = Report(arguments.out, arguments.seconds)
    report.part("machine", machine)
    report.part("rates", measure_rates)
    cases = DRY_CASES if DRY else CASES
    measured = [(title(case), partial(benchmark, report, case)) for case in cases]
    # The kernels are right or wrong: that first. Then the targets, the sanitizer, and the rest of the table.
    parts: list[tuple[str, Callable[[], Any]]] = [
        ("tests", lambda: run_tests(0.35 * arguments.seconds)),
        *measured[:4],
        ("sanitizer", lambda: run_sanitizer(min(0.25 * arguments.seconds, report.left() - 20))),
        *measured[4:],
    ]
    for name, run in parts:
        skipped = ("benchmark" if name.startswith("N = ") else name) in arguments.skip
        if not skipped and (report.left() > 10 or DRY):
            report.part(name, run)
    report.content["targets"] = targets(report)
    report.write()
    print(table(report))
    print(f"written: {report.path}")
    return 0 if all(part["ok"] for part in report.content["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
