"""The benchmark of the training loop runs on a CPU with the settings for a GPU."""

import re
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "benches" / "train.py"


def test_the_bench_of_a_gpu_runs_dry() -> None:
    as_on_a_gpu = ["--bf16", "--channels-last", "--compile", "--backend", "aot_eager"]
    command = [sys.executable, str(BENCH), "--quick", "--device", "cpu", *as_on_a_gpu, "--backbone", "small_resnet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"^\| (.+?) \| ([\d.,]+) \|", done.stdout, re.MULTILINE))
    contenders = {"bare step", "loop, views on the device", "loop, views in the workers", "loop in lightly's way"}
    assert rows.keys() >= contenders | {"data", "views", "network", "loss", "loss, NT-Xent", "optimizer"}
    assert all(float(rows[name].replace(",", "")) > 0 for name in contenders)
    assert re.search(
        r"Targets on an H100: 85% of the bare step's rate, found \d+%; 40,000 views/s .* [\d,]+", done.stdout
    )
