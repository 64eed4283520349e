"""Executes many runs, in this process or in several processes."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Literal, NamedTuple

import torch
from threadpoolctl import threadpool_limits

from hex_ssl.train.cores import available_cores
from hex_ssl.train.errors import error_line
from hex_ssl.train.reproduce.plan import Job
from hex_ssl.train.reproduce.run import BusyError, measure
from hex_ssl.train.reproduce.time_limit import Deadline, OutOfTimeError

Outcome = Literal["done", "there", "busy", "out of time", "failed"]


class Finished(NamedTuple):
    """How a run ended.

    Attributes:
        job: The run.
        outcome: "done", "there" if another process has finished it before, "busy" if another process is executing it,
            "out of time" if it can be continued, or "failed".
        seconds: Duration in seconds.
        error: The error in one line. Empty if there was none.
        trace: The traceback, if the error is a fault of this program.
    """

    job: Job
    outcome: Outcome
    seconds: float
    error: str = ""
    trace: str = ""


Announce = Callable[[Finished], None]


def run_jobs(jobs: Sequence[Job], processes: int, deadline: Deadline, announce: Announce) -> int:
    """Executes runs in order. A run that fails does not stop the others.

    Args:
        jobs: The runs.
        processes: Number of processes, each with its share of the cores. 1 uses this process.
        deadline: After the deadline no run starts, and runs in progress stop.
        announce: Called when a run ends.

    Returns:
        The number of runs that were not started because of the deadline.

    Raises:
        KeyboardInterrupt: Ctrl-C. Next time, runs that were in progress continue from their last checkpoint.
    """
    waiting = list(jobs)
    if processes == 1:
        while waiting and not deadline.passed():
            announce(_attempt(waiting.pop(0), deadline))
        return len(waiting)
    threads = max(1, available_cores() // processes)
    workers = [_Worker(threads, deadline) for _ in range(min(processes, len(waiting)))]
    try:
        _run_side_by_side(waiting, workers, deadline, announce)
    finally:
        for worker in workers:
            worker.stop()
    return len(waiting)


def _run_side_by_side(waiting: list[Job], workers: "list[_Worker]", deadline: Deadline, announce: Announce) -> None:
    while True:
        for worker in workers:
            if worker.job is None and waiting and not deadline.passed():
                worker.start(waiting.pop(0))
        busy = {worker.pipe: worker for worker in workers if worker.job is not None}
        if not busy:
            return
        for pipe in wait(list(busy)):
            worker = busy[pipe]  # type: ignore[index]  # the pipes that were waited for
            finished = worker.finish()
            if finished.error == _DIED:
                worker.stop()
                workers[workers.index(worker)] = _Worker(worker.threads, deadline)
            announce(finished)


def _attempt(job: Job, deadline: Deadline) -> Finished:
    start = time.monotonic()
    try:
        outcome: Outcome = "done" if measure(job, deadline) else "there"
        return Finished(job, outcome, time.monotonic() - start)
    except BusyError:
        return Finished(job, "busy", time.monotonic() - start)
    except OutOfTimeError:
        return Finished(job, "out of time", time.monotonic() - start)
    except SystemExit as error:  # Lightning's reaction to Ctrl-C
        raise KeyboardInterrupt from error
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        trace = traceback.format_exc() if error_line(error) is None else ""
        return Finished(job, "failed", time.monotonic() - start, text, trace)


_DIED = "the process ended without an error, as if it had been killed, for example for lack of memory"


@dataclass
class _Told:
    """The message of a worker: `Finished` without the run."""

    outcome: Outcome
    seconds: float
    error: str
    trace: str


class _Worker:
    """A process that executes one run after another."""

    def __init__(self, threads: int, deadline: Deadline) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.pipe, other = context.Pipe()
        self.threads = threads
        self.process = context.Process(target=_work, args=(other, threads, deadline))
        self.process.start()
        other.close()
        self.job: Job | None = None
        self._started = 0.0

    def start(self, job: Job) -> None:
        self.job, self._started = job, time.monotonic()
        self.pipe.send(job)

    def finish(self) -> Finished:
        """Receives the outcome of its run."""
        job, self.job = self.job, None
        assert job is not None
        try:
            told: _Told = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return Finished(job, "failed", time.monotonic() - self._started, _DIED)
        return Finished(job, told.outcome, told.seconds, told.error, told.trace)

    def stop(self) -> None:
        """Ends the process, at once if it is executing a run, which can be continued later."""
        self.pipe.close()
        if self.job is not None:
            self.process.kill()
        self.process.join()


def _work(pipe: Connection, threads: int, deadline: Deadline) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        while True:
            try:
                job: Job = pipe.recv()
            except EOFError:
                return
            finished = _attempt(job, deadline)
            pipe.send(_Told(finished.outcome, finished.seconds, finished.error, finished.trace))


def _end_with_parent() -> None:
    """Ends this process when its parent ends, however that ends. Otherwise the run would go on and stay locked."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
