"""The steps of the two calls, by value: the later ones get the time that the earlier ones leave."""

import sys

from gpu import wgmma
from gpu.runner import Step

SIZES = ("512", "1024", "2048", "4096", "16384", "32768", "65536")
CALLS = ("knowledge", "speed")


def knowledge(rehearse: bool) -> list[Step]:
    """Call 1: is it right, how fast is it, and beside whom."""
    small = ("254", "2050", "8192")
    steps = [
        Step("machine", ("gpu.machine",), 25),
        *(Step(f"agreement {dtype}", ("gpu.agreement", dtype, *small), 25) for dtype in
          ("bfloat16", "float32", "tf32", "float16")),
        Step("own times", ("gpu.own",), 70),
        Step("peers 8192", ("gpu.beside", "8192"), 75),
        Step("tests", ("gpu.suite",), 110),
        Step("memcheck", ("gpu.sanitizer", "memcheck", "254", "2050"), 30),
        Step("racecheck", ("gpu.sanitizer", "racecheck", "254", "2050"), 30),
        Step("coverage", ("gpu.sanitizer",), 15),
        Step("peers 512", ("gpu.beside", "512"), 55),
        *wgmma_steps(),
        Step("peers 32768", ("gpu.beside", "32768"), 45),
        Step("other losses", ("gpu.beside", "others"), 30),
        Step("training", ("gpu.training",), 40),
        Step("counters", ("gpu.counters", "8192"), 60),
        Step("agreement, all sizes", ("gpu.agreement", "bfloat16", *SIZES), 30),
        Step("peers 65536", ("gpu.beside", "65536", "HexLoss", "Triton tiled InfoNCE", "chunked torch ops"), 25),
        Step("own times, other dtypes", ("gpu.own", "--rows", "8192", "65536", "--dtypes", "float32", "tf32", "float16",
                                         "--data", "shuffled"), 25),
    ]  # fmt: skip
    return [step for step in steps if not (rehearse and step.name in REPEATED)]


REPEATED = {"agreement float16", "agreement, all sizes", "peers 512", "peers 32768", "peers 65536",
            "own times, other dtypes", "racecheck"}  # fmt: skip
"""Steps that a rehearsal leaves out: the same program as another, at sizes that a rehearsal does not have."""


REHEARSED_VARIANTS = ("columns-32", "no-products")
"""One that computes the same, and one that does not."""


def wgmma_steps() -> list[Step]:
    """The kernels of sm_90a and of mma.sync, each in processes of its own; or one that says that there is no choice."""
    if not wgmma.is_there():
        return [Step("sm_90a", ("gpu.wgmma",), 5, least=2)]
    steps = []
    for value in ("1", "0"):
        environment = {wgmma.SETTING: value}
        steps.append(Step(f"sm_90a={value}, agreement", ("gpu.agreement", "bfloat16", "200", "2050", "8192"), 12,
                          environment=environment))  # fmt: skip
        steps.append(Step(f"sm_90a={value}, times", ("gpu.own", "--rows", "8192", "65536", "32768", "512", "--data",
                          "shuffled"), 15, environment=environment))  # fmt: skip
    return steps


def speed(rehearse: bool, data: str | None) -> list[Step]:
    """Call 2: variants, what bounds the best of them, and a training with the time that is left."""
    from gpu.variants import VARIANTS

    names = [*REHEARSED_VARIANTS, "wgmma"] if rehearse else [variant.name for variant in VARIANTS]
    return [
        Step("machine", ("gpu.machine",), 25),
        *(Step(f"variant {name}", ("gpu.speed", name), 25) for name in names),
        Step("winner", ("gpu.speed", "winner"), 40),
        Step("reproduce", ("gpu.reproduce", *([data] if data else [])), sys.maxsize, least=30 if not rehearse else 5),
    ]
