"""Random numbers that are functions of what they are for: seed, epoch, image and view.

No generator carries a state from one image to the next: a draw is the same in whichever process, batch and order the
image comes, so that a resumed run and a run on more processes see the same views. Numbers are hashes of a counter, as
in J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, with the finaliser of SplitMix64
(G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 8).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

# SplitMix64's constants, as the signed integers that torch has.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))

_Numbers = TypeVar("_Numbers", int, Tensor, int | Tensor)


def draw_keys(seed: int, epoch: int | Tensor, index: int | Tensor, view: int | Tensor = 0) -> Tensor:
    """One key per image, from which all that is random about its view is drawn.

    Args:
        seed: The run's.
        epoch: The epoch, or int64 [N].
        index: The image's row in its split, or int64 [N].
        view: Number of the view, or int64, 0-d.

    Returns:
        int64, of the shape and on the device of `index`.

    Example:
        >>> draw_keys(0, epoch=1, index=torch.tensor([3, 4])).shape
        torch.Size([2])
        >>> int(draw_keys(0, epoch=1, index=3)) == int(draw_keys(0, epoch=1, index=torch.tensor([4, 3]))[1])
        True
    """
    # Numbers are hashed in Python: as tensors on a GPU, each would make the program wait for the GPU.
    key: int | Tensor = _hashed(_signed(seed))
    for part in (epoch, index, view):
        key = _hashed(key ^ _hashed(_wrapped(part + _GOLDEN)))
    return torch.as_tensor(key)


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seeds torch's generator of the CPU, from which torchvision's transforms draw, and puts it back afterwards.

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
    """Random numbers for the images of a batch; each call draws anew.

    Args:
        keys: int64 [N], of `draw_keys`.
        ahead: How many numbers of an image to draw at once, for the first calls to share: the numbers stay the same.

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
        # Twice the numbers, then half of them: torch's compiler would make one C expression of the range and its
        # product, an index, for which too large a number is undefined and has overwritten memory.
        numbers = torch.arange(2 * start + 2, 2 * (start + count) + 2, 2, device=self.keys.device) >> 1
        bits = _mixed(self.keys[:, None] + numbers * _GOLDEN)
        # The upper 24 bits: as many as float32 holds, so that 1 is never reached by rounding. The last step of the hash
        # leaves them as they are.
        return _shifted(bits, 40).float() / 2**24

    def between(self, low: float, high: float) -> Tensor:
        """[N], float32, uniform in [`low`, `high`]."""
        return between(self.uniform(), low, high)

    def happens(self, probability: float) -> Tensor:
        """[N], bool: true with `probability`."""
        return self.uniform() < probability

    def permutation(self, count: int) -> Tensor:
        """[N, `count`], int64: an order of 0 to `count` - 1 for each image."""
        return self.uniform(count).argsort(dim=1)

    def normal(self, *shape: int) -> Tensor:
        """[N, *shape], float32, standard normal, by Box and Muller's formula."""
        radius = (-2.0 * torch.log1p(-self.uniform(*shape))).sqrt()
        return radius * torch.cos(2.0 * math.pi * self.uniform(*shape))


def between(numbers: Tensor, low: float, high: float) -> Tensor:
    """Numbers uniform in [0, 1) as numbers uniform in [`low`, `high`]."""
    return low + (high - low) * numbers


def _hashed(numbers: _Numbers) -> _Numbers:
    numbers = _mixed(numbers)
    return numbers ^ _shifted(numbers, 31)


def _mixed(numbers: _Numbers) -> _Numbers:
    for shift, factor in _FACTORS:
        numbers = _wrapped((numbers ^ _shifted(numbers, shift)) * factor)
    return numbers


def _shifted(numbers: _Numbers, bits: int) -> _Numbers:
    # torch has no unsigned shift to the right: the copies of the sign are cut off.
    return (numbers >> bits) & (2 ** (64 - bits) - 1)


def _wrapped(numbers: _Numbers) -> _Numbers:
    """A number as one of 64 bits; those of a tensor are."""
    return numbers if isinstance(numbers, Tensor) else _signed(numbers)


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
