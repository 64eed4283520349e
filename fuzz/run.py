"""Feeds a target with inputs that coverage guides: `python -m fuzz.run TARGET SECONDS [libFuzzer's options]`.

Inputs that reach something new are kept in `target/fuzz/TARGET`, findings in `target/fuzz/findings/TARGET-*`. The
package, PyYAML, json, zipfile, NumPy's reader of headers and torch's reader of pickles are instrumented; what is
written in C, C++ and Rust runs unguided.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["json", "yaml", "zipfile"]):
    import json
    import zipfile  # noqa: F401

    import yaml  # noqa: F401

import lightning  # noqa: F401  # here, not instrumented: it would take minutes
import numpy as np
import scipy.io  # noqa: F401
import sklearn  # noqa: F401
import torch._weights_only_unpickler as unpickler
import torchvision  # noqa: F401
from PIL import Image

with atheris.instrument_imports(include=["hex_ssl"]):
    from fuzz.targets import SEEDS, TARGETS, run

unpickler.Unpickler.load = atheris.instrument_func(unpickler.Unpickler.load)
np.lib._format_impl._read_array_header = atheris.instrument_func(np.lib._format_impl._read_array_header)

KEPT = Path("target/fuzz")

# A limit that small images reach quickly: the check is the same.
Image.MAX_IMAGE_PIXELS = 10_000_000


def main() -> None:
    """Runs one target."""
    name, seconds, *options = sys.argv[1:]
    if name not in TARGETS:
        raise SystemExit(f"expected a target among {', '.join(TARGETS)}, but got {name}")
    findings = KEPT / "findings"
    for folder in (KEPT / name, findings):
        folder.mkdir(parents=True, exist_ok=True)
    limits = ["-rss_limit_mb=4096", "-malloc_limit_mb=2048", "-timeout=20", "-max_len=16384", "-print_final_stats=1"]
    paths = [f"-artifact_prefix={findings}/{name}-", str(KEPT / name), str(SEEDS / name)]
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", *limits, *options, *paths], lambda data: run(name, data))
    print(json.dumps({"target": name, "seconds": seconds}), flush=True)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
