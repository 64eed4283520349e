"""What was predicted before any GPU had run the kernels, and what they are to reach. Held against what was found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gpu.records import Record, of

MODEL_MS = {512: 0.04, 8192: 0.45, 32768: 4.6, 65536: 17.0}
"""Of the design with mma.sync before its last changes, D = 128, bfloat16, shuffled data: shared memory bounds it, at
1.75 GHz on 132 multiprocessors. With these changes docs/kernels.md predicts 14.5 ms at 65,536 rows."""
MODEL_FEW_MS = {512: 0.031}
"""The same in a graph, with the last changes for few rows: docs/kernels.md tells of each."""
HOST_MS = {512: 0.13}
"""A step outside of a graph, which the host bounds: 105 us with kernels that do nothing, as measured, seven launches of
2.5 us and four allocations of 2 us."""
MODEL_WGMMA_MS = {8192: 0.14, 32768: 1.65, 65536: 6.4}
"""With the kernels for sm_90a throughout, and sums and survivors in one pass."""
MODEL_KERNELS_MS = {"sums": 3.0, "survivors": 3.0, "gradient": 6.2}
"""At 65,536 rows: cycles of shared memory of a tile (1,290 and 2,700) times tiles, by 132 multiprocessors."""
MODEL_JOINT_MS = {"survivors and sums": 6.9, "sift": 4.0}
"""At 65,536 rows, if instructions bound them: 1,530 and 880 for 32 x 32 pairs, in the compiled code. One pass for
quantiles and sums is to take 2 to 3 ms off the call, 0.5 to 0.7 at 32,768 rows, 0.03 to 0.05 at 8,192."""
MODEL_KERNELS_WGMMA_MS = {"sums": 2.0, "gradient": 3.4, "sift": 2.6}
"""At 65,536 rows. One pass for quantiles and sums is to take 0.9 to 1.5 ms off the call, 0.2 to 0.4 at 32,768 rows."""
MODEL_RATES = {"bfloat16": 790e12, "tf32": 395e12, "copy": 4.3e12}
"""FLOP/s and bytes/s."""

CARDS = ("H100", "H200")
"""The cards that the targets of speed are for."""

EAGER = ("eager, topk, where", "eager, topk", "eager, torch.quantile")
COMPILED = ("compiled, topk, where", "compiled, topk")
GRAPHS = ("compiled in a graph, topk, where",)
TRITON = ("Triton tiled InfoNCE",)
DIMS, MATRIX_PRODUCTS = 128, 6
"""The floor is 6 N^2 D operations: similarities once for the sums and once for the gradient, and the gradient."""

Results = list[Record]
Found = tuple[str, bool | None]
"""What was found, and whether the target is met; None where it was not measured."""


def own_ms(results: Results, rows: int, graph: bool = False, step: str = "own times") -> float | None:
    """HexLoss, bfloat16, shuffled."""
    found = of(results, "own", rows=rows, dtype="bfloat16", data="shuffled", dims=DIMS, step=step)
    return next((record["graph_ms" if graph else "eager_ms"] for record in found), None)


def best(results: Results, rows: int, names: tuple[str, ...], dtype: str = "bfloat16") -> float | None:
    """The best time among peers."""
    found = of(results, "peer", rows=rows, dtype=dtype, shape="")
    return min((record["ms"] for record in found if record["name"] in names and "ms" in record), default=None)


def ratio(above: float | None, below: float | None) -> float | None:
    """None where either was not measured."""
    return None if above is None or below is None else above / below


def floor_ms(results: Results, rows: int) -> float | None:
    """6 N^2 D operations at the card's own measured rate."""
    rate = next((record["per_second"] for record in of(results, "rate", what="bfloat16")), None)
    return None if rate is None else 1e3 * MATRIX_PRODUCTS * rows**2 * DIMS / rate


def at_least(value: float | None, least: float, unit: str = "x") -> Found:
    """Judges a number that is to be large."""
    return ("not measured", None) if value is None else (f"{value:.3g} {unit}", value >= least)


def at_most(value: float | None, most: float, unit: str = "x") -> Found:
    """Judges a number that is to be small."""
    return ("not measured", None) if value is None else (f"{value:.3g} {unit}", value <= most)


def agreement(results: Results) -> Found:
    """Every dtype and size, and every repeat."""
    found = list(of(results, "agreement"))
    wrong = [f"{r['dtype']} at {r['rows']}" for r in found if not (r["agrees"] and r["bits_equal"])]
    asked = {("bfloat16", rows) for rows in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)}
    asked |= {(dtype, rows) for dtype in ("float32", "tf32", "float16") for rows in (254, 2050, 8192)}
    lacking = asked - {(r["dtype"], r["rows"]) for r in found}
    if wrong:
        return f"wrong: {', '.join(wrong)}", False
    if lacking:
        return f"{len(found)} right, {len(lacking)} of {len(asked)} not measured", None
    return f"all {len(found)} right", True


def losses(results: Results) -> Found:
    """Two towers, SupCon and a temperature that is a tensor."""
    found = list(of(results, "loss"))
    wrong = [f"{r['name']}, {r['dtype']} at {r['rows']}" for r in found if not r["agrees"]]
    if not found:
        return "not measured", None
    return (f"wrong: {', '.join(wrong)}", False) if wrong else (f"all {len(found)} right", True)


def sanitized(results: Results) -> Found:
    """Both tools, over every kernel."""
    ended = [record for record in of(results, "sanitizer") if record["clean"] is not None]
    dirty = sorted({record["tool"] for record in ended if not record["clean"]})
    ran = sorted({record["tool"] for record in ended})
    # Of the kernels of mma.sync, and of those for sm_90a where there are any.
    missing = [set(record["missing"]) for record in of(results, "coverage")]
    if dirty:
        return f"not clean: {', '.join(dirty)}", False
    if ran != ["memcheck", "racecheck"] or not missing:
        return f"ran: {', '.join(ran) or 'none'}", None
    lacking = sorted(set.intersection(*missing))
    return ("clean, every kernel", True) if not lacking else (f"clean, but not run: {', '.join(lacking)}", False)


def one_table(results: Results) -> Found:
    """NT-Xent, HCL, a queue and float32 beside their peers."""
    shapes = {(record["group"], record["dtype"]) for record in of(results, "peer") if "ms" in record}
    lacking = {("ntxent", "bfloat16"), ("hcl", "bfloat16"), ("moco", "bfloat16"), ("hex", "float32")} - shapes
    lacking_names = ", ".join(" ".join(each) for each in sorted(lacking))
    return (f"lacking: {lacking_names}", None) if lacking else ("all there", True)


@dataclass(frozen=True)
class Target:
    """What is to be reached, and how it is read off the results.

    Attributes:
        text: What.
        judge: Reads it off.
        everywhere: Whether it is for every card. Speeds are for `CARDS`.
    """

    text: str
    judge: Callable[[Results], Found]
    everywhere: bool = False


def judged(results: Results) -> Iterator[tuple[str, str, bool | None]]:
    """Each target's text, what was found, and whether it is met: None also for the speed of another card."""
    name = next((str(record["card"]["name"]) for record in of(results, "machine")), "")
    is_named = any(each in name for each in CARDS)
    for target in targets():
        found, met = target.judge(results)
        yield target.text, found, met if is_named or target.everywhere else None


def targets() -> list[Target]:
    """For D = 128, bfloat16, forward and backward, shuffled data."""
    ours = ("HexLoss",)
    found = [
        Target("agreement with float64 and bit-equal repeats at all sizes", agreement, everywhere=True),
        Target("clip_loss, supcon_loss and a temperature that is a tensor agree with float64", losses, everywhere=True),
    ]
    # The models are of the GPU alone. For few rows the host takes longer, but not in a graph.
    found += [
        Target(f"{rows} rows, mma.sync, in a graph: at most 1.3 x the model of {model} ms",
               lambda r, rows=rows, model=model: at_most(ratio(own_ms(r, rows, True, MMA_STEP), model), 1.3))
        for rows, model in MODEL_MS.items()
    ]  # fmt: skip
    found += [
        Target(f"{rows} rows, in a graph: at most 1.3 x the later model of {model} ms",
               lambda r, rows=rows, model=model: at_most(ratio(own_ms(r, rows, True), model), 1.3))
        for rows, model in MODEL_FEW_MS.items()
    ]  # fmt: skip
    found += [
        Target(f"{rows} rows, without a graph: at most 1.3 x {expected} ms of the host",
               lambda r, rows=rows, ms=expected: at_most(ratio(own_ms(r, rows), ms), 1.3))
        for rows, expected in HOST_MS.items()
    ]  # fmt: skip
    found += [
        Target(f"{rows} rows, wgmma: at least 0.5 of the floor's speed",
               lambda r, rows=rows: at_least(ratio(floor_ms(r, rows), own_ms(r, rows, step=WGMMA_STEP)), 0.5))
        for rows in (32768, 65536)
    ]  # fmt: skip
    found += [
        Target("8192 rows: at least 15 x the best eager form",
               lambda r: at_least(ratio(best(r, 8192, EAGER), best(r, 8192, ours)), 15)),
        Target("8192 rows: at least 4 x torch.compile",
               lambda r: at_least(ratio(best(r, 8192, COMPILED + GRAPHS), best(r, 8192, ours)), 4)),
    ]  # fmt: skip
    found += [
        Target(f"{rows} rows: faster than the Triton peer",
               lambda r, rows=rows: at_least(ratio(best(r, rows, TRITON), best(r, rows, ours)), 1))
        for rows in (512, 8192, 32768, 65536)
    ]  # fmt: skip
    found += [
        Target("65536 rows: under 100 MB requested above the inputs",
               lambda r: at_most(megabytes(r, 65536), 100, "MB"), everywhere=True),
        Target("512 rows: no slower than torch.compile",
               lambda r: at_least(ratio(best(r, 512, COMPILED), best(r, 512, ours)), 1)),
        Target("512 rows: in a graph, faster than torch.compile in a graph",
               lambda r: at_least(ratio(best(r, 512, GRAPHS), best(r, 512, ("HexLoss, in a graph",))), 1)),
        Target("NT-Xent, HCL, a queue and float32 in the same table", one_table, everywhere=True),
        Target("compute-sanitizer clean (memcheck, racecheck) over every kernel", sanitized, everywhere=True),
    ]  # fmt: skip
    return found


WGMMA_STEP, MMA_STEP = "own times", "own times, mma.sync"
"""On an H100 or H200 calls take the kernels for sm_90a by themselves."""


def megabytes(results: Results, rows: int) -> float | None:
    """Requested above the inputs, in a step of HexLoss."""
    found = of(results, "own", rows=rows, dtype="bfloat16", data="shuffled", step="own times")
    return next((record["bytes"] / 1e6 for record in found if record["bytes"] is not None), None)
