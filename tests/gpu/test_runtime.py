"""The CUDA kernels together with torch's: streams, graphs, threads, compile, autocast, memory, and refused input."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from hex_ssl import HexLoss, functional
from hex_ssl.contrast import Settings
from hex_ssl.direct import evaluate_directly
from hex_ssl.ops import evaluate

from . import BACKEND, DEVICE, NEEDS_DEVICE, NEEDS_GPU, REHEARSAL
from .on_device import assert_close, assert_same_bits, batch, requested_bytes, step

pytestmark = NEEDS_DEVICE
ROWS = 4098 if not REHEARSAL else 198
OVERLAP = "HEX_SSL_CUDA_OVERLAP"


def gpu_only(test: object) -> object:
    """Marks a test that has no meaning on the CPU."""
    for mark in NEEDS_GPU:
        test = mark(test)
    return test


def test_the_same_bits_each_time() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        z = batch(ROWS, 128, dtype)
        first = step(z)
        for _ in range(5):
            assert_same_bits(step(z), first)


def test_launches_that_overlap_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows, dtype in ((512, torch.float32), (ROWS, torch.float32), (ROWS, torch.bfloat16)):
        z = batch(rows, 128, dtype)
        monkeypatch.setenv(OVERLAP, "0")
        expected = step(z)
        monkeypatch.setenv(OVERLAP, "1")
        for _ in range(20):
            assert_same_bits(step(z), expected)


def test_the_short_way_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings("adaptive", 0.99, "importance", 1.0, 0.1, 0.2, "mean")
    for dtype in (torch.float32, torch.bfloat16):
        z = batch(512, 128, dtype)
        assert evaluate_directly(list(z.chunk(2)), settings) is not None
        found = step(z)
        with monkeypatch.context() as patch:
            patch.setattr(functional, "evaluate_directly", lambda *_: None)
            assert_same_bits(found, step(z))


@gpu_only
def test_work_is_put_on_the_current_stream() -> None:
    data = batch(ROWS, 128)
    expected = step(data)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    z = torch.zeros_like(data)
    with torch.cuda.stream(side):
        step(z + data)  # so that nothing is allocated or loaded later on
    ahead = False
    for tenths in (1, 10, 100):  # of a second, some: a host that is slow or busy has time to come before the device
        z.zero_()
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            torch.cuda._sleep(tenths * 200_000_000)  # another stream would see zeros meanwhile
            z.copy_(data)
            found = step(z)
            ahead = ahead or not side.query()
        side.synchronize()
        assert_same_bits(found, expected)
        if ahead:
            break
    assert ahead, "the host has waited for the device"


@gpu_only
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_for_the_device() -> None:
    z = batch(ROWS, 128, torch.bfloat16)
    step(z)
    step(z, reduction="none")
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(z)
        step(z, reduction="none")
    finally:
        torch.cuda.set_sync_debug_mode(before)


@gpu_only
@pytest.mark.parametrize("overlap", ["0", "1"])
def test_a_graph_is_captured_and_replayed(overlap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERLAP, overlap)
    batches = [batch(ROWS, 128, torch.bfloat16, seed) for seed in range(3)]
    expected = [step(z) for z in batches]
    static = batches[0].clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(static)
    for z, eager in zip(batches, expected, strict=True):
        static.copy_(z)
        graph.replay()
        assert_same_bits(found, eager)


@gpu_only
def test_the_first_call_of_a_process_may_be_in_a_capture() -> None:
    # Kernels are loaded then, which a capture would forbid.
    code = """
import torch
from hex_ssl import functional
z = torch.randn(512, 128, device="cuda", dtype=torch.bfloat16)
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.no_grad(), torch.cuda.graph(graph):
    loss = functional.hex_loss(*z.chunk(2))
graph.replay()
assert torch.equal(loss, functional.hex_loss(*z.chunk(2))), loss
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_two_threads_at_once() -> None:
    inputs = [batch(ROWS, 128, seed=seed) for seed in range(2)]
    expected = [step(z) for z in inputs]

    def on_a_stream(z: Tensor) -> list[object]:
        if REHEARSAL:
            return [step(z) for _ in range(3)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.default_stream())
        with torch.cuda.stream(side):
            found = [step(z) for _ in range(20)]
        side.synchronize()
        return list(found)

    with ThreadPoolExecutor(2) as pool:
        for steps, eager in zip(pool.map(on_a_stream, inputs), expected, strict=True):
            for found in steps:
                assert_same_bits(found, eager)  # type: ignore[arg-type]


def test_the_backward_of_each_anchors_loss_runs_on_autograds_thread() -> None:
    z = batch(ROWS, 128)
    expected = step(z, reduction="sum")
    found = step(z, reduction="none")
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.loss.sum(), expected.loss, rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_compile_fullgraph() -> None:
    torch._dynamo.reset()
    linear = torch.nn.Linear(64, 128, device=DEVICE)
    criterion = HexLoss()

    def training_step(x1: Tensor, x2: Tensor) -> Tensor:
        loss: Tensor = criterion(linear(x1), linear(x2))
        return loss

    compiled = torch.compile(training_step, fullgraph=True, backend="aot_eager" if REHEARSAL else "inductor")
    for rows in (256, 256, 190):
        x1, x2 = batch(rows, 64).chunk(2)
        gradients = []
        for function in (training_step, compiled):
            linear.zero_grad()
            function(x1, x2).backward()
            assert linear.weight.grad is not None
            gradients.append(linear.weight.grad.clone())
        off = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
        assert off < 2e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_takes_rows_as_they_are(dtype: torch.dtype) -> None:
    z = batch(512, 128, dtype)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        loss = functional.hex_loss(*z.chunk(2))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, functional.hex_loss(*z.chunk(2)))


def test_the_factor_of_a_grad_scaler() -> None:
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=1024.0)
    z = batch(512, 128, torch.float16)
    plain, scaled = z.clone().requires_grad_(), z.clone().requires_grad_()
    functional.hex_loss(*plain.chunk(2)).backward()
    scaler.scale(functional.hex_loss(*scaled.chunk(2))).backward()
    assert plain.grad is not None
    assert scaled.grad is not None
    torch.testing.assert_close(scaled.grad.float() / 1024, plain.grad.float(), rtol=2e-3, atol=1e-6)


@gpu_only
def test_memory_of_65536_rows() -> None:
    z = batch(65_536, 128, torch.bfloat16)
    step(batch(1024, 128, torch.bfloat16))
    steps = []
    extra = requested_bytes(lambda: steps.append(step(z)))
    assert extra < 100e6, f"{extra / 1e6:.1f} MB above the inputs"
    (found,) = steps
    assert found.loss.isfinite()
    assert found.gradient.isfinite().all()


@pytest.mark.parametrize("dims", [513, 1100])
def test_dimensions_without_a_kernel(dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if BACKEND == "cpu":
        pytest.skip("the CPU kernel takes any dimension")
    z = batch(64, dims)
    with pytest.raises(ValueError, match=f"no CUDA kernel for this call: .*{dims}"):
        step(z)
    if REHEARSAL:
        return
    monkeypatch.setenv("HEX_SSL_BACKEND", "auto")
    with pytest.warns(RuntimeWarning, match=f"torch's operations, in chunks: .*{dims}"):
        found = step(z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(z)
    monkeypatch.setenv("HEX_SSL_BACKEND", "composite")
    assert_close(found, step(z), torch.float32)


@gpu_only
def test_float64_runs_on_libtorch_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEX_SSL_BACKEND", "auto")
    z = batch(64, 32).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = step(z)
    monkeypatch.setenv("HEX_SSL_BACKEND", "composite")
    assert_same_bits(found, step(z))


@pytest.mark.parametrize("bad", [-1, 40, 2**40])
def test_rows_that_are_not_there_make_the_loss_nan(bad: int) -> None:
    anchors, keys = batch(20, 64)[:20], batch(40, 64, seed=1)
    index = torch.arange(20, device=DEVICE)[:, None].clone()
    index[7] = bad
    settings = ("adaptive", 0.9, "importance", 1.0, 0.1, 0.2, "mean")
    arguments = ([anchors], keys, None, index, None, None, None, None, None, None, 0, *settings, False, True)
    if REHEARSAL:  # the CPU kernel reads the rows that are named
        with pytest.raises(ValueError, match="expected `positive_index` to be in"):
            evaluate(*arguments)
        return
    loss, *_ = evaluate(*arguments)
    torch.cuda.synchronize()
    assert loss.isnan()


@gpu_only
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_bad_row_makes_the_loss_nan(bad: float) -> None:
    z = batch(300, 128)
    z[17] = bad
    assert step(z).loss.isnan()


@gpu_only
def test_tf32_where_torch_allows_it() -> None:
    z = batch(1024, 128)
    exact = step(z)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        rounded = step(z)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert not torch.equal(rounded.gradient, exact.gradient)
    assert_close(rounded, exact, torch.bfloat16)


@gpu_only
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_of_another_device_than_the_current_one() -> None:
    z = batch(1024, 128)
    expected = step(z)
    found = step(z.to("cuda:1"))
    assert found.loss.device == torch.device("cuda:1")
    assert torch.equal(found.loss.cpu(), expected.loss.cpu())
    assert torch.cuda.current_device() == 0
