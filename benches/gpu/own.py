"""Step: `python -m gpu.own`: HexLoss at all sizes, on shuffled and on periodic data.

Time eager and as a CUDA graph, by kernel, memory above the inputs, and rows that the search missed.
"""

import argparse
from functools import partial
from itertools import product

from torch import Tensor

from gpu.missed import missed_rows, reran
from gpu.records import REHEARSAL, emit, left
from gpu.workload import (
    SIZES,
    captured,
    clear,
    hex_loss,
    kernel_times,
    milliseconds,
    peak_bytes,
    precision,
    step,
    views,
)


def measure(rows: int, dtype: str, data: str, dims: int = 128) -> dict[str, object]:
    """Everything about one shape."""
    with precision(dtype):
        inputs = views(rows, dtype, data, dims)
        loss = hex_loss()
        run = partial(step, loss, *inputs)
        value: Tensor = run()
        missed, reason = missed_rows(run)
        seconds = 0.4 if left() > 20 else 0.1
        found = {
            "rows": rows,
            "dims": dims,
            "dtype": dtype,
            "data": data,
            "loss": value.item(),
            "eager_ms": milliseconds(run, seconds),
            "graph_ms": milliseconds(captured(loss, *inputs), seconds),
            "kernels": kernel_times(run),
            "missed": missed,
            "missed_reason": reason,
            "reran": reran(run),
        }
        for each in inputs:
            each.grad = None
        found["bytes"] = peak_bytes(run)
    return found


def main() -> None:
    """What is asked for, as long as time lasts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    parser.add_argument("--data", nargs="+", default=["shuffled", "periodic"])
    parser.add_argument("--dims", type=int, default=128)
    asked = parser.parse_args()
    sizes = [64] if REHEARSAL else asked.rows
    for dtype, rows, data in product(asked.dtypes, sizes, asked.data):
        if left() < 3:
            emit("note", text=f"{dtype} at {rows} rows, {data}: no time left")
            continue
        emit("own", **measure(rows, dtype, data, asked.dims))
        clear()


if __name__ == "__main__":
    main()
