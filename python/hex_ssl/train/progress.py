"""Progress of long work, such as an evaluation: a bar in a terminal, else a line of text every few seconds.

Loops report their progress with `followed`. It is shown only inside `reporting` or `shown_progress`.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from hex_ssl.train.extras import train_extra

with train_extra():
    import rich
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
Report = Callable[[str, int, int], None]
"""Takes the name of the work, the number of steps done, and the total number of steps."""

SECONDS = 10.0
"""Seconds between two lines of text."""

_report: ContextVar[Report | None] = ContextVar("report", default=None)


def followed(items: Iterable[Item], work: str, steps: int) -> Iterator[Item]:
    """Yields the items, and reports the number of steps done before the first and after each.

    Args:
        items: The items.
        work: Name of the work.
        steps: Number of items.

    Example:
        >>> with reporting(print):
        ...     total = sum(followed([5, 6], "sum", 2))
        sum 0 2
        sum 1 2
        sum 2 2
    """
    report = _report.get()
    if report is None:
        yield from items
        return
    report(work, 0, steps)
    for done, item in enumerate(items, 1):
        yield item
        report(work, done, steps)


@contextmanager
def working(work: str) -> Iterator[None]:
    """Context manager for work of unknown length. It reports step 0 of 0 at the start, and step 1 of 1 at the end.

    Args:
        work: Name of the work.
    """
    report = _report.get()
    if report is None:
        yield
        return
    report(work, 0, 0)
    yield
    report(work, 1, 1)


@contextmanager
def reporting(report: Report | None) -> Iterator[None]:
    """Context manager in which `followed` and `working` call a function. None disables the reports."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def shows_progress_bar() -> bool:
    """Whether standard output can show a moving bar. A terminal and a notebook can, a file and a pipe cannot."""
    console = rich.get_console()
    return console.is_jupyter or (sys.stdout.isatty() and not console.is_dumb_terminal)


@contextmanager
def shown_progress() -> Iterator[None]:
    """Context manager in which progress is shown, by a transient bar, or by lines if the output is a file or a pipe."""
    if not shows_progress_bar():
        with reporting(ProgressLines()):
            yield
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as progress, reporting(ProgressTasks(progress)):
        yield


class ProgressTasks:
    """Shows the current work as tasks of a progress bar. A task is removed when it is done.

    Args:
        progress: The bar.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, work: str, done: int, steps: int) -> None:
        """Shows the progress of the work."""
        if work not in self._tasks:
            self._tasks[work] = self.progress.add_task(work, total=steps or None)
        self.progress.update(self._tasks[work], completed=done)
        if 0 < steps == done:
            self.progress.remove_task(self._tasks.pop(work))


class ProgressLines:
    """Prints a line about the current work every few seconds, and one at the start of work of unknown length.

    Args:
        seconds: Seconds between two lines, and before the first.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._begun: dict[str, float] = {}
        self._printed = time.monotonic()

    def __call__(self, work: str, done: int, steps: int) -> None:
        """Prints the progress of the work if it is time for the next line."""
        now = time.monotonic()
        if done == 0:
            self._begun[work] = now
            self._printed = self._printed if len(self._begun) > 1 else now
        if steps == 0:
            print(f"{work} ...", flush=True)
        elif done == steps:
            del self._begun[work]
        elif now - self._printed >= self.seconds:
            self._printed = now
            print(f"{work}: {done:,} of {steps:,}  {now - self._begun[work]:.0f} s", flush=True)
