"""What is computed and how it is timed: the device, rows, losses, a step, a graph of it, medians."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gpu.extension import take_the_place
from gpu.records import REHEARSAL

take_the_place()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import hex_ssl  # noqa: E402
from peers import QUANTILE, TAU_PLUS, TEMPERATURE, Loss  # noqa: E402
from tests.gpu.on_device import requested_bytes  # noqa: E402

DEVICE = torch.device("cpu" if REHEARSAL else "cuda")
SIZES = (8192, 512, 32768, 65536, 2048, 16384, 1024, 4096) if not REHEARSAL else (64, 32)
"""Rows: what the targets need comes first, as time may run out."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32, "float32": torch.float32}
"""tf32 is a way to multiply float32."""
DIMS = 128
SAMPLES = 30
TOGETHER = 0.03
"""Seconds of one sample, at most. The device waits for the host before the first call of it, for up to 0.3 ms."""

Run = Callable[[], Any]


def views(rows: int, dtype: str = "bfloat16", data: str = "shuffled", dims: int = DIMS) -> tuple[Tensor, Tensor]:
    """Two views around 100 centres, so that similarities spread as those of a network do.

    Args:
        rows: Of both views together.
        dtype: A key of `DTYPES`.
        data: "shuffled", or "periodic": the classes of the samples in turn, which a sample of columns at equal
            distances takes for less than there is.
        dims: Of a row.
    """
    generator = torch.Generator().manual_seed(rows)
    classes = torch.arange(rows // 2) % 100
    if data == "shuffled":
        classes = classes[torch.randperm(rows // 2, generator=generator)]
    centres = torch.randn(100, dims, generator=generator)[classes]
    first, second = (centres + 1.5 * torch.randn(rows // 2, dims, generator=generator) for _ in range(2))
    return first.to(DEVICE, DTYPES[dtype]).requires_grad_(), second.to(DEVICE, DTYPES[dtype]).requires_grad_()


def hex_loss() -> Loss:
    """HEX as the peers compute it."""
    threshold = hex_ssl.thresholds.AdaptiveThreshold(QUANTILE)
    return hex_ssl.HexLoss(temperature=TEMPERATURE, threshold=threshold, tau_plus=TAU_PLUS)


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """torch's setting for products of float32, for a while."""
    # By the older name: torch's compiler reads that one, which may not be mixed with the newer.
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def step(loss: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Forward and backward, without waiting; the loss."""
    for each in inputs:
        each.grad = None
    value = loss(*inputs)
    if value.requires_grad:
        value.backward()
    return value.detach()


def captured(loss: Callable[..., Tensor], *inputs: Tensor) -> Run:
    """The step as a CUDA graph; on the CPU, the step."""
    if REHEARSAL:
        return partial(step, loss, *inputs)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(loss, *inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    for each in inputs:
        each.grad = None
    with torch.cuda.graph(graph):
        value = step(loss, *inputs)

    def replay() -> Tensor:
        graph.replay()
        return value

    return replay


def synchronize() -> None:
    """Waits for the device."""
    if not REHEARSAL:
        torch.cuda.synchronize()


def sample(run: Run, calls: int) -> float:
    """Seconds of a call, of so many back to back: the host's where it is slower than the device, as in training.

    The device waits for the host before the first of them.
    """
    if REHEARSAL:
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


def calls_of(run: Run) -> int:
    """Calls that take `TOGETHER` seconds, but at most 200 of them, after a warm-up."""
    for _ in range(1 if REHEARSAL else 3):
        run()
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return max(1, min(200, int(TOGETHER / (time.perf_counter() - start)))) if not REHEARSAL else 1


def milliseconds(run: Run, seconds: float = 0.5) -> float:
    """Median time of a call, over `seconds` of them or 3 samples."""
    calls = calls_of(run)
    samples: list[float] = []
    end = time.perf_counter() + (0.0 if REHEARSAL else seconds)
    while len(samples) < 3 or (time.perf_counter() < end and len(samples) < SAMPLES):
        samples.append(sample(run, calls))
    return 1e3 * statistics.median(samples)


def peak_bytes(run: Run) -> int | None:
    """The most device memory that a call requests, above what is there before it; None on the CPU."""
    return None if REHEARSAL else requested_bytes(run)


def kernel_times(run: Run, calls: int = 5) -> dict[str, dict[str, float]]:
    """Microseconds and launches of each kernel in a call, the most expensive first, by torch's profiler.

    On the CPU: of each operator, so that this is rehearsed.
    """
    run()
    synchronize()
    activity = torch.profiler.ProfilerActivity.CPU if REHEARSAL else torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as profile:
        for _ in range(calls):
            run()
        synchronize()
    found = {}
    for each in profile.key_averages():
        took = each.self_cpu_time_total if REHEARSAL else each.self_device_time_total
        if took > 0:
            found[each.key[:80]] = {"us": round(took / calls, 2), "launches": each.count / calls}
    return dict(sorted(found.items(), key=lambda item: -item[1]["us"]))


def clear() -> None:
    """Gives cached device memory back, before another peer needs it."""
    if not REHEARSAL:
        torch.cuda.empty_cache()
