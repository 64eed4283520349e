"""What a process that loads images does when it cannot send a batch."""

import os
import sys
from multiprocessing.queues import Queue
from typing import Any, NoReturn


def end_on_lost_batch(worker: int) -> None:
    """Ends a process that loads images where a batch cannot be sent: the run would wait for that batch for ever.

    Sending is what fails where `/dev/shm` is full or too many files are open. Python's queue prints that, and goes on
    with the next batch. A process that ends is an error of the data loader instead.

    Args:
        worker: Its number, with which a data loader calls its `worker_init_fn`.
    """

    def end(error: BaseException, batch: Any) -> NoReturn:
        print(f"a process that loads images cannot send a batch: {error}", file=sys.stderr, flush=True)
        os._exit(1)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]  # this process's alone
