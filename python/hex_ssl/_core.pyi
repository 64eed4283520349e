"""The Rust extension. Everything here works on tensors as they are: no device is
changed, no dtype converted behind the caller. `hex_ssl.ops` registers these with torch."""

from collections.abc import Sequence
from os import PathLike

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "BORDER",
    "TORCH_VERSION",
    "__version__",
    "backend_for",
    "cuda_cubin",
    "cuda_ptx",
    "cuda_sources",
    "evaluate",
    "fallbacks",
    "row_quantiles",
    "similarity_statistics",
]

__version__: str
BORDER: str
"""How the extension reaches torch: "dynamic" (by methods of Python's tensors) or "tch" (linked against libtorch)."""
TORCH_VERSION: str | None
"""The one torch release whose libtorch the extension is linked against; None where it is linked against none."""

def evaluate(
    views: Sequence[Tensor],
    keys: Tensor | None,
    positives: Tensor | None,
    positive_index: Tensor | None,
    ignored_index: Tensor | None,
    anchor_labels: Tensor | None,
    key_labels: Tensor | None,
    epsilon: Tensor | None,
    weights: Tensor | None,
    offset: int,
    threshold: str,
    threshold_value: float,
    formulation: str,
    beta: float,
    tau_plus: float,
    temperature: float,
    reduction: str,
    want_gradient: bool,
    backend: str,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, statistics and gradients.

    `views`: the anchors, V tensors [n, D] that count as one [M, D] below the other (M = V * n); floating point,
        any strides, all of one dtype and device with `keys` and `positives`.
    The pairing follows from what is given:
        `positives` [M, D]: each anchor's positive given apart, `keys` [N, D] are all negatives;
        `positive_index` int64 [M, P] (rows of `keys`; `ignored_index` int64 [M], -1 for none, optional): indexed;
        neither: the anchors are V >= 2 views and stand in `keys` from row `offset` on;
        `keys` None then means that the anchors are the keys.
    `anchor_labels` int64 [M] and `key_labels` int64 [N] (None where `keys` is None): for threshold "labels".
    `threshold`: "adaptive" (`threshold_value` is the quantile), "cosine", "minmax" (the value), "labels",
        or "given" (`epsilon`, a 0-d tensor on the same device, compared with plain cosines; read without
        a synchronisation where the backend is on a GPU).
    `weights` [M] in the gradients' dtype: the loss is then sum of weight * loss of the anchor.
    `formulation`: "importance", "official", "decoupled". `reduction`: "mean", "sum", "none".
    `backend`: "auto", "cpu", "cuda", "composite", "emulated". "auto" takes the composite path for what the fused
        kernels cannot do, and warns once of each reason (RuntimeWarning), but not of float64 on a GPU.
    `allow_tf32`: whether the CUDA kernels may multiply float32 rows rounded to tf32.

    Returns loss (0-d, or [M] for "none" without weights; float64 for float64 inputs, else float32),
    statistics (float32 [6], or float64 for float64 inputs: threshold, mean |H|, mean positive similarity,
    mean negative similarity, fraction at the floor, anchors without a loss), and the gradients of the loss
    for anchors [M, D], keys [N, D], positives [M, D] in the loss's dtype; empty tensors [0] where
    `want_gradient` is false or the input is absent. Never part of an autograd graph.
    Keys' and positives' gradients are computed only where that input requires a gradient.
    With reduction "none" and no weights there is no gradient.

    Raises ValueError for shapes, dtypes, devices, ranges, unknown names and, on the CPU, for rows that are zero or not
    finite (elsewhere they become NaN) and for indices out of range; TypeError for what is no tensor; RuntimeError
    where libtorch fails.
    """

def row_quantiles(
    views: Sequence[Tensor],
    keys: Tensor | None,
    positives: Tensor | None,
    offset: int,
    quantile: float,
    backend: str,
    allow_tf32: bool,
) -> Tensor:
    """The quantile of each anchor's row of similarities [M], 'nearest', in the loss's dtype.

    With `positives` [M, D] a row is the keys and the positive. Without, the anchors are V >= 2 views that stand in
    `keys` from row `offset` on (or are the keys), and their own similarity counts as exactly 1.
    """

def backend_for(device: str, dtype: str, backend: str) -> tuple[str, str]:
    """Which backend would run on tensors of `device`, such as "cpu" or "cuda:1", and why, in words: "cpu", "cuda",
    "composite" or "emulated".

    Raises ValueError where `backend` does not run on such a device, RuntimeError where "cuda" cannot run here.
    """

def fallbacks() -> list[str]:
    """Why calls with `backend` "auto" fell back on libtorch's operations so far, each reason once, in order."""

def cuda_cubin(capability: tuple[int, int], dims: int, dtype: str, allow_tf32: bool) -> tuple[bytes, bool]:
    """The CUDA kernels for rows of `dims` numbers of `dtype`, compiled for a compute capability, such as (9, 0).

    Needs NVRTC, which comes with torch, and no GPU: fills the cache on disk ahead of a run.

    Returns the cubin, and whether it came from the cache.

    Raises ValueError for float64, RuntimeError where there is no NVRTC or it does not know the capability.
    """

def cuda_ptx(
    capability: tuple[int, int], dims: int, dtype: str, allow_tf32: bool, sources: str, folder: str | PathLike[str]
) -> str:
    """The PTX that NVRTC makes of `sources` by the options of `cuda_cubin`, kept in `folder` by content. For the tests.

    Raises as `cuda_cubin`, and RuntimeError with the compiler's words where it refuses the sources.
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
) -> tuple[float, NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Statistics of the cosine similarities of all pairs of N embeddings [N, D], N >= 2, in O(N * D) memory.

    Returns the threshold (where None is given: the mean of the rows' quantiles, own similarity included), the
    quantiles [N], and by group of negatives (same class, same superclass alone, others) each row's number of negatives
    [N, 3], mean similarity [N, 3] (NaN where there is none) and number above the threshold [N, 3], and the histograms
    [3, bins] of all pairs, each once, over [-1, 1]. Raises ValueError as `evaluate`.
    """
