"""The queue of projections, which provides neighbours and negatives."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.distributed import gather_batches

SEARCHED_ROWS = 1024
"""The number of rows compared with the queue at a time. With a queue of 98,304 rows in float32 this takes 400 MB."""


class Queue(nn.Module):
    """The last `size` L2-normalised projections. New projections overwrite the oldest ones.

    The state dict holds the whole queue, with its labels, its pointer and the number of filled rows. At first the rows
    are random unit vectors, which are the same on every process and do not depend on the global seed. By default each
    process enqueues the rows of all processes, so the queues stay equal.

    Args:
        size: Number of rows, K.
        dim: Dimension of the projections, D.

    Attributes:
        rows: The projections, [K, D], float32 unless the module is cast.
        labels: The labels of the rows, int64 [K]. -1 for rows without a label.
        pointer: The row that is overwritten next, int64, 0-d.
        filled: The number of rows that are projections, int64, 0-d. The other rows are random.

    Raises:
        ValueError: `size` or `dim` is below 1.

    Source:
        MoCo (He et al. 2020, arXiv 1911.05722), section 3.2. NNCLR (Dwibedi et al. 2021, arXiv 2104.14548),
        section 3.2, uses the queue as a support set.

    Example:
        >>> queue = Queue(size=4, dim=2)
        >>> queue.enqueue(torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]), torch.tensor([7, 8, 9]))
        >>> neighbours, labels = queue.neighbours(torch.tensor([[0.1, 5.0]]))
        >>> neighbours.tolist(), labels.tolist(), int(queue.pointer)
        ([[[0.0, 1.0]]], [[8]], 3)
    """

    rows: Tensor
    labels: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        for name, value in (("size", size), ("dim", dim)):
            if value < 1:
                raise ValueError(f"expected `{name}` to be at least 1, but got {value}")
        start = torch.randn(size, dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("rows", F.normalize(start, dim=1))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("pointer", torch.tensor(0))
        self.register_buffer("filled", torch.tensor(0))

    @torch.no_grad()
    def enqueue(self, z: Tensor, labels: Tensor | None = None, *, gather_distributed: bool = True) -> None:
        """Overwrites the oldest rows with projections. Of more than K projections, only the last K are kept.

        Args:
            z: Projections, [n, D], at any scale.
            labels: Labels, int64 [n]. -1 for images without a label. None: no image has a label.
            gather_distributed: Enqueue the projections of all processes, in the order of ranks. Otherwise each process
                has a queue of its own projections.
        """
        z = z.detach()
        labels = torch.full_like(self.labels[:1], -1).expand(z.shape[0]) if labels is None else labels
        if gather_distributed:
            z, labels = gather_batches(z, labels)
        count, size = z.shape[0], self.rows.shape[0]
        # The pointer stays on the device: reading it would wait for the GPU.
        places = (self.pointer + torch.arange(count, device=z.device)) % size
        kept = slice(max(count - size, 0), None)
        self.rows[places[kept]] = F.normalize(z[kept].to(self.rows.dtype), dim=1)
        self.labels[places[kept]] = labels[kept]
        self.pointer.copy_((self.pointer + count) % size)
        self.filled.copy_((self.filled + count).clamp(max=size))

    @torch.no_grad()
    def neighbours(self, z: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """Finds the rows with the highest cosine similarity, the closest first.

        Args:
            z: Projections, [n, D], at any scale.
            count: Number of neighbours of each projection, k.

        Returns:
            The neighbours [n, k, D] and their labels [n, k].

        Raises:
            ValueError: The queue has fewer than `count` rows.
        """
        if count > self.rows.shape[0]:
            raise ValueError(f"expected `count` to be at most the queue's {self.rows.shape[0]} rows, but got {count}")
        with torch.autocast(z.device.type, enabled=False):
            queries = z.detach().to(self.rows.dtype)  # not normalised: its length does not change a row's neighbours
            places = torch.cat([(part @ self.rows.T).topk(count).indices for part in queries.split(SEARCHED_ROWS)])
        return self.rows[places], self.labels[places]

    @property
    def fill(self) -> Tensor:
        """The fraction of the rows that are projections, 0-d."""
        return self.filled / self.rows.shape[0]
