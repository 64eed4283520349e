"""JPEG files to two random views on one core, images per second: ours beside Pillow's way, torchvision and lightly.

    python benches/images.py                # 64 files of 500 x 375 pixels, views of 224
    python benches/images.py --repeats 20
    python benches/images.py --grain 0 --shapes 6 8 --quality 75    # files of 12 kB, easy to decode

All ways take turns in one process, and the time is the process's own, so that other programs on the machine count
little; the best and the median of the turns are given, and what ours is over each other way. "Crops" are decoded,
cropped and resized images, bytes that a GPU makes views of; "views" are made by the processor to the end. Decoding
alone, from memory and without a crop, is the limit of all of them; it depends on the files' bytes (`--grain`,
`--shapes` and `--quality`).
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from hex_ssl.train.data.draws import draw_keys
from hex_ssl.train.data.images import FileImages, decode_image
from hex_ssl.train.data.loader import TrainingImages
from hex_ssl.train.data.policies import POLICIES
from hex_ssl.train.data.worker_crops import WorkerCrop
from loss import machine

POLICY = POLICIES["symmetric"]
BICUBIC = v2.InterpolationMode.BICUBIC


def write_photographs(
    root: Path,
    count: int,
    size: tuple[int, int],
    grain: float,
    shapes: tuple[int, int] = (24, 32),
    quality: int = 92,
) -> list[str]:
    """JPEG files of large shapes with some grain, which decides how many bytes a file has.

    With a grain of 14, a file of 500 x 375 pixels has 106 kB, like ImageNet's. With 3 it has a third of that.
    `shapes` is how many shapes there are from top to bottom and from left to right.
    """
    generator, names = np.random.default_rng(0), []
    for number in range(count):
        small = Image.fromarray(generator.integers(0, 256, (*shapes, 3), np.uint8))
        noise = generator.normal(0, grain, (size[1], size[0], 1))
        pixels = (np.asarray(small.resize(size, Image.Resampling.BICUBIC)) + noise).clip(0, 255).astype(np.uint8)
        names.append(f"{number}.jpg")
        Image.fromarray(pixels).save(root / names[-1], quality=quality)
    return names


def ways(root: Path, names: list[str], size: int) -> dict[str, Callable[[], object]]:
    """What makes two views of each file."""
    dataset = FileImages(root, names, [0] * len(names), 1)
    places = (0, np.arange(len(names)))
    crops = TrainingImages(dataset, POLICY, size, 0, "crops")
    views = TrainingImages(dataset, POLICY, size, 0, "views")
    pillow = [WorkerCrop(view, size) for view in POLICY]
    encoded = [torch.from_numpy(np.fromfile(root / name, np.uint8)) for name in names]
    crop = v2.Compose([v2.RandomResizedCrop(size, interpolation=BICUBIC), v2.PILToTensor()])
    whole = v2.Compose(
        [
            v2.RandomResizedCrop(size, interpolation=BICUBIC),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], 0.5),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ]
    )

    def by_pillow() -> object:
        images = [decode_image(root / name) for name in names]
        keys = [draw_keys(0, 0, torch.arange(len(names)), number).tolist() for number in range(2)]
        return [
            torch.stack([pillow[n](image, key) for image, key in zip(images, keys[n], strict=True)]) for n in (0, 1)
        ]

    def by(transform: Callable[[Image.Image], object]) -> Callable[[], object]:
        def make() -> object:
            for name in names:
                with Image.open(root / name) as file:
                    image = file.convert("RGB")
                transform(image), transform(image)
            return None

        return make

    found = {
        "decoding alone": lambda: [decode_jpeg(each, ImageReadMode.RGB) for each in encoded],
        "crops: ours": lambda: crops[places],
        "crops: Pillow": by_pillow,
        "crops: torchvision": by(crop),
        "views: ours": lambda: views[places],
        "views: torchvision": by(whole),
    }
    try:
        from lightly.transforms import SimCLRTransform
    except ImportError:
        return found
    lightly = SimCLRTransform(input_size=size)

    def by_lightly() -> object:
        for name in names:
            with Image.open(io.BytesIO((root / name).read_bytes())) as file:
                lightly(file.convert("RGB"))
        return None

    return {**found, "views: lightly": by_lightly}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--grain", type=float, default=14, help="standard deviation of the noise in the files")
    parser.add_argument("--shapes", type=int, nargs=2, default=[24, 32], help="from top to bottom and left to right")
    parser.add_argument("--quality", type=int, default=92, help="of the JPEG files, 1 to 95")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        names = write_photographs(
            Path(folder),
            arguments.count,
            (500, 375),
            arguments.grain,
            tuple(arguments.shapes),
            arguments.quality,
        )
        kilobytes = sum((Path(folder) / name).stat().st_size for name in names) / 1e3 / len(names)
        runs = ways(Path(folder), names, arguments.size)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(arguments.repeats + 1):
            for name, run in runs.items():
                start = time.process_time()
                run()
                if turn:  # the first warms up
                    seconds[name].append(time.process_time() - start)
    best = {name: arguments.count / min(each) for name, each in seconds.items()}
    about = f"{arguments.count} files of {kilobytes:.0f} kB, two views of {arguments.size} pixels, one core"
    print(f"{machine()}\n\n{about}\n\n{table(best, seconds, arguments.count)}")


def table(best: dict[str, float], seconds: dict[str, list[float]], count: int) -> str:
    """Images per second of each way, and how many times as many ours makes."""
    lines = [
        "| way | images/s, best | images/s, median | crops: ours / it | views: ours / it |",
        "|---|---|---|---|---|",
    ]
    for name, each in seconds.items():
        ratios = " | ".join(f"{best[ours] / best[name]:.2f}" for ours in ("crops: ours", "views: ours"))
        lines.append(f"| {name} | {best[name]:,.0f} | {count / statistics.median(each):,.0f} | {ratios} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
