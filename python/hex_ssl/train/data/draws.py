"""Random numbers as functions of seed, epoch, image and view.

No generator carries state from one image to the next. An image gets the same random numbers in any process, batch and
order, so a resumed run and a run on more processes see the same views. The numbers are hashes of a counter, as in
J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, with the finaliser of SplitMix64
(G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 8).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

# SplitMix64's constants as signed integers, because torch has no unsigned arithmetic.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))

_Numbers = TypeVar("_Numbers", int, Tensor, int | Tensor)


def draw_keys(seed: int | Tensor, epoch: int | Tensor, index: int | Tensor, view: int | Tensor = 0) -> Tensor:
    """One key per image, which determines all random numbers of its view.

    Args:
        seed: Seed of the run, or int64, 0-d.
        epoch: The epoch, a number or int64, 0-d or [N].
        index: The image's row in its split, or int64 [N].
        view: Number of the view, or int64, 0-d.

    Returns:
        int64, with the shape and on the device of `index`.

    Example:
        >>> draw_keys(0, epoch=1, index=torch.tensor([3, 4])).shape
        torch.Size([2])
        >>> int(draw_keys(0, epoch=1, index=3)) == int(draw_keys(0, epoch=1, index=torch.tensor([4, 3]))[1])
        True
    """
    # Plain numbers are hashed in Python: copying each to a GPU as a tensor would wait for the GPU.
    key: int | Tensor = _hashed(_wrapped(seed))
    for part in (epoch, index, view):
        key = _hashed(key ^ _hashed(_wrapped(part + _GOLDEN)))
    return torch.as_tensor(key)


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seeds torch's CPU generator, from which torchvision's transforms draw, and restores its state afterwards.

    Args:
        key: Any 64 bits.

    Example:
        >>> with seeded(1):
        ...     first = torch.rand(1)
        >>> with seeded(1):
        ...     second = torch.rand(1)
        >>> torch.equal(first, second)
        True
    """
    # torch.random.fork_rng and torch.manual_seed would also touch every GPU, from each worker.
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(key)
    try:
        yield
    finally:
        generator.set_state(state)


class Draws:
    """Random numbers for the images of a batch. Each call returns new numbers.

    Args:
        keys: int64 [N], from `draw_keys`.
        ahead: How many numbers per image to compute in advance, in one go. The numbers are the same for any value.

    Example:
        >>> draws = Draws(draw_keys(0, epoch=0, index=torch.arange(3)))
        >>> angle, shift = draws.between(-30.0, 30.0), draws.between(-0.1, 0.1)
        >>> angle.shape, bool((angle.abs() <= 30).all())
        (torch.Size([3]), True)
    """

    def __init__(self, keys: Tensor, ahead: int = 0) -> None:
        self.keys = keys
        self.drawn = 0
        self.ahead = ahead
        self._ready = self._draw(0, ahead) if ahead else keys

    def __len__(self) -> int:
        return len(self.keys)

    def uniform(self, *shape: int) -> Tensor:
        """[N, *shape], float32, uniform in [0, 1)."""
        count = math.prod(shape)
        start, self.drawn = self.drawn, self.drawn + count
        if self.drawn > self.ahead:
            numbers = self._draw(start, count)
        else:
            numbers = self._ready[:, start : self.drawn] if shape else self._ready[:, start]
        return numbers if len(shape) == 1 else numbers.reshape(len(self), *shape)

    def _draw(self, start: int, count: int) -> Tensor:
        # Doubles the numbers and halves them again. Otherwise torch.compile would fuse the range and its product into
        # one C index expression, whose overflow is undefined and has overwritten memory.
        numbers = torch.arange(2 * start + 2, 2 * (start + count) + 2, 2, device=self.keys.device) >> 1
        bits = _mixed(self.keys[:, None] + numbers * _GOLDEN)
        # The upper 24 bits, as many as float32 holds, so that rounding never gives 1. The last step of the hash, which
        # is omitted here, does not change them.
        return _shifted(bits, 40).float() / 2**24

    def between(self, low: float, high: float) -> Tensor:
        """[N], float32, uniform in [`low`, `high`]."""
        return between(self.uniform(), low, high)

    def happens(self, probability: float) -> Tensor:
        """[N], bool, each true with probability `probability`."""
        return self.uniform() < probability

    def permutation(self, count: int) -> Tensor:
        """int64 [N, `count`], a random permutation of 0 to `count` - 1 for each image."""
        return self.uniform(count).argsort(dim=1)

    def normal(self, *shape: int) -> Tensor:
        """[N, *shape], float32, standard normal, by the Box-Muller transform."""
        radius = (-2.0 * torch.log1p(-self.uniform(*shape))).sqrt()
        return radius * torch.cos(2.0 * math.pi * self.uniform(*shape))


def between(numbers: Tensor, low: float, high: float) -> Tensor:
    """Maps numbers that are uniform in [0, 1) to [`low`, `high`]."""
    return low + (high - low) * numbers


def _hashed(numbers: _Numbers) -> _Numbers:
    numbers = _mixed(numbers)
    return numbers ^ _shifted(numbers, 31)


def _mixed(numbers: _Numbers) -> _Numbers:
    for shift, factor in _FACTORS:
        numbers = _wrapped((numbers ^ _shifted(numbers, shift)) * factor)
    return numbers


def _shifted(numbers: _Numbers, bits: int) -> _Numbers:
    # torch has no unsigned right shift: mask the copies of the sign bit.
    return (numbers >> bits) & (2 ** (64 - bits) - 1)


def _wrapped(numbers: _Numbers) -> _Numbers:
    """A Python integer wrapped to 64 bits, as tensors wrap by themselves."""
    return numbers if isinstance(numbers, Tensor) else _signed(numbers)


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
