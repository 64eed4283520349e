"""`python -m gpu.bare [--every] ROWS...`: forward and backward and little else, for ncu and compute-sanitizer.

With --every: further settings, which launch the kernels that the usual case does not. The last line says that it ran
to its end.
"""

import sys
from typing import Any

import torch

from gpu.records import REHEARSAL
from gpu.workload import DEVICE, synchronize, views
from hex_ssl import functional, ops
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold, MarginThreshold

ENDED = "every call has ended"
"""The last line."""
MANY = 9216 if not REHEARSAL else 64
"""Rows with so many pairs that `total_similarity` is launched, on up to 160 multiprocessors."""
SETTINGS: list[dict[str, Any]] = [
    {"threshold": FixedThreshold(0.6)},
    {"threshold": FixedThreshold(0.5, scale="cosine")},
    {"threshold": "supervised"},
    {"temperature": 0.02},
    {"beta": 2.0},
    {"formulation": "official"},
    {"threshold": MarginThreshold(), "formulation": "elimination"},
]
"""Of `hex_loss`: thresholds of each row and of all, precise shifts, exponents and formulations besides the usual."""


def every_kernel(rows: int) -> None:
    """Settings, keys, positives and quantiles that launch every kernel."""
    z1, z2 = views(rows)
    labels = torch.arange(rows // 2, device=DEVICE) % 10
    for settings in SETTINGS:
        given = {"labels": labels} if settings.get("threshold") == "supervised" else {}
        functional.hex_loss(z1, z2, **settings, **given).backward()
    keys = torch.cat([z1.detach(), z2.detach()]).requires_grad_()
    functional.hex_loss_with_keys(z1, keys, positives=z2).backward()
    index = torch.arange(rows // 2, device=DEVICE)[:, None] + rows // 2
    functional.hex_loss_with_keys(z1, keys, positive_index=index).backward()
    ignored = (index + torch.arange(1, 4, device=DEVICE)) % rows
    functional.hex_loss_with_keys(z1, keys, positive_index=index, ignored_index=ignored).backward()
    repeated(rows)
    own = torch.stack([z2.roll(shift, 0) for shift in (1, 2)], 1)
    functional.hex_loss_with_keys(z1, keys, positives=z2, own_negatives=own).backward()
    temperature = torch.tensor(0.2, device=DEVICE, requires_grad=True)
    functional.clip_loss(z1, z2, temperature=temperature, threshold=AdaptiveThreshold(0.99)).backward()
    functional.supcon_loss(z1, z2, labels=labels, temperature=temperature).backward()
    ops.row_quantiles([z1.detach(), z2.detach()], None, None, 0, 0.9)


def repeated(rows: int) -> None:
    """40 anchors and the same key over and over: the sampled search misses all anchors, one pass does not suffice."""
    anchors, positives = views(80)
    functional.hex_loss_with_keys(anchors, anchors[:1].expand(rows, -1), positives=positives).backward()


def main(arguments: list[str]) -> None:
    """All sizes, in bfloat16 and in float32."""
    every = "--every" in arguments
    for rows in (int(each) for each in arguments if each != "--every"):
        for dtype in ("bfloat16", "float32") if every else ("bfloat16",):
            functional.hex_loss(*views(rows, dtype), temperature=0.2).backward()
        if every:
            every_kernel(rows)
    if every:
        with torch.no_grad():
            functional.hex_loss(*views(MANY), temperature=0.2)
    synchronize()


if __name__ == "__main__":
    main(sys.argv[1:])
    print(ENDED, flush=True)
