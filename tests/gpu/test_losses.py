"""Two towers, SupCon and a temperature that is a tensor, against the CPU kernel in float64."""

import pytest
import torch

from hex_ssl import functional

from ..batches import gapped
from ..temperatures import LOSSES, Step, assert_close, exact, step
from . import DEVICE, NEEDS_DEVICE, NEEDS_GPU

pytestmark = NEEDS_DEVICE


@pytest.mark.parametrize("temperature", [0.01, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_core_losses_like_the_cpu_kernel(name: str, dtype: torch.dtype, temperature: float) -> None:
    z = gapped(300, 2, 64, torch.Generator().manual_seed(3)).to(dtype)
    given = torch.tensor(temperature)
    found = step(LOSSES[name], z.to(DEVICE), given.to(DEVICE))
    assert_close(Step(*(each.cpu() for each in found)), exact(LOSSES[name], z, given), temperature, dtype)


@NEEDS_GPU[1]
def test_a_graph_reads_the_temperature_of_each_replay() -> None:
    z = gapped(300, 2, 64, torch.Generator().manual_seed(3)).float().to(DEVICE)
    temperature = torch.tensor(0.2, device=DEVICE)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(functional.clip_loss, z, temperature)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(functional.clip_loss, z, temperature)
    for value in (0.2, 0.01, 1.0):
        temperature.fill_(value)
        graph.replay()
        for ours, theirs in zip(found, step(functional.clip_loss, z, temperature), strict=True):
            assert torch.equal(ours, theirs)
