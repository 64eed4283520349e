"""The demo, with fewer epochs, and its plots."""

import json
from pathlib import Path

import pytest

from hex_ssl.train.cli import main
from hex_ssl.train.demo import run_demo

PNG = b"\x89PNG\r\n\x1a\n"


def test_demo_compares_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["demo", "--folder", str(tmp_path), "--seeds", "1", "--epochs", "1"])
    out = capsys.readouterr().out
    for expected in ("SimCLR + HEX", "SimCLR ", "untrained", "k-NN", "10 labels per class"):
        assert expected in out
    for picture in ("training.png", "accuracy.png", "embedding.png"):
        assert (tmp_path / picture).read_bytes().startswith(PNG)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert {label: len(figures) for label, figures in results.items()} == {
        "SimCLR + HEX": 1,
        "SimCLR": 1,
        "untrained": 1,
    }
    assert results["SimCLR"][0]["protocol"]["temperature"] == 0.07


def test_demo_needs_a_seed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected `seeds` to be at least 1, but got 0"):
        run_demo(str(tmp_path / "demo"), seeds=0)
