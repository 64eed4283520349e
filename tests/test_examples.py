"""Every example runs in its short mode and prints what it should; the notebook, what is stored in it."""

import importlib.util
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(*command: str) -> str:
    """The output of a Python command that must succeed without a warning."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


SAYS = {
    "tensors": r"loss \d\.\d+, gradient torch\.Size\(\[128, 32\]\)\nthreshold: 0\.\d+",
    "simclr": r"epoch 0: loss \d\.\d+, threshold 0\.\d+\nk-NN accuracy: \d+\.\d%",
    "with_lightly": r"epoch 0: loss \d\.\d+",
    "with_pytorch_metric_learning": r"HexLoss: loss \d\.\d+, precision at 1: \d+\.\d%\n"
    r"SupConLoss: loss \d\.\d+, precision at 1: \d+\.\d%\n.*: SupConLoss (\S+), pytorch-metric-learning's (\S+)\n",
    "with_open_clip": r"loss (\S+), open_clip's (\S+)\nloss \d\.\d+, scale \d+\.\d+, zero-shot accuracy \d+\.\d%",
    "with_sentence_transformers": r"loss (\S+), sentence-transformers' (\S+)\nloss \d+\.\d+, answers found \d+\.\d%",
    "with_hugging_face_clip": r"loss (\S+), CLIPModel's (\S+)\nloss \d\.\d+, zero-shot accuracy \d+\.\d%",
}
"""What each example prints. Two groups are the losses of both packages on the same input."""
NEEDS = {
    "with_lightly": "lightly",
    "with_pytorch_metric_learning": "pytorch_metric_learning",
    "with_open_clip": "open_clip",
    "with_sentence_transformers": "sentence_transformers",
    "with_hugging_face_clip": "transformers",
}


@pytest.mark.parametrize("name", SAYS)
def test_example(name: str) -> None:
    if name in NEEDS and find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    options = [] if name == "tensors" else ["--quick"]
    found = re.search(SAYS[name], said := run(str(EXAMPLES / f"{name}.py"), *options))
    assert found, said
    if found.groups():
        ours, theirs = map(float, found.groups())
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_two_processes_equal_one() -> None:
    said = run("-m", "torch.distributed.run", "--nproc-per-node", "2", str(EXAMPLES / "two_processes.py"))
    found = re.search(r"2 processes: loss ([\d.]+); one: ([\d.]+); gradients differ by ([\d.e-]+)", said)
    assert found
    assert float(found[1]) == pytest.approx(float(found[2]), rel=1e-5)
    assert float(found[3]) < 1e-6


def test_the_notebook_prints_and_draws_what_is_stored_in_it() -> None:
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs/build/notebook.py")
    assert spec is not None
    assert spec.loader is not None
    notebook: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notebook)
    path = EXAMPLES / "quickstart.ipynb"
    assert path.stat().st_size < 200_000
    stored = notebook.read(path)["cells"]
    found = notebook.run(stored)
    pictures = 0
    for kept, cell in zip(stored, found, strict=True):
        for old, new in zip(kept.get("outputs", []), cell.get("outputs", []), strict=True):
            assert old["output_type"] == new["output_type"]
            if old["output_type"] == "stream":
                (expected_words, expected), (words, numbers) = (apart("".join(each["text"])) for each in (old, new))
                assert words == expected_words
                assert numbers == pytest.approx(expected, rel=0.05)  # another processor rounds otherwise
            else:
                pictures += 1
                assert all(each["data"]["image/png"].startswith("iVBORw0KGgo") for each in (old, new))
    assert pictures == 3


def apart(text: str) -> tuple[list[str], list[float]]:
    """A text without its numbers, and these."""
    number = r"\d+(?:\.\d+)?"
    return re.split(number, text), [float(each) for each in re.findall(number, text)]


def test_every_example_is_tested_and_in_the_gallery() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*SAYS, "two_processes"}
    shown = re.findall(r"\]\(\.\./examples/(.+?)\)", (ROOT / "docs/examples.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(path.name for path in EXAMPLES.iterdir() if path.is_file())
