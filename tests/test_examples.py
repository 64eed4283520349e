"""Every example runs in its short mode and prints what it should."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*command: str) -> str:
    """The output of a Python command that must succeed without a warning."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tensors", r"loss \d\.\d+, gradient torch\.Size\(\[128, 32\]\)\nthreshold: 0\.\d+"),
        ("simclr", r"epoch 0: loss \d\.\d+, threshold 0\.\d+\nk-NN accuracy: \d+\.\d%"),
        ("with_lightly", r"epoch 0: loss \d\.\d+"),
        ("with_pytorch_metric_learning", r"loss \d\.\d+, precision at 1: \d+\.\d%"),
    ],
)
def test_example(name: str, says: str) -> None:
    options = [] if name == "tensors" else ["--quick"]
    assert re.search(says, run(str(EXAMPLES / f"{name}.py"), *options))


def test_two_processes_equal_one() -> None:
    said = run("-m", "torch.distributed.run", "--nproc-per-node", "2", str(EXAMPLES / "two_processes.py"))
    found = re.search(r"2 processes: loss ([\d.]+); one: ([\d.]+); gradients differ by ([\d.e-]+)", said)
    assert found
    assert float(found[1]) == pytest.approx(float(found[2]), rel=1e-5)
    assert float(found[3]) < 1e-6


def test_every_example_is_tested() -> None:
    tested = {"tensors", "simclr", "with_lightly", "with_pytorch_metric_learning", "two_processes"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested
