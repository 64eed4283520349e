"""Run by `tests/test_cuda_emulation.py` under ThreadSanitizer, which wants to be there from a process's start."""

import torch

from hex_ssl.functional import hex_loss


def run() -> None:
    """One adaptive loss with its gradient, on three tiles of columns."""
    torch.set_num_threads(1)
    z = torch.randn(150, 32).bfloat16().requires_grad_()
    loss = hex_loss(*z.chunk(2))
    loss.backward()
    print("loss", loss.item())


if __name__ == "__main__":
    run()
