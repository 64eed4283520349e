"""The Rust extension: the fused kernels. It allocates no torch memory; `hex_ssl.dispatch` calls it."""

from collections.abc import Callable
from os import PathLike

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hex_ssl.operands import Operands

__all__ = [
    "BORDER",
    "TORCH_VERSION",
    "__version__",
    "anchor_formula",
    "backend_for",
    "check",
    "check_settings",
    "cuda_cubin",
    "cuda_failed_rows_at",
    "cuda_ptx",
    "cuda_remarks",
    "cuda_sources",
    "evaluate",
    "row_quantiles",
    "similarity_statistics",
]

__version__: str
BORDER: str
"""How a tensor becomes memory: "dlpack", or "tch" (linked against libtorch)."""
TORCH_VERSION: str | None
"""The one torch release whose libtorch the extension is linked against; None where it is linked against none."""

def evaluate(
    call: Operands,
    outputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None],
    scratch: Callable[[int], Tensor],
    backend: str,
    allow_tf32: bool,
    threads: int,
) -> str | None:
    """Writes loss, statistics and gradients.

    The pairing follows from the operands:
        `positives`: each anchor's positive is given apart, and all keys are negatives;
        `positive_index`: each anchor's positives are rows of `keys`, and `ignored_index` is neither;
        neither: the anchors are V >= 2 views and stand in `keys` from row `offset` on;
        `keys` None then means that the anchors are the keys.

    Args:
        call: Views, keys and positives may have any strides; index, labels and weights are contiguous.
        outputs: The loss (0-d, or [M] for "none" without weights), the statistics [6] and the gradients for anchors
            [M, D], keys [N, D] and positives [M, D], or None where not wanted: contiguous, in the dtype of the
            arithmetic, beside the views. Statistics: threshold, mean |H|, mean positive similarity, mean negative
            similarity, fraction at the floor, anchors without a loss.
        scratch: Allocates so many bytes beside the views; called for GPUs alone.
        backend: "auto", "cpu", "cuda" or "emulated".
        allow_tf32: Whether the CUDA kernels may multiply float32 rows rounded to tf32.
        threads: Threads on the CPU.

    Returns:
        None, or why "auto" has no kernel for the call. Nothing is written then.

    Raises:
        TypeError: An operand is not a tensor.
        ValueError: A shape, dtype, device, number or name does not fit. On the CPU also for rows that are zero or not
            finite, which elsewhere make the results NaN, and for indices out of range.
        RuntimeError: An output does not fit, or the device fails.
    """

def row_quantiles(
    call: Operands,
    output: Tensor,
    scratch: Callable[[int], Tensor],
    backend: str,
    allow_tf32: bool,
    threads: int,
) -> str | None:
    """Writes the quantile of each anchor's row of similarities, 'nearest' interpolation, into `output` [M].

    With `positives` a row is the keys and the positive. Without, the anchors are V >= 2 views that stand in `keys` from
    row `offset` on (or are the keys), and their own similarity counts as exactly 1. Otherwise as `evaluate`.
    """

def check(call: Operands) -> None:
    """Checks shapes, dtypes, devices and numbers of a call on any device.

    Raises:
        ValueError: As `evaluate`.
    """

def check_settings(temperature: float, formulation: str, beta: float, tau_plus: float, reduction: str) -> None:
    """Checks the settings of a loss that are no matter of its operands.

    Raises:
        ValueError: One is out of its range.
    """

def anchor_formula(
    formulation: str,
    beta: float,
    tau_plus: float,
    temperature: float,
    sums: tuple[float, float, float, float, float, float, float],
    positives: list[float],
) -> tuple[float, bool, int, float, float, float, list[float]]:
    """One anchor's loss and derivatives from the sums over its negatives, as `src/formula.rs` has them. For the tests.

    The sums are those of `hex_ssl.composite.Sums`, in order. Returns the loss, whether it is defined, the number of
    positives at the floor, the coefficients `global_`, `weighted` and `weights` of `hex_ssl.composite.Formula`, and the
    derivatives by the positives.
    """

def backend_for(device: str, dtype: str, backend: str) -> tuple[str, str]:
    """Which backend would run on tensors of `device`, such as "cpu" or "cuda:1", and why, in words: "cpu", "cuda",
    "composite" or "emulated".

    Raises ValueError where `backend` does not run on such a device, RuntimeError where "cuda" cannot run here.
    """

def cuda_cubin(
    capability: tuple[int, int], dims: int, dtype: str, allow_tf32: bool, wgmma: bool = False
) -> tuple[bytes, bool]:
    """The CUDA kernels for rows of `dims` numbers of `dtype`, compiled for a compute capability, such as (9, 0).

    Needs NVRTC, which comes with torch, and no GPU: fills the cache on disk ahead of a run. `wgmma`: with the kernels
    for sm_90a, which calls take where HEX_SSL_CUDA_WGMMA is 1.

    Returns the cubin, and whether it came from the cache.

    Raises ValueError for float64 and for `wgmma` with rows that it has no kernels for, RuntimeError where there is no
    NVRTC or it does not know the capability.
    """

def cuda_ptx(
    capability: tuple[int, int],
    dims: int,
    dtype: str,
    allow_tf32: bool,
    sources: str,
    folder: str | PathLike[str],
    wgmma: bool = False,
) -> str:
    """The PTX that NVRTC makes of `sources` by the options of `cuda_cubin`, kept in `folder` by content. For the tests.

    Raises as `cuda_cubin`, and RuntimeError with the compiler's words where it refuses the sources.
    """

def cuda_remarks(
    capability: tuple[int, int], dims: int, dtype: str, allow_tf32: bool, sources: str, wgmma: bool
) -> str:
    """What ptxas says of `sources` compiled by the options of `cuda_cubin`: registers, spills, warnings. For the tests.

    Raises as `cuda_cubin`.
    """

def cuda_failed_rows_at() -> int:
    """The byte of a call's scratch memory at which CUDA kernels count the rows whose quantile the sample missed.

    An int32, in the memory that `evaluate` and `row_quantiles` ask for. Such rows are searched anew, which takes
    longer. For tests and benchmarks.
    """

def cuda_sources() -> str:
    """The sources that `cuda_cubin` compiles, in one text."""

def similarity_statistics(
    embeddings: NDArray[np.float32] | NDArray[np.float64],
    classes: NDArray[np.int64] | None,
    superclasses: NDArray[np.int64] | None,
    quantile: float,
    threshold: float | None,
    bins: int,
    threads: int,
) -> tuple[float, NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Statistics of the cosine similarities of all pairs of N embeddings [N, D], N >= 2, in O(N * D) memory.

    Returns the threshold (where None is given: the mean of the rows' quantiles, own similarity included), the
    quantiles [N], and by group of negatives (same class, same superclass alone, others) each row's number of negatives
    [N, 3], mean similarity [N, 3] (NaN where there is none) and number above the threshold [N, 3], and the histograms
    [3, bins] of all pairs, each once, over [-1, 1]. Raises ValueError as `evaluate`.
    """
