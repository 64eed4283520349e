"""Step: `python -m gpu.sanitizer TOOL ROWS...`: compute-sanitizer over every kernel, on a bare script.

Without arguments: whether the bare script launches every kernel, by torch's profiler.
"""

import re
import sys

from gpu import bare, toolbox
from gpu.records import REHEARSAL, emit
from gpu.workload import kernel_times
from hex_ssl import _core


def kernels() -> set[str]:
    """The names of all kernels, from their sources."""
    return set(re.findall(r"^KERNEL\([^)]*\) (\w+)", _core.cuda_sources(), re.MULTILINE))


def check_coverage() -> None:
    """Which kernels the script launches; on the CPU it launches none."""
    rows = "64" if REHEARSAL else "2050"
    launched = kernel_times(lambda: bare.main(["--every", rows]), calls=1)
    emit("coverage", kernels=len(kernels()), missing=sorted(kernels() - launched.keys()))


def check(name: str, sizes: list[str]) -> None:
    """One of the tools."""
    tool = toolbox.find("compute-sanitizer")
    if tool is None:
        emit("note", text=f"no compute-sanitizer here: {name} was not run")
        return
    # Each tensor an allocation of its own: torch's store would hide an address beyond one.
    command = [tool, "--tool", name, "--error-exitcode", "9", *toolbox.bare("--every", *sizes)]
    code, output = toolbox.run(command, 300, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    summary = [line.strip("= ") for line in output.splitlines() if "SUMMARY" in line]
    clean: bool | None = code == 0 and bool(summary)
    if code == 124 and "========= " not in output.partition("COMPUTE-SANITIZER")[2]:
        clean, output = None, f"no error until its time was over: {output[-1000:]}"
    emit(
        "sanitizer", tool=name, rows=sizes, clean=clean, exit=code, summary=summary, said="" if clean else output[:2000]
    )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        check_coverage()
    else:
        check(sys.argv[1], ["64"] if REHEARSAL else sys.argv[2:])
