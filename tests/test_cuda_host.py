"""The host side of the CUDA kernels, without a GPU: NVRTC, the cache of cubins, the driver, the choice of backend.

`test_cuda_emulation.py` tests the kernels' results, and `test_cuda_cubins.py` tests their compiled code.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hex_ssl
from hex_ssl import _core, dispatch, functional, ops

from .conftest import Emulate
from .ptx.interpreter import Schedule

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
# A small variant. Compiling takes seconds: once for all tests that need no compilation of their own.
CAPABILITY, DIMS, DTYPE = (9, 0), 32, "bfloat16"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that a compilation leaves in the cache."""
    folder = tmp_path_factory.mktemp("compiled") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEX_SSL_CACHE", str(folder))
        binary, found = cubin()
    assert not found
    assert binary[:4] == b"\x7fELF"
    (file,) = folder.iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}\.cubin", file.name)
    assert file.read_bytes()[: len(binary)] == binary
    return file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("HEX_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cubin(
    capability: tuple[int, int] = CAPABILITY, dims: int = DIMS, dtype: str = DTYPE, allow_tf32: bool = False
) -> tuple[bytes, bool]:
    """The kernels for one variant, and whether they came from the cache."""
    return _core.cuda_cubin(capability, dims, dtype, allow_tf32)


def test_the_second_time_the_cubin_comes_from_the_cache(compiled: Path, cache: Path) -> None:
    shutil.copy(compiled, cache)
    binary, found = cubin()
    assert found
    assert binary == compiled.read_bytes()[:-32]
    # The flags of the ELF header have the chip: in their second byte, until CUDA 12 in their first.
    assert 90 in binary[48:50]
    # Dimensions are padded to a multiple of 32, tf32 is a matter of float32 alone, 9.9 would run what 9.0 runs.
    for same in ({"dims": 17}, {"allow_tf32": True}, {"capability": (9, 9)}):
        assert cubin(**same) == (binary, True)  # type: ignore[arg-type]


def test_threads_that_find_a_damaged_file_leave_a_whole_one(compiled: Path, cache: Path) -> None:
    whole = compiled.read_bytes()
    (cache / compiled.name).write_bytes(whole[:-1])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: cubin(), range(2)))
    assert {binary for binary, _ in found} == {whole[:-32]}
    assert not all(from_disk for _, from_disk in found)
    assert [path.name for path in cache.iterdir()] == [compiled.name]
    assert (cache / compiled.name).read_bytes() == whole


def test_without_a_folder_that_can_be_written_kernels_are_compiled_each_time(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HEX_SSL_CACHE", str(tmp_path / "file" / "cache"))
    assert cubin() == (compiled.read_bytes()[:-32], False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_cache_is_where_the_desktop_rules_say(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEX_SSL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in (tmp_path / "home" / ".cache" / "hex_ssl", tmp_path / "xdg" / "hex_ssl"):
        folder.mkdir(parents=True)
    shutil.copy(compiled, tmp_path / "xdg" / "hex_ssl")
    assert cubin()[1]
    (tmp_path / "xdg" / "hex_ssl" / compiled.name).rename(tmp_path / "home" / ".cache" / "hex_ssl" / compiled.name)
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cubin()[1]


def test_a_gpu_without_kernels_is_named() -> None:
    text = r"^the kernels need compute capability 8\.0 or later, but the GPU has 7\.5$"
    with pytest.raises(RuntimeError, match=text):
        cubin((7, 5))
    with pytest.raises(RuntimeError, match=r"^NVRTC \d+\.\d+ has no code for compute capability 99\.0$"):
        cubin((99, 0))
    with pytest.raises(ValueError, match=r"^expected `dtype` to have CUDA kernels, but got float64$"):
        cubin(dtype="float64")


def test_kernels_for_sm_90a_are_of_some_rows_alone() -> None:
    text = r"^expected 64, 128, 192 or 256 padded dimensions of 16 bits for `wgmma`, but got {} of {}$"
    for dims, padded, dtype in ((70, 96, "bfloat16"), (257, 288, "float16"), (64, 64, "float32")):
        with pytest.raises(ValueError, match=text.format(padded, dtype)):
            _core.cuda_cubin((9, 0), dims, dtype, False, True)


def test_nvrtc_is_torchs(compiled: Path) -> None:
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libnvrtc" in line}
    packages = Path(torch.__file__).parents[1]
    # It looks for its builtins by name alone when it compiles: without them every program fails.
    assert {Path(path).name.split(".")[0] for path in mapped} == {"libnvrtc", "libnvrtc-builtins"}
    assert all(Path(path).is_relative_to(packages) for path in mapped), mapped


FAKE_DRIVER = """
#include <stdlib.h>
#include <string.h>
static int number(const char *name) { const char *text = getenv(name); return text ? atoi(text) : 0; }
int cuInit(unsigned flags) { return number("FAKE_INIT"); }
int cuGetErrorString(int status, const char **text) { *text = status == 100 ? "no device is detected" : 0; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < 1 ? 0 : 101; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Fake GPU", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? number("FAKE_MAJOR") : attribute == 76 ? number("FAKE_MINOR") : 100000;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    static int asked = 0;
    *context = &number;
    return asked++ < number("FAKE_FULL") ? 2 : 0;
}
int cuCtxPushCurrent_v2(void *context) { return 0; }
int cuCtxPopCurrent_v2(void **context) { return 0; }
int cuThreadExchangeStreamCaptureMode(int *mode) { return 0; }
int cuModuleLoadData(void **module, const void *image) { return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { return 0; }
int cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
#ifndef WITHOUT_LAUNCH
int cuLaunchKernel(void) { return 0; }
#endif
"""


@pytest.fixture(scope="module")
def fake_drivers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a libcuda.so.1 that says what the environment tells it to, and one that lacks a function."""
    folders = {}
    for name, options in {"whole": [], "partial": ["-DWITHOUT_LAUNCH"]}.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "cuda.c").write_text(FAKE_DRIVER)
        command = ["cc", "-shared", "-fPIC", "-w", *options, "-o", folder / "libcuda.so.1", folder / "cuda.c"]
        subprocess.run(command, check=True)
        folders[name] = folder
    return folders


@NO_GPU
@pytest.mark.parametrize(
    ("driver", "environment", "device", "backend", "reason"),
    [
        (
            "whole",
            {"FAKE_MAJOR": "9"},
            "cuda",
            "cuda",
            r"^the fused kernels run on Fake GPU \(9\.0, with wgmma\), compiled by NVRTC",
        ),
        (
            "whole",
            {"FAKE_MAJOR": "8", "FAKE_MINOR": "6"},
            "cuda:0",
            "cuda",
            r"on Fake GPU \(8\.6\), .*, kept in .*cache$",
        ),
        (
            "whole",
            {"FAKE_MAJOR": "7", "FAKE_MINOR": "5"},
            "cuda",
            "composite",
            r"need compute capability 8\.0 or later, ",
        ),
        ("whole", {"FAKE_MAJOR": "42"}, "cuda", "composite", r"NVRTC .* has no code for compute capability 42\.0$"),
        (
            "whole",
            {"FAKE_INIT": "100"},
            "cuda",
            "composite",
            r"cuInit failed: no device is detected \(100\)$",
        ),
        ("whole", {"FAKE_MAJOR": "9"}, "cuda:1", "composite", r"cuDeviceGet failed: unknown error \(101\)$"),
        (
            "partial",
            {"FAKE_MAJOR": "9"},
            "cuda",
            "composite",
            r"no CUDA driver \(.*undefined symbol: cuLaunchKernel\)$",
        ),
    ],
    ids=["Hopper", "Ampere", "Turing", "too new", "no device", "no second device", "another driver"],
)
def test_the_reason_for_each_gpu(
    driver: str,
    environment: dict[str, str],
    device: str,
    backend: str,
    reason: str,
    fake_drivers: dict[str, Path],
    cache: Path,
) -> None:
    ask = f"_core.backend_for({device!r}, 'float32', 'auto')"
    code = f"import json; from hex_ssl._extension import _core; print(json.dumps({ask}))"
    environment = {**os.environ, **environment, "LD_LIBRARY_PATH": str(fake_drivers[driver])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    chosen, why = json.loads(done.stdout)
    assert chosen == backend
    assert re.search(reason, why), why


@NO_GPU
def test_a_moment_without_memory_is_not_remembered(fake_drivers: dict[str, Path], cache: Path) -> None:
    code = """
import json
from hex_ssl._extension import _core
print(json.dumps([_core.backend_for("cuda", "float32", "auto") for _ in range(3)]))
"""
    environment = {**os.environ, "FAKE_MAJOR": "9", "FAKE_FULL": "2", "LD_LIBRARY_PATH": str(fake_drivers["whole"])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    *refused, (chosen, reason) = json.loads(done.stdout)
    assert [name for name, _ in refused] == ["composite", "composite"]
    assert all("cuDevicePrimaryCtxRetain failed: unknown error (2)" in why for _, why in refused)
    assert chosen == "cuda", reason


@NO_GPU
def test_without_a_driver_cuda_is_refused_with_the_reason() -> None:
    with pytest.raises(RuntimeError, match=r"^no CUDA driver \(libcuda\.so\.1: cannot open shared object file"):
        _core.backend_for("cuda", "bfloat16", "cuda")
    chosen, why = _core.backend_for("cuda", "bfloat16", "auto")
    assert chosen == "composite"
    assert why.startswith("torch's operations, in chunks: no fused kernel for cuda: no CUDA driver (libcuda.so.1")


def test_who_computes() -> None:
    assert _core.backend_for("cpu", "float16", "auto") == ("cpu", "the fused kernel runs on CPU tensors")
    assert _core.backend_for("cpu", "float32", "composite") == ("composite", "asked for")
    assert _core.backend_for("cpu", "float32", "emulated") == ("emulated", "asked for")
    composite = "torch's operations, in chunks: "
    assert _core.backend_for("cuda:3", "float64", "auto") == (
        "composite",
        composite + "float64 has no fused kernel on GPUs",
    )
    assert _core.backend_for("xpu:0", "float32", "auto") == ("composite", composite + "no fused kernel for xpu:0")
    assert _core.backend_for("mps", "float32", "auto") == ("composite", composite + "no fused kernel for mps")


@pytest.mark.parametrize(
    ("device", "backend", "expected"),
    [("cuda:0", "cpu", "CPU"), ("mps", "emulated", "CPU"), ("cpu", "cuda", "CUDA"), ("cuda:x", "cuda", "CUDA")],
)
def test_a_backend_for_other_tensors_is_refused(device: str, backend: str, expected: str) -> None:
    text = f'^expected {expected} tensors for `backend` "{backend}", but got tensors on {device}$'
    with pytest.raises(ValueError, match=text):
        _core.backend_for(device, "float32", backend)


def test_cuda_on_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEX_SSL_BACKEND", "cuda")
    with pytest.raises(ValueError, match=r'^expected CUDA tensors for `backend` "cuda", but got tensors on cpu$'):
        functional.hex_loss(*torch.randn(2, 8, 4))


def test_the_emulator_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEX_SSL_BACKEND", "emulated")
    monkeypatch.delenv("HEX_SSL_CUDA_EMULATOR", raising=False)
    z1, z2 = torch.randn(2, 8, 4)
    with pytest.raises(ValueError, match=r"^expected HEX_SSL_CUDA_EMULATOR to name the emulator's library, but it is"):
        functional.hex_loss(z1, z2)
    monkeypatch.setenv("HEX_SSL_CUDA_EMULATOR", str(tmp_path / "none.so"))
    with pytest.raises(RuntimeError, match=r"none\.so"):
        functional.hex_loss(z1, z2)
    with pytest.raises(
        ValueError, match=r"^the CUDA kernels compute in float32, bfloat16 and float16, not in float64$"
    ):
        functional.hex_loss(z1.double(), z2.double())


def test_every_kernel_waits_for_the_one_before() -> None:
    # Where launches overlap, what a kernel reads before may be unwritten.
    kernels = re.findall(r"^KERNEL\(.*\) (\w+)\(.*\) \{\n(.*)\n", _core.cuda_sources(), re.MULTILINE)
    assert len(kernels) == _core.cuda_sources().count("\nKERNEL(") > 30
    assert [name for name, first in kernels if first.strip() != "begin();"] == []


def test_wgmma_is_a_yes_or_a_no(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(torch.float32, 64)
    monkeypatch.setenv("HEX_SSL_CUDA_WGMMA", "yes")
    with pytest.raises(ValueError, match=r'^expected HEX_SSL_CUDA_WGMMA to be 0 or 1, but got "yes"$'):
        functional.hex_loss(*torch.randn(2, 8, 64))


def test_each_reason_is_told_once() -> None:
    code = """
    import json, warnings
    import os
    import torch
    import hex_ssl
    from hex_ssl import dispatch
    from hex_ssl.operands import quantile_operands
    views = list(torch.empty(2, 6, 4, device="meta"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            dispatch.row_quantiles(quantile_operands(views, None, None, 0, 0.9))
        os.environ["HEX_SSL_BACKEND"] = "composite"
        dispatch.row_quantiles(quantile_operands([view.double() for view in views], None, None, 0, 0.9))
    shown = hex_ssl.show_config()
    print(json.dumps([[str(each.message), each.category.__name__] for each in caught]))
    print(json.dumps([dispatch.fallbacks(), {name: shown[name] for name in shown if "fallback" in name}]))
    """
    code = "\n".join(line.removeprefix("    ") for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, warned, config = done.stdout.splitlines()
    reason = "no fused kernel for meta"
    assert json.loads(warned) == [[f"hex_ssl computes with torch's operations, in chunks: {reason}", "RuntimeWarning"]]
    assert json.loads(config) == [[reason], {"fallback 1": reason}]


@pytest.fixture
def _precision() -> Iterator[None]:
    """Leave torch's setting as it is by default, readable by its older name too."""
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.usefixtures("_precision")
def test_tf32_is_torchs_decision() -> None:
    rows = torch.zeros(1, 1)
    assert not dispatch.allows_tf32(rows, dispatch.EMULATED)
    torch.set_float32_matmul_precision("high")
    assert dispatch.allows_tf32(rows, dispatch.EMULATED)
    assert not dispatch.allows_tf32(rows.bfloat16(), dispatch.EMULATED)
    torch.set_float32_matmul_precision("highest")
    assert not dispatch.allows_tf32(rows, dispatch.EMULATED)
    torch.backends.cuda.matmul.allow_tf32 = True
    assert dispatch.allows_tf32(rows, dispatch.EMULATED)
    torch.backends.cuda.matmul.allow_tf32 = False
    assert not dispatch.allows_tf32(rows, dispatch.EMULATED)
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch 2.9 and later
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert dispatch.allows_tf32(rows, dispatch.EMULATED)


def test_show_config_tells_of_every_device(capsys: pytest.CaptureFixture[str]) -> None:
    shown = hex_ssl.show_config()
    gpus = [f"backend on cuda:{index}" for index in range(torch.cuda.device_count())] or ["backend on cuda"]
    assert [name for name in shown if name.startswith("backend on")] == ["backend on cpu", *gpus]
    assert all(shown[name].split(":")[0] in ("cpu", "cuda", "composite", "none") for name in ["backend on cpu", *gpus])


# The whole way from the module to the kernels and back, these emulated: what a GPU would launch is in
# `test_cuda_emulation.py`, what is around it here.


def trained(loss: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The loss, and the gradients of the inputs that require one, of a sum that tells anchors apart."""
    leaves = [each.detach().clone().requires_grad_(each.requires_grad) for each in inputs]
    found = loss(*leaves)
    (found * torch.linspace(0.5, 1.5, steps=found.numel()).view_as(found)).sum().backward()
    return [found.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def assert_same(found: list[Tensor], expected: list[Tensor], error: float = 1e-5) -> None:
    """Every tensor is the other one, but for rounding."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours.double() - theirs.double()).norm() <= error * theirs.double().norm()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])
def test_a_module_on_the_kernels(dtype: torch.dtype, error: float, reduction: str, emulate: Emulate) -> None:
    z1, z2 = (each.to(dtype).requires_grad_() for each in torch.randn(2, 40, 50))
    threshold = hex_ssl.thresholds.AdaptiveThreshold(0.9)
    criterion = hex_ssl.HexLoss(temperature=0.2, threshold=threshold, reduction=reduction)
    expected = trained(criterion, z1, z2)
    statistics = torch.stack(criterion.statistics)
    emulate(dtype, 64)
    assert_same(trained(criterion, z1, z2), expected, error)
    torch.testing.assert_close(torch.stack(criterion.statistics), statistics, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("requiring", [(True, True, True), (True, False, False), (False, True, False)])
def test_the_gradients_that_are_asked_for(requiring: tuple[bool, ...], emulate: Emulate) -> None:
    sizes = (12, 50, 12)
    inputs = [torch.randn(size, 33).requires_grad_(wanted) for size, wanted in zip(sizes, requiring, strict=True)]

    def loss(anchors: Tensor, keys: Tensor, positives: Tensor) -> Tensor:
        return functional.hex_loss_with_keys(anchors, keys, positives=positives, threshold="supervised", **labels)

    labels = {"anchor_labels": torch.arange(24)[::2] % 3, "key_labels": torch.arange(50) % 3}
    expected = trained(loss, *inputs)
    assert len(expected) == 1 + sum(requiring)
    emulate(torch.float32, 64)
    assert_same(trained(loss, *inputs), expected)


def test_views_that_do_not_lie_row_by_row(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    z1, z2 = torch.randn(60, 2, 30).permute(1, 2, 0)  # columns of a larger array
    assert z1.stride() == (1, 60)
    backward = torch.randn(30, 120, dtype=torch.complex64).conj().imag[:, ::2]
    assert backward.is_neg()
    for views in ((z1, z2), (z1, backward)):
        emulate(torch.float32, 64)
        found = functional.hex_loss(*views)
        monkeypatch.setenv("HEX_SSL_BACKEND", "cpu")
        assert_same([found], [functional.hex_loss(*views)])


def test_quantiles_of_rows(emulate: Emulate) -> None:
    z1, z2 = torch.randn(2, 40, 64)
    expected = ops.row_quantiles([z1, z2], None, None, 0, 0.9)
    apart = ops.row_quantiles([z1], z2, z1 + z2, 0, 0.5)
    emulate(torch.float32, 64)
    torch.testing.assert_close(ops.row_quantiles([z1, z2], None, None, 0, 0.9), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(ops.row_quantiles([z1], z2, z1 + z2, 0, 0.5), apart, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_compile_fullgraph(emulate: Emulate) -> None:
    emulate(torch.float32, 64)
    torch._dynamo.reset()
    criterion = hex_ssl.HexLoss()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    for samples in (40, 33):
        z1, z2 = torch.randn(2, samples, 64).requires_grad_()
        assert_same(trained(compiled, z1, z2), trained(criterion, z1, z2))


def test_autocast_takes_rows_as_they_are(emulate: Emulate) -> None:
    # As tensor cores are reported to round, the same rows in float32 give other bits.
    for dtype in (torch.float32, torch.bfloat16):
        emulate(dtype, 64, schedule=Schedule(seed=1, extra_bits=1))
    rows = torch.randn(2, 40, 64).bfloat16()
    losses = []
    for z1, z2 in (rows, rows.float()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(functional.hex_loss(z1, z2, reduction="none"))
        assert losses[-1].dtype == torch.float32
        assert torch.equal(losses[-1], functional.hex_loss(z1, z2, reduction="none"))
    assert not torch.equal(*losses)


def test_a_second_derivative_is_refused(emulate: Emulate) -> None:
    emulate(torch.float32, 64)
    z1, z2 = torch.randn(2, 12, 64).requires_grad_()
    (gradient,) = torch.autograd.grad(functional.hex_loss(z1, z2), z1, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.square().sum().backward()


@pytest.mark.usefixtures("_precision")
def test_tf32_reaches_the_kernels(emulate: Emulate) -> None:
    emulate(torch.float32, 64)
    emulate(torch.float32, 64, "TF32")
    views = list(torch.randn(2, 12, 64))

    def quantiles() -> Tensor:
        return ops.row_quantiles(views, None, None, 0, 0.9)

    exact = [functional.hex_loss(*views), quantiles()]
    torch.backends.cuda.matmul.allow_tf32 = True
    rounded = [functional.hex_loss(*views), quantiles()]
    for ours, theirs in zip(rounded, exact, strict=True):
        assert not ours.equal(theirs)
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)


BENCHES = Path(__file__).parents[1] / "benches"


def test_kernels_compiled_ahead_are_found_on_another_machine(compiled: Path, tmp_path: Path) -> None:
    (tmp_path / "cubins").mkdir()
    shutil.copy(compiled, tmp_path / "cubins")
    prepare = "import sys; from pathlib import Path; from gpu import prepared; "
    prepare += "prepared.compile_all(Path('cubins'), ['9.0'], [('bfloat16', False, 32)]); print(prepared.state())"
    packages = Path(_core.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHES), str(packages)])}
    done = subprocess.run(
        [sys.executable, "-c", prepare], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        f"9.0, bfloat16, 32 dimensions: {len(compiled.read_bytes()[:-32]) / 1e3:.0f} KB, there already",
        "{'matches': True, 'reason': '', 'files': 1}",
    ], done.stderr
    # As they travel: package and cache elsewhere, another home, another folder to work in.
    there = tmp_path / "there"
    shutil.copytree(packages / "hex_ssl", there / "python" / "hex_ssl")
    shutil.move(tmp_path / "cubins", there / "cubins")
    code = "import torch; from hex_ssl import _core; "
    code += "print(_core.cuda_cubin((9, 0), 32, 'bfloat16', False)[1], _core.__file__)"
    names = {"PYTHONPATH": "python", "HEX_SSL_CACHE": "cubins"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(there), **{k: str(there / v) for k, v in names.items()}}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.stdout == f"True {there}/python/hex_ssl/{Path(_core.__file__).name}\n", done.stderr


@pytest.mark.parametrize("kernel", ["sums", "pulls"])
def test_the_triton_peer_compiles_for_a_gpu_that_is_not_there(kernel: str, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    code = f"""
import inspect, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton_kernels import {kernel} as kernel
given = {{"unit": "*bf16", "inverse": "*fp32", "partial": "*fp32", "scale": "fp32"}}
constants = {{
    "rows": 8192, "dims": 128, "splits": 2, "precision": "tf32", "block_rows": 64, "block_columns": 64
}}
signature = {{name: given.get(name, "constexpr") for name in kernel.arg_names}}
places = {{(kernel.arg_names.index(name),): value for name, value in constants.items()}}
# Triton 3.2 has other names.
found = {{"constexprs": places, "constants": {{kernel.arg_names[at]: value for (at,), value in places.items()}}}}
taken = {{name: found[name] for name in inspect.signature(ASTSource).parameters if name in found}}
source = ASTSource(fn=kernel, signature=signature, **taken)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={{"num_warps": 4, "num_stages": 3}})
print("wgmma" in compiled.asm["ptx"])
"""
    environment = {**os.environ, "PYTHONPATH": str(BENCHES), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
