"""Ends a DataLoader worker that cannot send a batch."""

import os
import sys
from multiprocessing.queues import Queue
from typing import Any, NoReturn


def end_on_lost_batch(worker: int) -> None:
    """A `worker_init_fn` that ends the worker if it cannot send a batch. Otherwise the run would wait for it forever.

    Sending fails if `/dev/shm` is full or too many files are open. Python's queue prints the error and continues with
    the next batch. If the worker ends instead, the DataLoader raises an error.

    Args:
        worker: Number of the worker, as the DataLoader passes it.
    """

    def end(error: BaseException, batch: Any) -> NoReturn:
        print(f"a DataLoader worker cannot send a batch: {error}", file=sys.stderr, flush=True)
        os._exit(1)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]  # in this process only
