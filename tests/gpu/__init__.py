"""Tests that need a CUDA GPU: `pytest tests/gpu -m gpu`. Elsewhere all of them are skipped.

HEX_SSL_GPU_REHEARSAL=cpu runs the tests that can run on CPU tensors with the CPU kernel, so that few tests run for the
first time on a machine with a GPU.
"""

import os

import pytest
import torch

REHEARSAL = os.environ.get("HEX_SSL_GPU_REHEARSAL")
DEVICE = torch.device("cpu" if REHEARSAL else "cuda")
BACKEND = REHEARSAL or "cuda"

_HAS_GPU = torch.cuda.is_available()
NEEDS_DEVICE = [pytest.mark.gpu, pytest.mark.skipif(not (_HAS_GPU or REHEARSAL), reason="needs a CUDA GPU")]
"""For a file whose tests can be rehearsed."""
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not _HAS_GPU or bool(REHEARSAL), reason="needs a CUDA GPU")]
"""For a test that cannot."""
