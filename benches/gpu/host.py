"""Step: `python -m gpu.host ROWS...`: where the host's time of a step goes, for few rows.

Each part as the host has it, without waiting for the device in between, and until the device is done. Beside HexLoss:
an autograd function and an operator that do nothing, and the plain form by torch's compiler.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpu.beside import WHERE, compiled
from gpu.records import REHEARSAL, emit, left
from gpu.workload import DEVICE, hex_loss, synchronize, views

SECONDS = 0.1 if not REHEARSAL else 0.0
"""Of one measurement."""
FEWEST, TOGETHER = (50, 20) if not REHEARSAL else (3, 2)
"""Calls of one measurement, and of those after which the host waits: it does not get far ahead of the device."""
COMPILATION = 8.0
"""Seconds that the compiler may take."""


class Part(NamedTuple):
    """What is measured.

    Attributes:
        name: Of it.
        begin: What comes before it, not measured.
        run: Takes what `begin` returns.
        context: Around all of it.
    """

    name: str
    begin: Callable[[], Any]
    run: Callable[[Any], Any]
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


class Nothing(torch.autograd.Function):
    """A loss that launches nothing: what autograd and Python take for any loss."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, gradients: tuple[Tensor, ...], *inputs: Tensor) -> Tensor:
        """Returns `found`; the backward, `gradients`."""
        ctx.gradients = gradients
        return found.detach()

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        """Without any operation."""
        return None, None, *ctx.gradients


@torch.library.custom_op("hex_ssl_gpu_check::nothing", mutates_args=())
def nothing(first: Tensor, second: Tensor) -> Tensor:
    """An operator that launches nothing."""
    return first.new_empty(())


calling_thread = partial(torch.autograd.set_multithreading_enabled, False)
"""The backward in the thread that calls it, in place of one that autograd has for each GPU."""


def parts_of(name: str, loss: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Iterator[Part]:
    """Forward, backward, and both."""

    def clear() -> None:
        for each in inputs:
            each.grad = None

    def forward() -> Tensor:
        clear()
        return loss(*inputs)

    yield Part(f"{name}: forward", clear, lambda _: loss(*inputs))
    yield Part(f"{name}: backward", forward, Tensor.backward)
    yield Part(f"{name}: step", clear, lambda _: loss(*inputs).backward())
    yield Part(f"{name}: step, autograd in the calling thread", clear, lambda _: loss(*inputs).backward(),
               calling_thread)  # fmt: skip


def parts(inputs: tuple[Tensor, ...]) -> Iterator[Part]:
    """All but the compiled form."""
    yield from parts_of("HexLoss", hex_loss(), inputs)
    found, gradients = torch.zeros((), device=DEVICE), tuple(torch.zeros_like(each) for each in inputs)
    apply = partial(Nothing.apply, found, gradients)
    yield from parts_of("a function that does nothing", apply, inputs)
    detached = [each.detach() for each in inputs]
    yield Part("an operator that does nothing", lambda: None, lambda _: nothing(*detached))
    yield Part("one kernel of torch's", lambda: None, lambda _: found.zero_())


def microseconds(part: Part, waits: bool) -> float:
    """The median of a call, of as many as there is time for. `waits`: until the device is done."""
    times: list[float] = []
    with part.context():
        for _ in range(2 if REHEARSAL else 10):
            part.run(part.begin())
        end = time.perf_counter() + SECONDS
        while len(times) < FEWEST or time.perf_counter() < end:
            state = part.begin()
            if waits or len(times) % TOGETHER == 0:
                synchronize()
            start = time.perf_counter()
            part.run(state)
            if waits:
                synchronize()
            times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def measure(rows: int, parts: Iterator[Part]) -> None:
    """Every part, as long as time lasts."""
    for part in parts:
        if left() < 2:
            emit("note", text=f"{part.name} at {rows} rows: no time left")
            continue
        host, whole = (microseconds(part, waits) for waits in (False, True))
        emit("host", rows=rows, part=part.name, host_us=host, whole_us=whole)


def main() -> None:
    """All sizes, and then the compiled form at each."""
    sizes = [64] if REHEARSAL else [int(each) for each in sys.argv[1:]]
    for rows in sizes:
        measure(rows, parts(views(rows)))
    for rows in sizes:
        if left() < COMPILATION and not REHEARSAL:
            emit("note", text=f"the compiled form at {rows} rows: no time left")
            continue
        measure(rows, parts_of("compiled, topk, where", compiled(WHERE)(), views(rows)))


if __name__ == "__main__":
    main()
