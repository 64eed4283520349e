"""NT-Xent as a module."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import Tensor
from torch._compile import _disable_dynamo

from hex_ssl.choices import Reduction
from hex_ssl.contrast import Settings
from hex_ssl.functional import loss_with_keys
from hex_ssl.losses.baseline import BaselineLoss
from hex_ssl.queue import Queue
from hex_ssl.validation import check_views


class NTXentLoss(BaselineLoss):
    """NT-Xent (InfoNCE), SimCLR's loss: :func:`hex_ssl.functional.ntxent_loss` as a module. MoCo's with a memory bank.

    With a memory bank, the first views are the anchors, the second views their positives, and the rows of the bank are
    the only negatives. With the cosine similarities c, and K rows in the bank::

        L_i = -log( exp(c(z1_i, z2_i) / T) / (exp(c(z1_i, z2_i) / T) + sum_{k < K} exp(c(z1_i, bank_k) / T)) )

    with T -> `temperature`, K -> `memory_bank_size`. No gradient flows through the bank. If `z1` requires a gradient,
    the forward then overwrites the oldest rows with `z2`. The bank is part of the state dict. It starts with random
    unit vectors.

    Args:
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        memory_bank_size: (K, D): the number of rows of the memory bank and their dimension. Only K: the dimension is
            that of the first batch, or of the state dict. torch.compile then breaks the graph once, unless the first
            call comes before the compilation; one without a gradient leaves the bank as it is. 0: no memory bank.
        gather_distributed: Compare with the keys of all processes. The memory bank then gets the rows of all processes.
            Otherwise each process has a memory bank of its own.
        reduction: "mean", "sum" or "none". With a memory bank, "none" gives [n], the losses of the first views.

    Attributes:
        statistics: The :class:`Statistics` of the last forward. None before the first forward.
        memory_bank: The memory bank, a :class:`hex_ssl.queue.Queue`. None if there is none, or if its dimension is not
            known yet.

    Raises:
        TypeError: `memory_bank_size` is not an integer or a pair of integers.
        ValueError: An argument is out of its range, or torch has no torch.distributed and `gather_distributed` is set.

    Source:
        SimCLR (Chen et al. 2020, arXiv 2002.05709). The memory bank comes from MoCo (He et al. 2020, arXiv 1911.05722).

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> NTXentLoss(temperature=1.0)(z, z)  # log(e + 6) - 1
        tensor(1.1654)
        >>> criterion = NTXentLoss(memory_bank_size=(64, 4))
        >>> criterion(z.requires_grad_(), z.detach()).backward()
        >>> criterion.memory_bank.filled
        tensor(4)
    """

    memory_bank: Queue | None

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(temperature, gather_distributed, reduction)
        self._bank_rows, dim = _rows_and_dim(memory_bank_size)
        self.memory_bank_size = memory_bank_size
        self.memory_bank = Queue(self._bank_rows, dim) if self._bank_rows and dim else None

    def forward(self, z1: Tensor, z2: Tensor, *more_views: Tensor) -> Tensor:
        """The loss of projections of the views, each [n, D]. Two views with a memory bank."""
        if not self._bank_rows:
            return super().forward(z1, z2, *more_views)
        if more_views:
            raise ValueError(f"expected 2 views with a memory bank, but got {2 + len(more_views)}")
        check_views([z1, z2])
        bank = self._bank_of(z2)
        # Only for "none" does the backward read the bank, which is overwritten before.
        keys = bank.rows.clone() if self.reduction == "none" else bank.rows
        settings = Settings.of(self.threshold, 0, "importance", 1.0, 0.1, self.temperature, self.reduction)
        loss, self._last.statistics = loss_with_keys(
            z1,
            keys.to(z2.dtype),
            self.threshold,
            settings,
            positives=z2,
            gather_distributed=self.gather_distributed,
        )
        if z1.requires_grad:
            bank.enqueue(z2, gather_distributed=self.gather_distributed)
        return loss

    def _bank_of(self, z: Tensor) -> Queue:
        """The memory bank, on the device of the projections and with their dimension."""
        bank = self.memory_bank
        if bank is None:
            bank = self.memory_bank = _new_bank(self._bank_rows, z.shape[1])
        if bank.rows.shape[1] != z.shape[1]:
            raise ValueError(
                f"expected views of dimension {bank.rows.shape[1]}, as in the memory bank, but got {list(z.shape)}"
            )
        return bank if bank.rows.device == z.device else bank.to(z.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        rows = state_dict.get(prefix + "memory_bank.rows")
        if self._bank_rows and self.memory_bank is None and rows is not None:
            # torch loads the modules of this module next.
            self.memory_bank = Queue(self._bank_rows, rows.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *others)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"{super().extra_repr()}, memory_bank_size={self.memory_bank_size!r}"


@_disable_dynamo
def _new_bank(rows: int, dim: int) -> Queue:
    return Queue(rows, dim)


# torch.compile cannot trace that a module is made: it breaks the graph. With fullgraph=True its error has this reason.
_new_bank._torchdynamo_disable = True  # type: ignore[attr-defined]
_new_bank._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
    "the memory bank is not made yet: pass memory_bank_size=(K, D), or call the loss once before it is compiled"
)


def _rows_and_dim(size: int | Sequence[int]) -> tuple[int, int | None]:
    """K and D of a memory bank. D is None if only K is given."""
    numbers = list(size) if isinstance(size, Sequence) else [size]
    if not all(isinstance(each, Integral) and not isinstance(each, bool) for each in numbers):
        raise TypeError(f"expected `memory_bank_size` to be an integer or a pair of integers, but got {size!r}")
    if not 1 <= len(numbers) <= 2 or min(numbers) < 0 or (numbers[0] and numbers[-1] == 0):
        raise ValueError(f"expected `memory_bank_size` to be (rows, dimensions), each at least 1, or 0, but got {size}")
    return numbers[0], numbers[1] if len(numbers) == 2 else None
