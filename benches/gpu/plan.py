"""The steps of the two calls, by value: the later ones get the time that the earlier ones leave.

Their limits are for a step that hangs, or that a cold disk delays. Together they are more than a call has.
"""

import sys
from collections.abc import Callable
from functools import partial

from gpu import wgmma
from gpu.records import ROOT
from gpu.runner import Step
from gpu.variants import VARIANTS
from gpu.wgmma import MMA, OVERLAPPING, WGMMA

CALLS = {"knowledge": 420.0, "speed": 300.0}
"""And their seconds: of 900, a machine takes up to two minutes to start, and copies take some."""
SIZES = ("512", "1024", "2048", "4096", "16384", "32768", "65536")
FEW = ("254", "2050", "8192")
FIRST = "test_runtime.py"
"""The tests of which no CPU can tell anything."""
TESTS = tuple(
    str(path.relative_to(ROOT))
    for path in sorted((ROOT / "tests" / "gpu").glob("test_*.py"), key=lambda path: (path.name != FIRST, path))
)
LOOP = ("tests/train/test_waiting.py", "tests/train/data/test_batched_views.py")
"""Tests of what a step of training waits for."""
AUTO = {"HEX_SSL_BACKEND": "auto"}
MACHINE = Step("machine", ("gpu.machine",), 120)
"""It is the first that loads torch, which can take a minute from a cold disk."""
REPEATED = {"agreement float16", "agreement, all sizes", "racecheck", "tests of the loop", "peers 512",
            "peers 32768 and 65536", "own times, other dtypes", "own times, mma.sync",
            "own times, overlapping", "sm_90a coverage", "sm_90a memcheck", "sm_90a racecheck", "sm_90a tests",
            "overlapping tests"}  # fmt: skip
"""Steps that a rehearsal leaves out: the same program as another, at sizes that a rehearsal does not have."""
REHEARSED_VARIANTS = ("columns-32", "no-products")
"""One that computes the same, and one that does not."""


def correctness() -> list[Step]:
    """What measures no time, all at once."""
    step = partial(Step, together="correctness")
    by_mma, by_wgmma, overlapping = (partial(step, environment=each) for each in (MMA, WGMMA, OVERLAPPING))

    def checks(by: Callable[..., Step], name: str = "") -> list[Step]:
        """What both kinds of kernels have."""
        return [
            by(f"{name}coverage", ("gpu.sanitizer", "coverage", *FEW[:2]), 45),
            by(f"{name}tests", ("gpu.suite", *TESTS), 110),
            *(by(f"{name}{tool}", ("gpu.sanitizer", tool, *FEW[:2]), 70) for tool in ("memcheck", "racecheck")),
        ]

    steps = [
        *(by_mma(f"agreement {dtype}", ("gpu.agreement", dtype, *FEW), 75)
          for dtype in ("bfloat16", "float32", "tf32", "float16")),
        by_mma("agreement, all sizes", ("gpu.agreement", "bfloat16", *SIZES), 75),
        *checks(by_mma),
        step("tests of the loop", ("gpu.suite", *LOOP), 60, environment=AUTO),
    ]  # fmt: skip
    if not wgmma.is_there():
        return [*steps, step("sm_90a", ("gpu.wgmma",), 10, least=2)]
    return [*steps, by_wgmma("sm_90a agreement", ("gpu.agreement", "bfloat16", *FEW, *SIZES), 75),
            *checks(by_wgmma, "sm_90a "),
            overlapping("overlapping agreement", ("gpu.agreement", "bfloat16", *FEW, *SIZES), 75),
            overlapping("overlapping tests", ("gpu.suite", *TESTS), 110)]  # fmt: skip


def knowledge(rehearse: bool) -> list[Step]:
    """Call 1: is it right, how fast is it, and beside whom."""
    steps = [
        MACHINE,
        *correctness(),
        Step("own times", ("gpu.own", "--data", "shuffled"), 45),
        Step("own times, mma.sync", ("gpu.own", "--rows", "8192", "65536", "32768", "512", "--data", "shuffled"), 20,
             environment=MMA),
        Step("own times, overlapping", ("gpu.own", "--rows", "512", "8192", "32768", "65536", "--data", "shuffled"), 20,
             environment=OVERLAPPING),
        Step("peers 8192", ("gpu.beside", "8192"), 110),
        Step("peers 512", ("gpu.beside", "512"), 80),
        Step("peers 32768 and 65536", ("gpu.beside", "32768", "65536"), 75),
        Step("losses", ("gpu.losses", "8192", "2050", "32768"), 30),
        Step("counters", ("gpu.counters", "8192"), 60),
        Step("other losses", ("gpu.beside", "others"), 60),
        Step("own times, other dtypes", ("gpu.own", "--rows", "8192", "65536", "--dtypes", "float32", "tf32", "float16",
                                         "--data", "shuffled"), 25),
        Step("host", ("gpu.host", "512", "2048"), 30),
        Step("own times, periodic data", ("gpu.own", "--rows", "8192", "65536", "--data", "periodic"), 20),
        Step("training", ("gpu.training",), 150, environment=AUTO),
    ]  # fmt: skip
    return [step for step in steps if not (rehearse and step.name in REPEATED)]


def speed(rehearse: bool, data: str | None) -> list[Step]:
    """Call 2: variants, what bounds the best of them, and a training with the time that is left."""
    names = [*REHEARSED_VARIANTS, "mma"] if rehearse else [variant.name for variant in VARIANTS]
    return [
        MACHINE,
        *(Step(f"variant {name}", ("gpu.speed", name), 25) for name in names),
        Step("winner", ("gpu.speed", "winner"), 40),
        Step("reproduce", ("gpu.reproduce", *([data] if data else [])), sys.maxsize, least=30),
    ]
