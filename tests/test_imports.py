"""The modules that `import hex_ssl` loads, and its error for another version of torch."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import hex_ssl
from hex_ssl import _core
from hex_ssl._torch_version import OLDEST_TORCH, check_torch_version


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
    )


def test_import_needs_torch_and_numpy_only() -> None:
    finished = run(
        """
        import sys
        import numpy, torch, torch.distributed
        before = set(sys.modules)
        import hex_ssl, hex_ssl.queue, hex_ssl.momentum, hex_ssl.gradient_cache
        print(*(name for name in sys.modules if name.startswith("hex_ssl.train")))
        packages = {name.split(".")[0] for name in set(sys.modules) - before}
        print(*sorted(packages - set(sys.stdlib_module_names) - {"torch", "numpy", "hex_ssl"}))
        heavy = {"torchvision", "lightning", "sklearn", "matplotlib", "pandas", "jsonargparse", "torchmetrics", "rich"}
        print(*sorted(heavy & {name.split(".")[0] for name in sys.modules}))
        """
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == []


def test_import_is_quick_and_starts_no_threads() -> None:
    # Quick beside torch's own import, in the processor's time of both.
    finished = run(
        """
        import threading, time
        start = time.process_time()
        import torch
        torchs, threads = time.process_time() - start, threading.active_count()
        import hex_ssl
        print((time.process_time() - start - torchs) / torchs, threading.active_count() - threads)
        """
    )
    assert finished.returncode == 0, finished.stderr
    share, threads = finished.stdout.split()
    assert float(share) < 0.5
    assert threads == "0"


@pytest.mark.parametrize("first", ["import hex_ssl, torch", "import torch, hex_ssl", "import hex_ssl.losses, torch"])
def test_names_exist_whether_torch_or_hex_ssl_is_imported_first(first: str) -> None:
    finished = run(
        f"""
        {first}
        assert set(hex_ssl.__all__) <= set(dir(hex_ssl))
        for name in hex_ssl.__all__:
            assert getattr(hex_ssl, name) is getattr(hex_ssl, name), name
        from hex_ssl import HexLoss, functional, losses, thresholds
        print(hex_ssl.__version__, HexLoss()(torch.eye(4), torch.eye(4)).ndim, functional.hex_loss is hex_ssl.hex_loss)
        try:
            hex_ssl.HexLos
        except AttributeError as error:
            print(error)
        """
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [
        f"{hex_ssl.__version__} 0 True",
        "module 'hex_ssl' has no attribute 'HexLos'",
    ]


def test_an_old_torch_is_refused_before_the_library_is_loaded() -> None:
    finished = run(
        """
        import sys
        import torch
        torch.__version__ = "2.5.1+cpu"
        try:
            import hex_ssl
        except ImportError as error:
            print(error)
            print("hex_ssl._core" in sys.modules)
        """
    )
    assert finished.returncode == 0, finished.stderr
    message, loaded = finished.stdout.splitlines()
    assert message == (
        'hex_ssl needs torch 2.6 or later, but torch 2.5.1+cpu is installed; run: pip install "torch>=2.6"'
    )
    assert loaded == "False"


def test_linked_against_one_torch_only_its_builds_are_accepted() -> None:
    for local in ("", "+cpu", "+cu130", "+rocm7.1"):
        check_torch_version("2.11.0" + local, linked="2.11.0")
    for other in ("2.11.1", "2.1.0", "2.12.0.dev20260101", "2.110.0"):
        with pytest.raises(ImportError, match=r"built for torch 2\.11\.0, but torch .* pip install torch==2\.11\.0"):
            check_torch_version(other, linked="2.11.0")


def test_linked_against_none_every_torch_from_the_oldest_on_is_accepted() -> None:
    for installed in (f"{OLDEST_TORCH}.0", "2.6.0a0+git1234", "2.11.0+cpu", "2.100.0.dev20260101", "3.0.0"):
        check_torch_version(installed)
    for old in ("2.5.1", "1.13.1+cu117"):
        with pytest.raises(ImportError, match="needs torch 2.6 or later, but torch .* is installed"):
            check_torch_version(old)


def test_an_extension_without_its_libtorch_is_explained(tmp_path: Path) -> None:
    package = Path(hex_ssl.__file__).parent
    shutil.copytree(package, tmp_path / "hex_ssl", ignore=shutil.ignore_patterns("_core.*so", "__pycache__"))
    (tmp_path / "hex_ssl" / "_core.py").write_text("raise ImportError('libtorch.so: undefined symbol: at_abs')")
    finished = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from hex_ssl import HexLoss")
    assert "was built for another torch than the installed" in finished.stderr
    assert "(libtorch.so: undefined symbol: at_abs); in a checkout, run: maturin develop --release" in finished.stderr


def test_public_names_exist() -> None:
    for name in hex_ssl.__all__:
        assert hasattr(hex_ssl, name), name
    for name in ("HexLoss", "NTXentLoss", "HCLLoss", "DCLLoss", "functional", "thresholds", "show_config"):
        assert hasattr(hex_ssl, name), name


def test_the_extension_names_its_border() -> None:
    linked = {"dlpack": None, "tch": "2.11.0"}
    assert linked[_core.BORDER] == _core.TORCH_VERSION
    assert hex_ssl.__version__ == _core.__version__


def test_show_config_names_versions_and_backend(capsys: pytest.CaptureFixture[str], backend: str) -> None:
    shown = hex_ssl.show_config()
    text = capsys.readouterr().out
    assert text == "".join(f"{name}: {value}\n" for name, value in shown.items())
    assert shown["hex_ssl"] == hex_ssl.__version__
    assert shown["torch"] == torch.__version__
    assert shown["border"].startswith(f"{_core.BORDER}, for torch 2.")
    assert shown["HEX_SSL_BACKEND"] == backend
    assert shown["backend on cpu"] == f"{backend}: asked for"


READ = """
import torch

if {hide}:  # as in torch 2.9 and before
    del torch.Tensor.__dlpack_c_exchange_api__
capsules = []
make = torch.utils.dlpack.to_dlpack
torch.utils.dlpack.to_dlpack = lambda tensor: (capsules.append(tensor), make(tensor))[1]
from hex_ssl.functional import hex_loss

z = torch.linspace(-1, 1, 240).sin().reshape(6, 5, 8)[:, ::2, 1:].requires_grad_()
loss = hex_loss(*z.unbind(1)[:2], temperature=torch.tensor(0.2))
loss.backward()
print(len(capsules) > 0, loss.item().hex(), z.grad.double().norm().item().hex())
"""


@pytest.mark.skipif(
    _core.BORDER != "dlpack" or not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"),
    reason="this torch has no exchange functions, or the extension does not use them",
)
def test_tensors_are_read_without_capsules_if_torch_can() -> None:
    finished = [run(READ.format(hide=hide)) for hide in (True, False)]
    assert all(each.returncode == 0 for each in finished), [each.stderr for each in finished]
    (by_capsule, *expected), (still_by_capsule, *found) = (each.stdout.split() for each in finished)
    assert (by_capsule, still_by_capsule) == ("True", "False")
    assert found == expected
