"""Random numbers that are functions of what they are for: seed, epoch, image and view.

No generator carries a state from one image to the next: a draw is the same in whichever process, batch and order the
image comes, so that a resumed run and a run on more processes see the same views. Numbers are hashes of a counter, as
in J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, with the finaliser of SplitMix64
(G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 8).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# SplitMix64's constants, as the signed integers that torch has.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def draw_keys(seed: int, epoch: int | Tensor, index: int | Tensor, view: int = 0) -> Tensor:
    """One key per image, from which all that is random about its view is drawn.

    Args:
        seed: The run's.
        epoch: The epoch, or int64 [N].
        index: The image's row in its split, or int64 [N].
        view: Number of the view.

    Returns:
        int64, of the shape and on the device of `index`.

    Example:
        >>> draw_keys(0, epoch=1, index=torch.tensor([3, 4])).shape
        torch.Size([2])
        >>> int(draw_keys(0, epoch=1, index=3)) == int(draw_keys(0, epoch=1, index=torch.tensor([4, 3]))[1])
        True
    """
    indices = torch.as_tensor(index)
    key = _hashed(torch.full_like(indices, _signed(seed)))
    for part in (torch.as_tensor(epoch, device=indices.device), indices, torch.tensor(view, device=indices.device)):
        key = _hashed(key ^ _hashed(part + _GOLDEN))
    return key


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

    Example:
        >>> draws = Draws(draw_keys(0, epoch=0, index=torch.arange(3)))
        >>> angle, shift = draws.between(-30.0, 30.0), draws.between(-0.1, 0.1)
        >>> angle.shape, bool((angle.abs() <= 30).all())
        (torch.Size([3]), True)
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self.drawn = 0

    def __len__(self) -> int:
        return len(self.keys)

    def uniform(self, *shape: int) -> Tensor:
        """[N, *shape], float32, uniform in [0, 1)."""
        count = math.prod(shape)
        numbers = torch.arange(self.drawn + 1, self.drawn + count + 1, device=self.keys.device)
        self.drawn += count
        bits = _hashed(self.keys[:, None] + numbers * _GOLDEN)
        # The upper 24 bits: as many as float32 holds, so that 1 is never reached by rounding.
        return (_shifted(bits, 40).float() / 2**24).view(len(self), *shape)

    def between(self, low: float, high: float) -> Tensor:
        """[N], float32, uniform in [`low`, `high`]."""
        return low + (high - low) * self.uniform()

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


def _hashed(numbers: Tensor) -> Tensor:
    for shift, factor in _FACTORS:
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    # torch has no unsigned shift to the right: the copies of the sign are cut off.
    return (numbers >> bits) & (2 ** (64 - bits) - 1)


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
