"""Batches of embeddings whose membership decisions do not depend on rounding.

A similarity within rounding of the threshold may fall on either side in float32, and a
reweighted sum within rounding of its floor may or may not have a gradient. Both results are correct, and they cannot be
compared. So batches are drawn until the reference is far enough from such ties.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .ptx import kernels
from .reference import Evaluation, Settings, evaluate, views_layout

# (similarity to threshold, reweighted sum to floor); several roundings of a cosine in each dtype.
MARGINS = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (1e-6, 2e-5),
    torch.bfloat16: (2e-2, 2e-2),
    torch.float16: (5e-3, 5e-3),
}


def is_decided(found: Evaluation, dtype: torch.dtype) -> bool:
    """Whether no decision of an evaluation is within rounding in `dtype`."""
    threshold_margin, floor_margin = MARGINS[dtype]
    return found.threshold_margin > threshold_margin and found.floor_margin > floor_margin


def clustered(samples: int, views: int, dims: int, generator: torch.Generator) -> Tensor:
    """Views of samples around a few centres, view-major [views * samples, dims], with various norms."""
    centres = torch.randn(max(2, samples // 8), dims, generator=generator, dtype=torch.float64)
    of_sample = torch.randint(len(centres), (samples,), generator=generator)
    base = centres[of_sample] + 0.8 * torch.randn(samples, dims, generator=generator, dtype=torch.float64)
    z = base.repeat(views, 1) + 0.4 * torch.randn(views * samples, dims, generator=generator, dtype=torch.float64)
    return z * (0.5 + torch.rand(len(z), 1, generator=generator, dtype=torch.float64))


def gapped(samples: int, views: int, dims: int, generator: torch.Generator) -> Tensor:
    """Half the samples in tight groups of five, half alone even from their own views.

    Cosines are above 0.9 within a group and below about 0.5 elsewhere. The k-th largest of
    a row is in the group for one half and far below for the other, so that the adaptive
    threshold, their mean, falls into the gap: bfloat16 decides as float64 does.
    """
    grouped = samples // 10 * 5
    alone = samples - grouped
    centres = torch.randn(max(grouped // 5, 1), dims, generator=generator, dtype=torch.float64)
    views_of_samples = []
    for _ in range(views):
        noise = torch.randn(samples, dims, generator=generator, dtype=torch.float64)
        tight = centres.repeat_interleave(5, 0)[:grouped] + 0.15 * noise[:grouped]
        views_of_samples.append(torch.cat([tight, noise[:alone]]) / dims**0.5)
    return torch.cat(views_of_samples)


def gathered(offset: int, samples: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two views of samples, and keys that have them from `offset` on.

    The other keys are near the anchors of which they would be the next view if the samples went on before and after.
    """
    generator = torch.Generator().manual_seed(3)
    z = gapped(samples, 2, 64, generator)
    others = torch.cat([z[samples - offset : samples], z[samples : samples + 35]])
    others += 0.02 * torch.randn(others.shape, generator=generator)
    return z.to(dtype), torch.cat([others[:offset], z, others[offset:]]).to(dtype)


def misled(missed: int, others: int, keys: int, sampled: int) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors of which some have a quantile that the sample's bracket misses, the keys, and the anchors' positives.

    The keys that the sample looks at, as many as `sampled`, are close to the anchors of the one kind, and as the other
    keys to those of the other kind.
    """
    generator = torch.Generator().manual_seed(6)
    anchors, rows, positives = torch.randn(2 * (missed + others) + keys, 64, generator=generator).split(
        [missed + others, keys, missed + others]
    )
    anchors[missed:, 0], rows[:, 0] = 0.0, 0.0
    anchors[:missed, 0], rows[sorted(kernels.sampled_columns(sampled, keys)), 0] = 10.0, 6.0
    return anchors, rows, positives


def decided(
    samples: int,
    views: int,
    dims: int,
    settings: Settings,
    dtype: torch.dtype,
    labels: Tensor | None = None,
    draw: Callable[[int, int, int, torch.Generator], Tensor] = clustered,
) -> Tensor:
    """The first batch in `dtype` for which no decision of `settings` is within rounding."""
    layout = views_layout(samples, views)
    rows = None if labels is None else labels.repeat(views)
    for seed in range(100):
        z = draw(samples, views, dims, torch.Generator().manual_seed(seed)).to(dtype)
        if is_decided(evaluate(z, z, layout, settings, rows, rows), dtype):
            return z
    raise AssertionError(f"no batch of {samples} samples in {dims} dimensions is decided for {settings}")
