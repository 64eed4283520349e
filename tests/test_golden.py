"""The package against losses and gradients of the authors' release, solo-learn and HCL's formula."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hex_ssl.functional import hcl_loss, hex_loss, hex_loss_with_keys, ntxent_loss
from hex_ssl.losses import barlow_twins_loss, byol_loss, nnclr_loss, simsiam_loss, vicreg_loss
from hex_ssl.thresholds import FixedThreshold

from .compare import arguments
from .golden_records import OTHER_RECORDS, RECORDS, Record


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


def other_loss(record: Record, settings: dict[str, Any], z: Tensor) -> Tensor:
    """The loss of another method as solo-learn computes it."""
    z1, z2 = record.views(z)
    if record.name == "barlow":
        return barlow_twins_loss(z1, z2, lamb=settings["lamb"], scale=settings["scale_loss"])
    if record.name == "vicreg":
        names = ("sim_weight", "var_weight", "cov_weight")
        weights = dict(zip(names, settings["weights"], strict=True))
        return vicreg_loss(z1, z2, half_variance=False, **weights)
    if record.name == "nnclr":
        return nnclr_loss(z1, z2, temperature=settings["temperature"])
    return {"byol": byol_loss, "simsiam": simsiam_loss}[record.name](z1, z2)


@pytest.mark.parametrize(("record", "settings"), OTHER_RECORDS, ids=[str(record) for record, _ in OTHER_RECORDS])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_golden_of_other_methods(record: Record, settings: dict[str, Any], dtype: torch.dtype, backend: str) -> None:
    record.check(lambda z: other_loss(record, settings, z), dtype)
