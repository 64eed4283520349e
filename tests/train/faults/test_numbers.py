"""Numbers that are not finite: in the images, in the loss, in the weights."""

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hex_ssl.train.backbones import build_backbone, describe_backbone
from hex_ssl.train.callbacks import save_backbone
from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.config import BackboneConfig
from hex_ssl.train.data import PretrainData
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.evaluate import FinetuneConfig, KNNConfig, ProbeConfig, run_finetune, run_knn, run_probe
from hex_ssl.train.methods import Method, base, finite
from hex_ssl.train.methods.simclr import SimCLR
from hex_ssl.train.pretrain import pretrain

from . import runs

STEP = 6
"""Steps before the fault, which happens in the third batch of the second epoch."""


@pytest.fixture
def expected(undisturbed: tuple[Path, float]) -> Path:
    return undisturbed[0]


def check_stopped(root: Path, expected: Path, message: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Asserts that the run stops with the message, and that it resumes as usual without the fault."""
    torch.set_num_threads(1)
    with pytest.raises(FloatingPointError, match=message) as caught:
        pretrain(runs.tiny(root))
    assert runs.step_of(root / "run") == STEP
    runs.check_whole(root / "run", expected)
    monkeypatch.undo()
    pretrain(runs.resumed(runs.tiny(root)))
    runs.check_equal(root / "run", expected)
    return str(caught.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_input_that_is_not_finite_is_named(
    value: float, tmp_path: Path, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_transfer = PretrainData.on_after_batch_transfer
    images: list[int] = []

    def spoilt(self: PretrainData, batch: Any, dataloader_idx: int) -> Batch:
        made = after_transfer(self, batch, dataloader_idx)
        if self.trainer is not None and self.trainer.training and self.trainer.global_step == STEP:
            made.views[1][5, 0, 3, 3] = value
            images.append(int(made.indices[5]))
        return made

    monkeypatch.setattr(PretrainData, "on_after_batch_transfer", spoilt)
    message = r"but got none in step 7 \(epoch 2, batch 3 of it\): the views of training image (\d+) are not finite"
    assert check_stopped(tmp_path, expected, message, monkeypatch).endswith(f"image {images[0]} are not finite")


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats the CPU as a device that works asynchronously."""
    monkeypatch.setattr(base, "works_ahead", lambda device: True)
    monkeypatch.setattr(finite, "SECONDS", math.inf)


def test_late_look_names_the_first_step_and_saves_nothing_after_it(
    late: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_loss = SimCLR.compute_loss

    def spoilt(self: Method, embeddings: tuple[Tensor, ...], batch: Batch) -> Tensor:
        loss = compute_loss(self, embeddings, batch)
        return loss * torch.nan if self.global_step == STEP else loss

    def refused(self: Method, embeddings: tuple[Tensor, ...], batch: Batch) -> Tensor:
        if self.global_step <= STEP:
            return spoilt(self, embeddings, batch)
        return sum(each.sum() for each in embeddings) * torch.nan  # type: ignore[return-value]  # weights are NaN

    monkeypatch.setattr(SimCLR, "compute_loss", refused)
    message = re.escape(
        "expected a finite loss, but got nan in step 7 (epoch 2, batch 3 of it): the views and embeddings are finite; "
        "found after 2 steps; the last checkpoint is from before this step"
    )
    with pytest.raises(FloatingPointError, match=message):
        pretrain(runs.tiny(tmp_path, checkpoint_minutes=60.0))
    assert runs.step_of(tmp_path / "run") == runs.STEPS
    assert [row["epoch"] for row in read_metrics(tmp_path / "run")][-1] == 1


def test_late_look_names_the_images() -> None:
    views, embeddings = (torch.ones(3, 1, 2, 2), torch.ones(3, 1, 2, 2)), (torch.ones(3, 4), torch.ones(2, 4))
    batch = Batch(views, torch.zeros(3), torch.tensor([5, 3, 8]))
    look, one = finite.LateLook(), torch.tensor(1.0)
    look.note(one, "step 1", batch, embeddings)
    spoilt = tuple(view.clone() for view in views)
    spoilt[1][2, 0, 1, 1] = -torch.inf
    look.note(one * torch.nan, "step 2", batch._replace(views=spoilt, indices=torch.tensor([6, 4, 9])), embeddings)
    look.note(one * torch.inf, "step 3", batch, (embeddings[0] * torch.nan,))
    with pytest.raises(FloatingPointError, match="got nan in step 2: the views of training image 9 are not .* 2 steps"):
        look.look()
    look.look()  # what was seen is forgotten
    short = Batch(tuple(view[:2] for view in views), torch.zeros(2), torch.tensor([1, 2]))
    look.note(one, "step 4", batch, embeddings)
    look.note(one * torch.inf, "step 5", short, (embeddings[1] * torch.nan,))
    with pytest.raises(
        FloatingPointError, match="got inf in step 5: .* of training images 1, 2 are not; found after 1 step;"
    ):
        look.look()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_loss_that_is_not_finite_is_named(
    value: float, tmp_path: Path, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_loss = SimCLR.compute_loss

    def spoilt(self: Method, embeddings: tuple[Tensor, ...], batch: Batch) -> Tensor:
        loss = compute_loss(self, embeddings, batch)
        return loss * value if self.global_step == STEP else loss

    monkeypatch.setattr(SimCLR, "compute_loss", spoilt)
    message = re.escape(
        f"expected a finite loss, but got {value} in step 7 (epoch 2, batch 3 of it): the views and embeddings are "
        "finite"
    )
    check_stopped(tmp_path, expected, message, monkeypatch)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_embeddings_that_are_not_finite_are_named(
    value: float, tmp_path: Path, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = SimCLR.embed

    def spoilt(self: Method, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        embeddings = embed(self, views)
        return tuple(0 * each + value for each in embeddings) if self.global_step == STEP else embeddings

    monkeypatch.setattr(SimCLR, "embed", spoilt)
    message = r"step 7 .*: the views are finite, but the embeddings of training images .* and 59 more are not"
    check_stopped(tmp_path, expected, message, monkeypatch)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["projector.2.bias", "backbone.stem.1.running_var"])
def test_weights_that_are_not_finite_are_not_saved(
    name: str, value: float, tmp_path: Path, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_optimizer_step = Method.after_optimizer_step

    @torch.no_grad()
    def spoilt(self: Method, step: int) -> None:
        after_optimizer_step(self, step)
        if step == STEP:
            self.state_dict()[name][0] = value

    monkeypatch.setattr(Method, "after_optimizer_step", spoilt)
    message = re.escape(
        f"expected finite weights after step 7 (epoch 2), but some are not, such as those of {name}; the last "
        "checkpoint is from before this step"
    )
    check_stopped(tmp_path, expected, message, monkeypatch)


def test_weights_that_are_not_finite_are_named_before_they_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_optimizer_step = Method.after_optimizer_step

    @torch.no_grad()
    def spoilt(self: Method, step: int) -> None:
        after_optimizer_step(self, step)
        if step == runs.STEPS - 1:  # the last of the first epoch, which an evaluation follows
            self.state_dict()["backbone.stem.1.running_var"][0] = torch.nan

    monkeypatch.setattr(Method, "after_optimizer_step", spoilt)
    with pytest.raises(FloatingPointError, match=r"after step 4 \(epoch 1\), .* of backbone.stem.1.running_var"):
        pretrain(runs.tiny(tmp_path, knn_every=1))
    assert runs.step_of(tmp_path / "run") == runs.STEPS - 1


@pytest.mark.parametrize("run", [run_knn, run_probe, run_finetune])
def test_representations_that_are_not_finite_are_no_result(run: Callable[[Any], object], tmp_path: Path) -> None:
    config = BackboneConfig(width=4)
    backbone = build_backbone(config, 1, 8)
    backbone.state_dict()["stem.0.weight"][0] = torch.nan
    file = tmp_path / "backbone.safetensors"
    save_backbone(backbone, file, describe_backbone(config, 1, 8))
    settings = {run_knn: KNNConfig, run_probe: ProbeConfig, run_finetune: partial(FinetuneConfig, finetune_epochs=1)}
    message = r"expected the network's representations to be finite, but that of image 0 has NaN or infinity"
    with pytest.raises(ValueError, match=message):
        run(settings[run](str(file), dataset="digits", fractions=[0.05]))
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
