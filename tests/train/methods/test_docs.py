"""docs/methods.md names every method and its options, with the right defaults."""

import re
from pathlib import Path

import pytest

from hex_ssl.train.methods import METHODS

TEXT = (Path(__file__).parents[3] / "docs" / "methods.md").read_text(encoding="utf-8")
TITLES = ("SimCLR", "NNCLR", "All4One", "Barlow Twins", "BYOL", "MoCo v2", "VICReg", "SimSiam")
SECTIONS = dict(zip(METHODS, TITLES, strict=True))


def section(name: str) -> str:
    """The section of a method in docs/methods.md."""
    return TEXT.split(f"\n## {SECTIONS[name]}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_named_with_its_method(name: str) -> None:
    settings = METHODS[name]().as_dict()
    options = settings.keys() - {"name"}
    weights = {"sim_weight", "var_weight", "cov_weight"}  # in the formula, and their numbers together
    elsewhere = {"hidden_dim", "predictor_dim"} if name == "all4one" else set()  # as NNCLR's
    assert {option for option in options - weights if f"`{option}" not in section(name)} == elsewhere
    for option in options - elsewhere:
        default = settings[option]
        if isinstance(default, int) and not isinstance(default, bool):
            assert str(default) in section(name), option
    assert re.search(r"arXiv \d{4}\.\d{5}", section(name))


def test_our_own_combinations_are_marked() -> None:
    for name in ("mocov2", "byol", "simsiam"):
        assert f"| {SECTIONS[name]} | " in TEXT
        assert re.search(rf"\| {SECTIONS[name]} \|.*\*\*ours\*\*", TEXT)
        assert "with HEX (ours):" in section(name)
    assert TEXT.count("(ours)") == 3
