"""Run by `tests/test_cuda_emulation.py` under a sanitizer, which wants to be there from a process's start."""

import sys

import torch

from hex_ssl.functional import hex_loss, hex_loss_with_keys
from hex_ssl.thresholds import FixedThreshold


def races() -> None:
    """One adaptive loss with its gradient, on three tiles of columns."""
    z = torch.randn(130, 32).bfloat16().requires_grad_()
    hex_loss(*z.chunk(2)).backward()


def bounds() -> None:
    """Every kernel, on sizes that are multiples of nothing."""
    z = torch.randn(70, 33, requires_grad=True)
    keys = torch.randn(67, 33, requires_grad=True)
    hex_loss(*z.chunk(2)).backward()
    hex_loss(*z.chunk(2), threshold=FixedThreshold(0.5), temperature=0.01).backward()
    index = torch.arange(70) % 67
    hex_loss_with_keys(z, keys, positive_index=index, ignored_index=torch.full((70,), -1)).backward()
    hex_loss_with_keys(z[:5], torch.randn(1100, 33), positives=z[5:10]).backward()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"races": races, "bounds": bounds}[sys.argv[1]]()
    print("done")
