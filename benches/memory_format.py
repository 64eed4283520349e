"""What `run.channels_last` and bfloat16 save on the CPU: forward and backward of the small network on 512 images.

    python benches/memory_format.py

One process, runs interleaved, medians; one thread, as a run of `hex-ssl reproduce --jobs` has it on two cores.
"""

import statistics
import time
from itertools import product

import torch
from torch import Tensor, nn

from hex_ssl.train.backbones import SmallResNet

IMAGES, WIDTH, REPEATS = 512, 16, 9
FORMATS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
PRECISIONS = {"float32": False, "bfloat16": True}


def seconds(network: nn.Module, images: Tensor, half: bool) -> float:
    """Of one step."""
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        representations = network(images)
    representations.float().square().mean().backward()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    print("| pixels | precision | " + " | ".join(f"{name}, ms" for name in FORMATS) + " | ratio |")
    print("|---|---|---|---|---|")
    for pixels in (16, 32):
        images = torch.randn(IMAGES, 3, pixels, pixels)
        networks = {name: SmallResNet(3, WIDTH).to(memory_format=each) for name, each in FORMATS.items()}
        times: dict[tuple[str, str], list[float]] = {each: [] for each in product(PRECISIONS, FORMATS)}
        for repeat in range(REPEATS + 1):
            for precision, name in times:
                taken = seconds(networks[name], images, PRECISIONS[precision])
                if repeat:  # the first warms up
                    times[precision, name].append(taken)
        for precision in PRECISIONS:
            first, last = (statistics.median(times[precision, name]) for name in FORMATS)
            print(f"| {pixels} | {precision} | {first * 1e3:.0f} | {last * 1e3:.0f} | {first / last:.2f} |", flush=True)


if __name__ == "__main__":
    main()
