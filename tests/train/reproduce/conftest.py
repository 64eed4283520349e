"""An experiment of two rows that takes seconds."""

from pathlib import Path

import pytest

EXPERIMENT = """
title: Two losses
source: nowhere
metrics: [knn.top1]
groups:
  losses:
    title: Losses
    baseline: simclr
    datasets: [digits]
    rows:
      simclr:
        title: SimCLR
        paper: {digits: {knn.top1: 90.5}}
      hex:
        title: HEX
        set: {loss: {hex: step, threshold_arguments: {epoch_step: {share_of_epochs: 0.5}}}}
  again:
    title: The same once more
    baseline: same
    datasets: [digits]
    rows:
      same:
        title: SimCLR too
scales:
  smoke: &smoke
    recipe: quick/simclr
    seeds: [0, 1]
    set:
      backbone: {width: 4}
      data: {fraction: 0.3}
      run: {epochs: 2, knn_every: 2, classifier: false, accelerator: cpu}
    datasets:
      digits: {title: digits, data: {name: digits}}
    evaluation:
      knn: {}
  small: *smoke
  gpu: *smoke
  paper: *smoke
"""


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    """The file of the experiment."""
    path = tmp_path / "two.yaml"
    path.write_text(EXPERIMENT)
    return path
