"""Step: `python -m gpu.counters [ROWS]`: what bounds the heaviest kernels, by ncu's counters."""

import sys

from gpu import toolbox
from gpu.records import REHEARSAL, emit

KERNELS = "rows|sample|sift|survivors|gather|pick|sums|gradient"
METRICS = {
    "gpu__time_duration.sum": "ns",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm %",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active": "tensor %",
    "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active": "exponentials %",
    "sm__inst_issued.avg.pct_of_peak_sustained_active": "issue %",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.avg.pct_of_peak_sustained_elapsed": "shared memory %",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum": "bank conflicts",
    "lts__t_sectors.avg.pct_of_peak_sustained_elapsed": "L2 %",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "memory %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy %",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": "stalled: barrier",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "stalled: memory",
    "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio": "stalled: shared memory",
    "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio": "stalled: arithmetic",
    "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio": "stalled: fixed latency",
}
"""ncu's names, and ours."""
SECTIONS = ["--section", "SpeedOfLight", "--section", "MemoryWorkloadAnalysis", "--section", "WarpStateStats"]


def counters(output: str) -> list[dict[str, object]]:
    """A row for each launch, from ncu's table of a metric a line."""
    found: dict[str, dict[str, object]] = {}
    for row in toolbox.rows_of(output, '"ID"'):
        launch = found.setdefault(row["ID"], {"kernel": row["Kernel Name"].split("(")[0], "grid": row["Grid Size"]})
        try:
            launch[METRICS.get(row["Metric Name"], row["Metric Name"])] = float(row["Metric Value"].replace(",", ""))
        except ValueError:
            continue  # n/a on this chip
    return list(found.values())


def main(rows: str, **told: object) -> None:
    """One bare call under ncu."""
    tool = toolbox.find("ncu")
    if tool is None:
        emit("note", text="no ncu here")
        return
    # The clocks are left as they are.
    command = [tool, "--clock-control", "none", "--csv", "--print-units", "base"]
    command += ["--kernel-name", f"regex:({KERNELS})", "--launch-count", "12"]
    launches: list[dict[str, object]] = []
    for chosen in (["--metrics", ",".join(METRICS)], SECTIONS):  # the second where one of the names is not known
        code, output = toolbox.run([*command, *chosen, *toolbox.bare(rows)], 300)
        print(output)
        launches = counters(output)
        if launches:
            break
    for launch in launches:
        emit("counters", rows=int(rows), **launch, **told)
    if not launches:
        emit("note", text=f"ncu gave nothing (exit {code}): {output[-600:]}")


if __name__ == "__main__":
    main("64" if REHEARSAL else (sys.argv[1:] or ["8192"])[0])
