"""Makes normalised views of a loaded batch on the device. The CPU never waits for the device."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hex_ssl.train.data.batched_views import BatchedView
from hex_ssl.train.data.digit_views import DigitView
from hex_ssl.train.data.draws import draw_keys
from hex_ssl.train.data.evaluation_images import as_float, check_statistics

PART = 2**17
"""Number of pixels, of all images together, that each thread of a CPU processes at a time, so that they fit into its
cache."""

Maker = BatchedView | DigitView | None
"""Draws a view. None if the DataLoader workers have drawn it."""


class DeviceViews:
    """Makes normalised views of images, crops or whole views.

    Args:
        makers: Draws each view.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        seed: Seed of the random numbers, together with the epoch, the image's row and the number of the view.

    Attributes:
        dtype: Floating-point dtype of the views.
        memory_format: Memory format of the views.

    Example:
        >>> from hex_ssl.train.data import PhotoView
        >>> views = DeviceViews([BatchedView(PhotoView(), 8)] * 2, (0.5,), (0.25,), seed=0)
        >>> images = torch.randint(0, 256, (4, 1, 10, 10), dtype=torch.uint8)
        >>> first, second = views((images, images), torch.arange(4), torch.tensor(0))
        >>> first.shape, torch.equal(first, second)
        (torch.Size([4, 1, 8, 8]), False)
    """

    def __init__(self, makers: Sequence[Maker], mean: tuple[float, ...], std: tuple[float, ...], seed: int) -> None:
        self.makers = tuple(makers[makers.index(each)] for each in makers)  # compile equal ones once
        self.mean = mean
        self.std = std
        self.seed = seed
        self.dtype = torch.float32
        self.memory_format = torch.contiguous_format
        self._make: Callable[..., Tensor] = _make
        self._begins_step = False
        self._constants: dict[torch.device, _Constants] = {}

    def compile(self, **options: Any) -> None:
        """Compiles the code that makes a view, once for each kind of view and number of images.

        Args:
            **options: Options of `torch.compile`.
        """
        self._make = torch.compile(_make, **{"dynamic": False, **options})
        self._begins_step = options.get("mode") == "reduce-overhead"

    def __call__(self, images: Sequence[Tensor], indices: Tensor, epoch: Tensor) -> tuple[Tensor, ...]:
        """The views, each [N, C, S, S], normalised.

        Args:
            images: The input of each view, [N, C, H, W], uint8 in [0, 255] or floating point in [0, 1].
            indices: int64 [N], the rows of the images.
            epoch: int64, 0-d.
        """
        if self._begins_step:  # what CUDA graphs computed in the step before may now be overwritten
            torch.compiler.cudagraph_mark_step_begin()
        constants = self._constants_on(images[0])
        return tuple(
            self._view(maker, each, indices, epoch, constants, number)
            for maker, each, number in zip(self.makers, images, constants.numbers, strict=True)
        )

    def _view(
        self, maker: Maker, images: Tensor, indices: Tensor, epoch: Tensor, constants: "_Constants", number: Tensor
    ) -> Tensor:
        at_once = PART * torch.get_num_threads()
        parts = max(1, images[:, 0].numel() // at_once) if images.device.type == "cpu" else 1
        made = [
            self._make(maker, some, rows, epoch, number, constants, self.memory_format)
            for some, rows in zip(images.chunk(parts), indices.chunk(parts), strict=True)
        ]
        return made[0] if parts == 1 else torch.cat(made)

    def _constants_on(self, images: Tensor) -> "_Constants":
        """The constants on the device of `images`. Copying them for each batch would wait for the device."""
        found = self._constants.get(images.device)
        if found is None or found.mean.dtype != self.dtype:
            check_statistics(images.shape[1], self.mean, self.std)
            mean, std = (
                torch.tensor(each, dtype=self.dtype, device=images.device)[:, None, None]
                for each in (self.mean, self.std)
            )
            # The seed and the view numbers are tensors so that runs and views share one compiled program.
            whole = (self.seed, *range(len(self.makers)))
            seed, *numbers = (torch.tensor(each, device=images.device) for each in whole)
            found = _Constants(mean, std, seed, tuple(numbers))
            self._constants[images.device] = found
        return found


class _Constants(NamedTuple):
    """Mean and standard deviation [C, 1, 1], the seed and the number of each view, 0-d."""

    mean: Tensor
    std: Tensor
    seed: Tensor
    numbers: tuple[Tensor, ...]


def _make(
    maker: Maker,
    images: Tensor,
    indices: Tensor,
    epoch: Tensor,
    number: Tensor,
    constants: _Constants,
    memory_format: torch.memory_format,
) -> Tensor:
    view = as_float(images)
    if maker is not None:
        view = maker(view, draw_keys(constants.seed, epoch, indices, number))
    return ((view - constants.mean) / constants.std).contiguous(memory_format=memory_format)
