"""Suggestions for mistyped names."""

from dataclasses import fields

import pytest

from hex_ssl.train.config import Config
from hex_ssl.train.methods import METHODS
from hex_ssl.train.suggestions import ALIASES, nearest, suggest

KNOWN = [
    *(f"{group}.{name}" for group, settings in Config().as_dict().items() for name in settings if group != "method"),
    *{f"method.{each.name}" for settings in METHODS.values() for each in fields(settings)},
]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lr", ["optimizer.learning_rate"]),
        ("optimizer.lr", ["optimizer.learning_rate"]),
        ("max_epochs", ["run.epochs"]),
        ("trainer.max_epochs", ["run.epochs"]),
        ("epochs", ["run.epochs"]),
        ("batch_size", ["data.batch_size"]),
        ("loader.num_workers", ["data.num_workers"]),
        ("Batch-Size", ["data.batch_size"]),
        ("temperature", ["loss.temperature"]),
        ("method_kwargs.temperature", ["loss.temperature"]),
        ("temprature", ["loss.temperature"]),
        ("dataset", ["data.name"]),
        ("gpus", ["run.devices"]),
        ("momentum", ["method.momentum", "optimizer.momentum"]),
        ("loss.learning_rate", ["optimizer.learning_rate"]),
        ("foo", []),
        ("zzz", []),
        ("optimizer.foo", []),
    ],
)
def test_nearest_settings(word: str, meant: list[str]) -> None:
    assert nearest(word, KNOWN) == meant


def test_names_of_other_programs_are_mapped_to_settings() -> None:
    for alias, meant in ALIASES.items():
        assert any(name == meant or name.endswith(f".{meant}") for name in KNOWN), alias


def test_no_suggestion_if_nothing_is_similar_or_all_names_are_known() -> None:
    assert suggest(["zzz"], KNOWN) == ""
    assert suggest(["loss.hex", "zzz"], KNOWN) == ""
    assert nearest("foo", ["root", "report", "runs", "folder"]) == []
    assert nearest("quick/foo", ["quick/mocov2", "quick/simclr"]) == []
