"""Step: `python -m gpu.sanitizer TOOL ROWS...`: compute-sanitizer over every kernel, on a bare script.

`python -m gpu.sanitizer coverage ROWS...`: whether the bare script launches every kernel, by torch's profiler, and
gives work to those that return at once where there is none.
"""

import re
import sys
from functools import partial

from gpu import bare, missed, toolbox
from gpu.records import REHEARSAL, emit
from gpu.toolbox import TIME_OVER
from gpu.workload import kernel_times
from hex_ssl import _core
from tests.ptx.kernels import kernel_names


def kernels() -> set[str]:
    """The names of all kernels, from their sources."""
    return set(kernel_names(_core.cuda_sources()))


SEARCH_ALL, SUM_AGAIN = {"select_failed", "select_wgmma"}, {"sums", "sums_wgmma"}
"""They return at once unless the sampled search missed rows, or one pass for quantiles and sums did not suffice."""


def idle(missed_any: bool, reran_any: bool) -> set[str]:
    """The kernels that a script only launches, by what its evaluations tell."""
    return (set() if missed_any else SEARCH_ALL) | (set() if reran_any else SUM_AGAIN)


def check_coverage(sizes: list[str]) -> None:
    """Which kernels the script does not launch, or gives no work; on the CPU it launches none."""
    script = partial(bare.main, ["--every", *sizes])
    working = kernel_times(script, calls=1).keys() - idle(*missed.ever(script))
    emit("coverage", kernels=len(kernels()), missing=sorted(kernels() - working))


def verdict(code: int, output: str) -> bool | None:
    """Whether a tool found nothing; None where it did not see the script to its end, and found nothing until then."""
    said = [line for line in output.splitlines() if line.startswith("========= ")]
    summary = [line for line in said if "SUMMARY: " in line]
    if code == TIME_OVER:
        return False if any("COMPUTE-SANITIZER" not in line for line in said) else None
    if any(not re.search(r"SUMMARY: 0 (error|hazard)s", line) for line in summary):
        return False
    # A tool that missed the script, or that the card refused, sums up no errors too.
    return True if code == 0 and summary and bare.ENDED in output else None


def check(name: str, sizes: list[str]) -> None:
    """One of the tools."""
    tool = toolbox.find("compute-sanitizer")
    if tool is None:
        emit("note", text=f"no compute-sanitizer here: {name} was not run")
        return
    # torch takes seconds to load, for which the tool does not wait by itself. It asks the driver for functions that are
    # not there, which is no error.
    command = [tool, "--tool", name, "--launch-timeout", "0", "--report-api-errors", "no", "--error-exitcode", "9"]
    if name == "racecheck":  # which else takes all threads of the CPU, those of the steps beside it too
        command += ["--racecheck-num-workers", "2"]
    # Each tensor an allocation of its own: torch's store would hide an address beyond one.
    command += toolbox.bare("--every", *sizes)
    code, output = toolbox.run(command, 300, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    print(output)
    clean = verdict(code, output)
    summary = [line.strip("= ") for line in output.splitlines() if "SUMMARY" in line]
    said = "" if clean else output[-2000:] if clean is None else output[:2000]
    emit("sanitizer", tool=name, rows=sizes, clean=clean, exit=code, summary=summary, said=said)


def main(name: str, sizes: list[str]) -> None:
    """The coverage, or one of the tools."""
    sizes = ["64"] if REHEARSAL else sizes
    if name == "coverage":
        check_coverage(sizes)
    else:
        check(name, sizes)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
