"""A user's script under `mypy --strict`: `make lint` checks its types, and pytest runs it.

`assert_type` states what mypy must infer. Each `type: ignore` is a mistake that mypy must find: strict mode reports one
that is not needed.
"""

from typing import assert_type, get_args

import pytest
import torch
from torch import Tensor

import hex_ssl
from hex_ssl import HexLoss, NTXentLoss, Statistics, thresholds
from hex_ssl.functional import clip_loss, hex_loss, hex_loss_with_keys, infonce_loss, ntxent_loss, supcon_loss

Z1, Z2 = torch.eye(4), torch.eye(4).roll(1, 0)
LABELS = torch.tensor([0, 0, 1, 1])


class Model(torch.nn.Module):
    """A module of a user that holds a loss."""

    def __init__(self, reduction: hex_ssl.Reduction, formulation: hex_ssl.Formulation) -> None:
        super().__init__()
        self.criterion = HexLoss(temperature=0.2, formulation=formulation, reduction=reduction)

    def loss(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, Statistics | None]:
        return self.criterion(z1, z2), self.criterion.statistics


def test_modules() -> None:
    loss, statistics = Model("none", "official").loss(Z1, Z2)
    assert loss.shape == (8,)
    assert statistics is not None
    assert_type(statistics.threshold, Tensor)
    name: hex_ssl.ThresholdName = "adaptive"
    assert repr(HexLoss(threshold=name)) == repr(HexLoss(threshold=thresholds.AdaptiveThreshold()))


def test_statistics_are_returned_where_they_are_asked_for() -> None:
    assert_type(hex_loss(Z1, Z2), Tensor)
    assert_type(hex_loss(Z1, Z2, return_statistics=False), Tensor)
    assert_type(hex_loss(Z1, Z2, return_statistics=True), tuple[Tensor, Statistics])
    assert_type(clip_loss(Z1, Z2, return_statistics=True), tuple[Tensor, Statistics])
    assert_type(infonce_loss(Z1, Z2, return_statistics=True), tuple[Tensor, Statistics])
    assert_type(supcon_loss(Z1, labels=LABELS, return_statistics=True), tuple[Tensor, Statistics])
    loss, _ = hex_loss_with_keys(Z1, Z2 + 1, positives=Z2, return_statistics=True)
    assert_type(loss, Tensor)


@pytest.mark.parametrize("wanted", [False, True])
def test_whether_statistics_are_asked_for_may_be_a_variable(wanted: bool) -> None:
    for found in (
        hex_loss(Z1, Z2, return_statistics=wanted),
        hex_loss_with_keys(Z1, Z2 + 1, positives=Z2, return_statistics=wanted),
        clip_loss(Z1, Z2, return_statistics=wanted),
        infonce_loss(Z1, Z2, return_statistics=wanted),
        supcon_loss(Z1, labels=LABELS, return_statistics=wanted),
    ):
        assert_type(found, Tensor | tuple[Tensor, Statistics])
        assert isinstance(found, tuple) is wanted


def test_mistaken_names_are_found_before_the_run() -> None:
    with pytest.raises(ValueError, match="reduction"):
        NTXentLoss(reduction="avg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction"):
        ntxent_loss(Z1, Z2, reduction="avg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="formulation"):
        HexLoss(formulation="offical")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold"):
        HexLoss(threshold="adaptve")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale"):
        thresholds.FixedThreshold(0.9, scale="minmx")  # type: ignore[arg-type]


def test_the_types_name_what_the_code_accepts() -> None:
    assert set(get_args(hex_ssl.ThresholdName)) == thresholds.NAMED.keys()
    for name, kind in {"reduction": hex_ssl.Reduction, "formulation": hex_ssl.Formulation}.items():
        with pytest.raises(ValueError, match=name) as error:
            HexLoss(**{name: "?"})  # type: ignore[arg-type]
        listed = ", ".join(f'"{each}"' for each in get_args(kind))
        assert f"one of {listed}, but got" in str(error.value)
