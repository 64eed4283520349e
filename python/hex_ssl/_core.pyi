"""The Rust extension with the fused kernels. `hex_ssl.dispatch` calls it. It allocates no torch memory."""

from collections.abc import Callable
from os import PathLike
from typing import Any

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
    "cuda_rerun_at",
    "cuda_sources",
    "evaluate",
    "requested_backend",
    "row_quantiles",
    "similarity_statistics",
    "usual_views",
]

__version__: str
BORDER: str
"""How the extension reads the memory of a tensor: "dlpack", or "tch" (linked against libtorch)."""
TORCH_VERSION: str | None
"""The torch release whose libtorch the extension is linked against. None if it is not linked against libtorch."""

def evaluate(
    call: Operands | tuple[Any, ...],
    outputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    scratch: Callable[[int], Tensor] | None,
    backend: str,
    allow_tf32: bool,
    threads: int,
) -> str | None:
    """Writes the loss, the statistics and the gradients.

    The operands determine the pairing:
        With `towers`, the two views are compared only with each other.
        With `positives` alone, these start with the positive of each anchor, and the keys are negatives.
        With `positive_index`, the positives of each anchor are rows of `keys`.
        In both cases, the keys in `ignored_index` are neither positives nor negatives, and all other rows of
        `positives` are negatives of their anchor alone.
        Otherwise the anchors are V >= 2 views (V >= 1 for "supervised"). They are the rows of `keys` from `offset` on,
        or the keys themselves if `keys` is None.

    Args:
        call: The operands, at least up to `towers`. Views, keys and positives may have any strides. Indices, labels and
            weights are contiguous.
        outputs: The memory for the loss (0-d, or [M] for "none" without weights), the statistics [6], the gradients for
            anchors [M, D], keys [N, D] and positives [M * R, D], and the derivative by the temperature, 0-d. None for
            unwanted ones. The memory is contiguous, in the dtype of the arithmetic, on the device of the views, and
            nothing else uses it. The statistics are the threshold, mean |H|, mean positive similarity, mean negative
            similarity, fraction at the floor, and number of anchors without a loss.
        scratch: Allocates the given number of bytes on the device of the views. Only the CUDA kernels need it.
        backend: "auto", "cpu", "cuda" or "emulated".
        allow_tf32: Whether the CUDA kernels may round float32 rows to tf32 for products.
        threads: Number of CPU threads.

    Returns:
        None if the results were written. Otherwise the reason why "auto" has no kernel for the call.

    Raises:
        TypeError: An operand is not a tensor.
        ValueError: A shape, dtype, device, number or name is wrong. On the CPU also if a row is all zeros or not
            finite, or if an index is out of range. On a GPU such rows make the results NaN.
        RuntimeError: An output has the wrong shape, dtype or device, or the device fails.
    """

def row_quantiles(
    call: Operands,
    output: Tensor,
    scratch: Callable[[int], Tensor],
    backend: str,
    allow_tf32: bool,
    threads: int,
) -> str | None:
    """Writes the quantile of each anchor's row of similarities, with 'nearest' interpolation, into `output` [M].

    A row contains the similarities with all keys and, if `positives` are given, with those of the anchor. If the
    anchors are among the keys, an anchor's similarity with itself is exactly 1. Everything else is as for `evaluate`.
    """

def usual_views(views: list[Tensor]) -> tuple[int, int, bool] | None:
    """The number of all rows, the dimension, and whether a view requires a gradient.

    None unless there are two or more plain tensors on the CPU or on one CUDA device, matrices of one shape and one of
    the losses' dtypes, whose memory the kernels can read. There is nothing to check or to convert then.
    """

def check(call: Operands) -> None:
    """Checks the shapes, dtypes, devices and numbers of a call, on any device.

    Raises:
        ValueError: As `evaluate`.
    """

def check_settings(temperature: float, formulation: str, beta: float, tau_plus: float, reduction: str) -> None:
    """Checks the settings of a loss that do not depend on its operands.

    Raises:
        ValueError: A setting is out of its range.
    """

def anchor_formula(
    formulation: str,
    beta: float,
    tau_plus: float,
    temperature: float,
    sums: tuple[float, float, float, float, float, float, float],
    positives: list[float],
) -> tuple[float, bool, int, float, float, float, list[float]]:
    """Computes the loss and derivatives of one anchor from the sums over its negatives, by `src/formula.rs`. For tests.

    The sums are those of `hex_ssl.composite.Sums`, in order but without `similarity`, which is 0. Returns the loss,
    whether it is defined, the number of positives at the floor, the coefficients `global_`, `weighted` and `weights` of
    `hex_ssl.composite.Formula`, and the derivatives by the positives.
    """

def requested_backend() -> str:
    """The value of HEX_SSL_BACKEND, "auto" if it is not set. Raises ValueError if it is not the name of a backend."""

def backend_for(device: str, dtype: str, backend: str) -> tuple[str, str]:
    """The backend that runs on tensors of `device`, such as "cpu" or "cuda:1", and the reason for the choice.

    The backend is "cpu", "cuda", "composite" or "emulated". Raises ValueError if `backend` does not run on the device,
    and RuntimeError if "cuda" cannot run on this machine.
    """

def cuda_cubin(
    capability: tuple[int, int], dims: int, dtype: str, allow_tf32: bool, wgmma: bool = False
) -> tuple[bytes, bool]:
    """Compiles the CUDA kernels for rows of `dims` numbers of `dtype` and a compute capability, such as (9, 0).

    This needs NVRTC, which comes with the CUDA builds of torch, but no GPU. It fills the cache on disk before a run.
    `wgmma` compiles the kernels for sm_90a, which calls use if HEX_SSL_CUDA_WGMMA is 1.

    Returns the cubin, and whether it came from the cache.

    Raises ValueError for float64, and for `wgmma` with rows that have no such kernels; RuntimeError if there is no
    NVRTC or if NVRTC does not know the capability.
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
    """Compiles `sources` to PTX with the options of `cuda_cubin`. `folder` is a cache, keyed by content. For tests.

    Raises as `cuda_cubin`, and RuntimeError with the compiler's message if the sources do not compile.
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

def cuda_rerun_at() -> int:
    """The byte of a call's scratch memory at which CUDA kernels tell whether they computed the sums twice.

    An int32, 0 or 1, in the memory that `evaluate` asks for. If not 0, one pass for quantiles and sums did not suffice,
    which takes longer. For tests and benchmarks.
    """

def cuda_sources() -> str:
    """The sources that `cuda_cubin` compiles, as one string."""

def similarity_statistics(
    embeddings: NDArray[np.float32] | NDArray[np.float64],
    classes: NDArray[np.int64] | None,
    superclasses: NDArray[np.int64] | None,
    quantile: float,
    threshold: float | None,
    bins: int,
    threads: int,
) -> tuple[float, NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Computes statistics of the cosine similarities of all pairs of N embeddings [N, D], N >= 2, in O(N * D) memory.

    Returns the fields of `hex_ssl.statistics.SimilarityStatistics`, in order. If `threshold` is None, the threshold is
    the mean of the quantiles. Raises ValueError if a shape, label or number is out of its range, if a class has two
    superclasses, or if a row is all zeros or not finite.
    """
