"""What `import hex_ssl` brings in, and what it says to another torch."""

import subprocess
import sys
import textwrap

import pytest

import hex_ssl
from hex_ssl._torch_version import TORCH_VERSION, check_torch_version


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_import_needs_torch_and_numpy_only() -> None:
    finished = run(
        """
        import sys
        import numpy, torch, torch.distributed
        before = set(sys.modules)
        import hex_ssl
        packages = {name.split(".")[0] for name in set(sys.modules) - before}
        print(*sorted(packages - set(sys.stdlib_module_names) - {"torch", "numpy", "hex_ssl"}))
        heavy = {"torchvision", "lightning", "sklearn", "matplotlib", "pandas", "jsonargparse", "torchmetrics", "rich"}
        print(*sorted(heavy & {name.split(".")[0] for name in sys.modules}))
        """
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == []


def test_import_is_quick_and_starts_no_threads() -> None:
    finished = run(
        """
        import threading, time
        import torch
        threads = threading.active_count()
        start = time.perf_counter()
        import hex_ssl
        print(time.perf_counter() - start, threading.active_count() - threads)
        """
    )
    assert finished.returncode == 0, finished.stderr
    seconds, threads = finished.stdout.split()
    assert float(seconds) < 2.0
    assert threads == "0"


def test_another_torch_is_refused_before_the_library_is_loaded() -> None:
    finished = run(
        """
        import sys
        import torch
        torch.__version__ = "2.10.0+cpu"
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
        f"hex_ssl was built for torch {TORCH_VERSION}, but torch 2.10.0+cpu is installed; "
        f"run: pip install torch=={TORCH_VERSION}"
    )
    assert loaded == "False"


def test_builds_of_the_right_torch_are_accepted() -> None:
    for local in ("", "+cpu", "+cu130", "+rocm7.1"):
        check_torch_version(TORCH_VERSION + local)
    for other in ("2.11.1", "2.1.0", "2.12.0.dev20260101", "2.110.0"):
        with pytest.raises(ImportError, match="pip install"):
            check_torch_version(other)


def test_public_names_exist() -> None:
    for name in hex_ssl.__all__:
        assert hasattr(hex_ssl, name), name
    for name in ("HexLoss", "NTXentLoss", "HCLLoss", "DCLLoss", "functional", "thresholds", "show_config"):
        assert hasattr(hex_ssl, name), name


def test_the_extension_and_the_package_name_one_torch() -> None:
    from hex_ssl import _core

    assert _core.TORCH_VERSION == TORCH_VERSION
    assert hex_ssl.__version__ == _core.__version__


def test_show_config_names_versions_and_backend(capsys: pytest.CaptureFixture[str], backend: str) -> None:
    shown = hex_ssl.show_config()
    text = capsys.readouterr().out
    assert text == "".join(f"{name}: {value}\n" for name, value in shown.items())
    assert shown["hex_ssl"] == hex_ssl.__version__
    assert TORCH_VERSION in shown["torch"]
    assert shown["HEX_SSL_BACKEND"] == backend
    assert shown["backend on cpu"] == f"{backend}: asked for"
