"""Keys gathered over processes: two processes compute the loss and the gradients of one on the joined batch.

torchrun --nproc-per-node 2 examples/two_processes.py
"""

import torch
import torch._dynamo
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hex_ssl import HexLoss


def main() -> Tensor:
    rank, processes = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same everywhere
    model = nn.Linear(16, 8)
    batch = torch.randn(2, 32 * processes, 16)  # two views of the joined batch

    alone = HexLoss(temperature=0.2)(model(batch[0]), model(batch[1]))
    alone.backward()
    expected = model.weight.grad.clone()
    model.zero_grad()

    # Each process takes its part of the batch; negatives and the threshold come from the whole.
    parallel = DistributedDataParallel(model)
    x1, x2 = batch[:, rank * 32 : (rank + 1) * 32]
    z1, z2 = parallel(torch.cat([x1, x2])).chunk(2)
    loss = HexLoss(temperature=0.2, gather_distributed=True)(z1, z2)
    loss.backward()  # DDP averages the gradients

    mean = loss.detach().clone()
    dist.all_reduce(mean)
    if rank == 0:
        off = (model.weight.grad - expected).abs().max().item()
        joined, single = mean.item() / processes, alone.item()
        print(f"{processes} processes: loss {joined:.6f}; one: {single:.6f}; gradients differ by {off:.1e}")
    return mean


# With gloo a process may abort or hang at its end where something still holds the group (docs/several-gpus.md): DDP,
# unless it is gone by then; torch._dynamo, unless it was imported first; the last tensor sent, unless it lives on.
dist.init_process_group("gloo")  # "nccl" on GPUs
sent = main()
dist.destroy_process_group()
