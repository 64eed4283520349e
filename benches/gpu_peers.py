"""More losses to measure against on a GPU: lightly's NT-Xent, and a tiled InfoNCE in Triton.

Every peer is a function of two views [n, D] that returns the loss. These two have no threshold to find.
"""

import math
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peers import TEMPERATURE

EXACT = "tf32x3"
"""Of products of float32: three of tf32."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's kernels are interpreted on the CPU: for a rehearsal, not for a measurement."""


def lightly_ntxent(z1: Tensor, z2: Tensor) -> Tensor:
    """lightly.loss.NTXentLoss (1.6), restated line by line for machines without the package, of one process."""
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    samples = z1.shape[0]
    diagonal = torch.eye(samples, device=z1.device, dtype=torch.bool)
    logits_00 = torch.einsum("nc,mc->nm", z1, z1) / TEMPERATURE
    logits_01 = torch.einsum("nc,mc->nm", z1, z2) / TEMPERATURE
    logits_10 = torch.einsum("nc,mc->nm", z2, z1) / TEMPERATURE
    logits_11 = torch.einsum("nc,mc->nm", z2, z2) / TEMPERATURE
    logits_00 = logits_00[~diagonal].view(samples, -1)
    logits_11 = logits_11[~diagonal].view(samples, -1)
    logits = torch.cat([torch.cat([logits_01, logits_00], dim=1), torch.cat([logits_10, logits_11], dim=1)], dim=0)
    return F.cross_entropy(logits, torch.arange(samples, device=z1.device).repeat(2))


def triton_infonce(z1: Tensor, z2: Tensor) -> Tensor:
    """NT-Xent in O(N D) memory, tiled in Triton: sums of rows, then the gradient with the similarities found again.

    6 N^2 D products, as for a symmetric loss one sweep gives both of a pair's gradients. D is a power of two.
    """
    unit = F.normalize(torch.cat([z1, z2]), dim=1)
    return _InfoNCE.apply(unit)  # type: ignore[no-untyped-call]


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, unit: Tensor) -> Tensor:
        kernels, rows = _kernels(), unit.shape[0]
        splits = _splits(rows, unit.device)
        partial = unit.new_empty((splits, rows), dtype=torch.float32)
        scale = math.log2(math.e) / TEMPERATURE
        kernels.sums[kernels.grid(rows, splits)](unit, partial, scale, **_constants(unit, splits))
        total = partial.sum(0)
        ctx.save_for_backward(unit, total)
        ctx.scale, ctx.splits = scale, splits
        positives = (unit * unit.roll(rows // 2, 0)).sum(1, dtype=torch.float32)
        # exp((similarity - 1) / temperature) is what was summed up: no overflow, and no running maximum.
        return (total.log() + (1 - positives) / TEMPERATURE).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (upstream,) = gradients
        unit, total = ctx.saved_tensors
        kernels, (rows, dims) = _kernels(), unit.shape
        partial = unit.new_empty((ctx.splits, rows, dims), dtype=torch.float32)
        constants = _constants(unit, ctx.splits)
        kernels.pulls[kernels.grid(rows, ctx.splits)](unit, total.reciprocal(), partial, ctx.scale, **constants)
        pulls = partial[0] if ctx.splits == 1 else partial.sum(0)
        return ((pulls - 2 * unit.roll(rows // 2, 0)) * (upstream / (rows * TEMPERATURE))).to(unit.dtype)


def _splits(rows: int, device: torch.device) -> int:
    """Into how many parts the columns are cut, so that small batches fill the chip."""
    if device.type != "cuda":
        return 2
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(32, 2 * processors // math.ceil(rows / 64)))


def _constants(unit: Tensor, splits: int) -> dict[str, Any]:
    exact = unit.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    precision = EXACT if exact else "tf32"  # not read for 16-bit rows
    rows, dims = unit.shape
    return {"rows": rows, "dims": dims, "splits": splits, "precision": precision}


def fitting(configs: list[Any], _: dict[str, Any], **constants: Any) -> list[Any]:
    """Those whose tiles fit into shared memory, where float32 takes twice its bytes. To compile one takes seconds."""
    return configs[-1:] if constants["precision"] == EXACT else configs


class _Kernels:
    """The two kernels, compiled when first asked for: without Triton this module can still be imported."""

    def __init__(self) -> None:
        import triton

        from triton_kernels import pulls, sums

        self.sums: Any
        self.pulls: Any
        if INTERPRETED:
            block = {"block_rows": 32, "block_columns": 32}
            self.sums, self.pulls = _Fixed(sums, block), _Fixed(pulls, block)
        else:
            sizes = [(128, 128, 8, 3), (128, 64, 4, 3), (64, 64, 4, 3)]
            configs = [
                triton.Config({"block_rows": m, "block_columns": n}, num_warps=w, num_stages=s) for m, n, w, s in sizes
            ]
            key = ["rows", "dims", "splits", "precision"]
            tune = triton.autotune(configs, key=key, prune_configs_by={"early_config_prune": fitting})
            self.sums, self.pulls = tune(sums), tune(pulls)
        self._ceil = triton.cdiv

    def grid(self, rows: int, splits: int) -> Any:
        return lambda meta: (self._ceil(rows, meta["block_rows"]), splits)


class _Fixed:
    """A kernel with its block sizes given: there is nothing to tune in an interpreter."""

    def __init__(self, kernel: Any, block: dict[str, int]) -> None:
        self.kernel, self.block = kernel, block

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **constants: self.kernel[grid(self.block)](*arguments, **constants, **self.block)


_found: list[_Kernels] = []


def _kernels() -> _Kernels:
    if not _found:
        _found.append(_Kernels())
    return _found[0]
