"""The queue of projections that neighbours and negatives are taken from."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.distributed import gather_batches

SEARCHED_ROWS = 1024
"""Rows compared with the queue at a time: against 98,304 others in float32 that takes 400 MB."""


class Queue(nn.Module):
    """The last `size` L2-normalised projections, oldest overwritten first.

    All of it is in the state dict: rows, labels, where the next goes, how many have come. At first the rows are random
    unit vectors, the same on every process whatever its seed; as each process enqueues the rows of all, the queues
    stay the same.

    Args:
        size: K, rows kept.
        dim: D, width of the projections.

    Attributes:
        rows: [K, D], float32 until the module is cast.
        labels: int64 [K], the labels of the rows' images, -1 where there is none.
        pointer: int64, 0-d, the row that is overwritten next.
        filled: int64, 0-d, how many rows are projections; the others are random.

    Raises:
        ValueError: `size` or `dim` is below 1.

    Source:
        MoCo (He et al. 2020, arXiv 1911.05722), section 3.2; as support set: NNCLR (Dwibedi et al. 2021,
        arXiv 2104.14548), section 3.2.

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
    def enqueue(self, z: Tensor, labels: Tensor) -> None:
        """Puts projections in the place of the oldest. Of more than K only the last K stay.

        Args:
            z: [n, D], any scale; over several processes those of all are put, rank by rank.
            labels: int64 [n], -1 for images without one.
        """
        z, labels = gather_batches(z.detach(), labels)
        count, size = z.shape[0], self.rows.shape[0]
        # Without reading the pointer, which would make a GPU wait.
        places = (self.pointer + torch.arange(count, device=z.device)) % size
        kept = slice(max(count - size, 0), None)
        self.rows[places[kept]] = F.normalize(z[kept].to(self.rows.dtype), dim=1)
        self.labels[places[kept]] = labels[kept]
        self.pointer.copy_((self.pointer + count) % size)
        self.filled.copy_((self.filled + count).clamp(max=size))

    @torch.no_grad()
    def neighbours(self, z: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """The rows with the highest cosine similarity, the closest first.

        Args:
            z: [n, D], any scale.
            count: k, neighbours of each.

        Returns:
            The neighbours [n, k, D] and their labels [n, k].

        Raises:
            ValueError: The queue has fewer rows.
        """
        if count > self.rows.shape[0]:
            raise ValueError(f"expected `count` to be at most the queue's {self.rows.shape[0]} rows, but got {count}")
        with torch.autocast(z.device.type, enabled=False):
            queries = z.detach().to(self.rows.dtype)  # of no scale: a row's own length does not change its neighbours
            places = torch.cat([(part @ self.rows.T).topk(count).indices for part in queries.split(SEARCHED_ROWS)])
        return self.rows[places], self.labels[places]

    @property
    def fill(self) -> Tensor:
        """The share of the rows that are projections, 0-d."""
        return self.filled / self.rows.shape[0]
