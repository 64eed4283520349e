"""The package against the losses and gradients that the authors' release, solo-learn and HCL's formula gave."""

import pytest
import torch
from torch import Tensor

from hex_ssl.functional import hcl_loss, hex_loss, hex_loss_with_keys, ntxent_loss
from hex_ssl.thresholds import FixedThreshold

from .compare import arguments
from .golden_records import RECORDS, Record


def package_loss(record: Record, z: Tensor) -> Tensor:
    """The loss of the record as a user would call it."""
    settings = record.settings
    z1, z2 = record.views(z)
    if record.name == "ntxent":
        return ntxent_loss(z1, z2, temperature=settings.temperature)
    if record.name.startswith("hcl"):
        return hcl_loss(z1, z2, temperature=settings.temperature, beta=settings.beta, tau_plus=settings.tau_plus)
    if record.name == "mocov2":
        queue = record.array("queue").to(z)
        threshold = FixedThreshold(1.0, scale="cosine")
        return hex_loss_with_keys(
            z1, queue, positives=z2.detach(), temperature=settings.temperature, threshold=threshold
        )
    return hex_loss(z1, z2, labels=record.labels, **arguments(settings))


@pytest.mark.parametrize("record", RECORDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_golden(record: Record, dtype: torch.dtype, backend: str) -> None:
    if record.array("z").dtype == torch.float32 and dtype == torch.float64:
        pytest.skip("recorded in float32")
    record.check(lambda z: package_loss(record, z), dtype)
