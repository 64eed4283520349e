"""The first mistakes that people make: each ends in one line that says what to write instead."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hex_ssl
from hex_ssl import CLIPLoss, HexLoss, InfoNCELoss, NTXentLoss, SupConLoss, thresholds
from hex_ssl.functional import hex_loss, ntxent_loss
from hex_ssl.losses import MoCoLoss, NNCLRLoss
from hex_ssl.train.cli import main

Z1, Z2 = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)
criterion: Callable[..., torch.Tensor] = HexLoss()
supcon: Callable[..., torch.Tensor] = SupConLoss()


def one_line(call: Callable[[], object]) -> str:
    """The message of the error that a call raises."""
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    return text


SHAPES: list[tuple[str, Callable[[], object], str]] = [
    ("one vector", lambda: criterion(Z1[0], Z2[0]), "but got [4]; for a batch of one, write z1[None]"),
    (
        "stacked views",
        lambda: supcon(torch.ones(8, 2, 4), labels=LABELS),
        "for stacked views, write *z1.unbind(1), or for one view z1.flatten(1)",
    ),
    ("feature maps", lambda: criterion(torch.ones(8, 4, 2, 2), Z2), "but got [8, 4, 2, 2]; write z1.flatten(1)"),
    (
        "batches of two sizes",
        lambda: criterion(Z1, Z2[:5]),
        "[8, 4] like `z1`, but got [5, 4]; row i of each is sample i",
    ),
    ("rows of two lengths", lambda: criterion(Z1, Z2[:, :3]), "`z2` to have shape [8, 4] like `z1`, but got [8, 3]"),
    ("too few keys", lambda: InfoNCELoss()(Z1, Z2[:3]), "`keys` to have at least 8 rows, key i being the positive of "),
    ("an empty batch", lambda: criterion(Z1[:0], Z2[:0]), "expected at least 1 anchor, but got 0"),
]
TYPES: list[tuple[str, Callable[[], object], str]] = [
    (
        "NumPy",
        lambda: criterion(Z1.numpy(), Z2.numpy()),
        "`z1` to be a tensor, but got ndarray; write torch.as_tensor(z1)",
    ),
    ("a list", lambda: criterion(Z1, Z2.tolist()), "`z2` to be a tensor, but got list; write torch.as_tensor(z2)"),
    ("a list of views", lambda: supcon([Z1, Z2], labels=LABELS), "`z1` to be a tensor, but got list; write *z1"),
    (
        "a list of rows for each anchor",
        lambda: InfoNCELoss()(Z1, Z2, own_negatives=[Z1[:2]] * 8),  # type: ignore[arg-type]
        "`own_negatives` to be a tensor, but got list; write torch.stack(own_negatives)",
    ),
    (
        "a list of keys",
        lambda: InfoNCELoss()(Z1, [Z2, Z1]),  # type: ignore[arg-type]
        "`keys` to be a tensor, but got list; write torch.cat(keys)",
    ),
    (
        "a list of weights",
        lambda: InfoNCELoss()(Z1, Z2, weights=[1.0] * 8),  # type: ignore[arg-type]
        "`weights` to be a tensor, but got list; write torch.as_tensor(weights)",
    ),
    (
        "a mask of keys to ignore",
        lambda: InfoNCELoss()(Z1, Z2, ignored_index=torch.eye(8).roll(1, 0).bool()),
        "write torch.where(ignored_index, torch.arange(ignored_index.shape[1]), -1)",
    ),
    (
        "a mask of positives",
        lambda: InfoNCELoss()(Z1, Z2, positive_index=torch.eye(8).bool()),
        "but got bool; for a mask with one True in each row, write positive_index.int().argmax(1)",
    ),
    ("integers", lambda: criterion(Z1.byte(), Z2.byte()), "bfloat16, float16, but got uint8; write z1.float()"),
    ("two dtypes", lambda: criterion(Z1, Z2.half()), "but got float16; write z2.to(z1.dtype)"),
    ("two devices", lambda: criterion(Z1, Z2.to("meta")), "but got it on meta; write z2.to(z1.device)"),
    ("labels on a device", lambda: supcon(Z1, labels=LABELS.to("meta")), "but got it on meta; write labels.to('cpu')"),
    ("a sparse tensor", lambda: criterion(Z1.to_sparse(), Z2), "to be a dense tensor, but got one of layout"),
]
ARGUMENTS: list[tuple[str, Callable[[], object], str]] = [
    ("one view", lambda: criterion(Z1), "missing 1 required positional argument: 'z2'"),
    (
        "embeddings and labels",
        lambda: criterion(Z1, LABELS),
        "but got [8]; write labels by name, labels=..., and with one view to hex_ssl.SupConLoss",
    ),
    (
        "labels as a third",
        lambda: criterion(Z1, Z2, LABELS),
        "`more_views[0]` to have shape [rows, dimensions], but got [8]; write labels by name",
    ),
    ("no labels", lambda: supcon(Z1, LABELS), "missing 1 required keyword-only argument: 'labels'"),
    ("labels that are not read", lambda: criterion(Z1, Z2, labels=LABELS), 'with threshold="supervised" they tell'),
    ("a threshold without labels", lambda: HexLoss(threshold="supervised")(Z1, Z2), "`labels` for the supervised"),
    ("labels with a fraction", lambda: supcon(Z1, labels=LABELS.float()), "but got float32; write labels.long()"),
    ("one-hot labels", lambda: supcon(Z1, labels=torch.eye(8)), "for one-hot labels, write labels.argmax(1)"),
    ("one-hot integers", lambda: supcon(Z1, labels=torch.eye(8).long()), "for one-hot labels, write labels.argmax(1)"),
    ("labels as a column", lambda: supcon(Z1, labels=LABELS[:, None]), "but got [8, 1]; write labels.squeeze(1)"),
    (
        "labels of each view",
        lambda: supcon(Z1, Z2, labels=LABELS.repeat(2)),
        "one for each sample, not for each view: write labels[:8]",
    ),
    ("labels as a list", lambda: supcon(Z1, labels=[0] * 8), "but got list; write torch.as_tensor(labels)"),
    ("temperature by place", lambda: ntxent_loss(Z1, Z2, 0.1), "write numbers by name, such as temperature=0.1"),
    ("temperature 0", lambda: NTXentLoss(temperature=0), "`temperature` to be a positive number, but got 0.0"),
    ("temperature [1]", lambda: CLIPLoss(temperature=torch.ones(1)), "shape [1], float32; write temperature.squeeze()"),
    ("the class with views", lambda: HexLoss(Z1, Z2), "write HexLoss()(z1, z2)"),
    ("a threshold's class", lambda: HexLoss(threshold=thresholds.AdaptiveThreshold), "write AdaptiveThreshold()"),
    ("a number as threshold", lambda: HexLoss(threshold=0.9), "write hex_ssl.thresholds.FixedThreshold(0.9)"),
    ("percent", lambda: thresholds.AdaptiveThreshold(99), "`quantile` to be in [0, 1], but got 99"),
    ("no epoch", lambda: hex_loss(Z1, Z2, threshold="step"), "`epoch` for StepThreshold, which changes with it"),
    ("an epoch as text", lambda: HexLoss().set_epoch("1"), "`epoch` to be a whole number, but got '1'"),
    ("a bool as epoch", lambda: HexLoss().set_epoch(True), "`epoch` to be a whole number, but got True"),
    ("a bool as warm-up", lambda: HexLoss(warmup_epochs=True), "`warmup_epochs` to be a whole number, but got True"),
    ("no warm-up", lambda: HexLoss(warmup_epochs=None), "`warmup_epochs` to be a whole number, but got None"),
]


@pytest.mark.parametrize(("call", "text"), [pytest.param(*case[1:], id=case[0]) for case in SHAPES + TYPES + ARGUMENTS])
def test_losses(call: Callable[[], object], text: str) -> None:
    assert text in one_line(call)


class OwnLoss(NTXentLoss):
    """A user's own loss."""


@pytest.mark.parametrize(
    ("loss", "call"),
    [
        (HexLoss, "HexLoss()(z1, z2)"),
        (NTXentLoss, "NTXentLoss()(z1, z2)"),
        (CLIPLoss, "CLIPLoss()(z1, z2)"),
        (InfoNCELoss, "InfoNCELoss()(anchors, keys)"),
        (SupConLoss, "SupConLoss()(z1, labels=labels)"),
        (MoCoLoss, "MoCoLoss()(queries, keys, queue)"),
        (NNCLRLoss, "NNCLRLoss()(neighbours, p)"),
        (OwnLoss, "OwnLoss()(z1, z2)"),
    ],
)
def test_the_class_with_views_names_the_class(loss: type[torch.nn.Module], call: str) -> None:
    assert one_line(lambda: loss(Z1)).endswith(f"; the loss is made before it is called: write {call}")


def test_a_function_has_no_class_to_name() -> None:
    assert one_line(lambda: ntxent_loss(Z1, Z2, temperature=Z1)).endswith("but got shape [8, 4], float32")


def test_what_looks_like_a_mistake_and_is_none() -> None:
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(criterion(Z1, Z2), criterion(unit(Z1), unit(Z2)))
    assert criterion(Z1[:1], Z2[:1]) == 0  # no negatives: no loss, and no NaN


@pytest.mark.parametrize("name", ["HEXLoss", "NTXEntLoss", "SupconLoss"])
def test_a_name_with_other_capitals_is_suggested(name: str) -> None:
    code = f"import hex_ssl; hex_ssl.{name}"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    meant = next(each for each in hex_ssl.__all__ if each.lower() == name.lower())
    assert finished.stderr.endswith(f"has no attribute '{name}'. Did you mean: '{meant}'?\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("pretrain --recipe quick/nnclr_hx", 'recipes, but got "quick/nnclr_hx"; did you mean "quick/nnclr_hex"?'),
        ("pretrain --recipe nnclr_hex", 'did you mean "quick/nnclr_hex"?'),
        ("pretrain quick/nnclr_hex", 'did you mean "--recipe quick/nnclr_hex"?'),
        ("pretrain --config own.yaml", "but there is no file own.yaml"),
        ("pretrain --epochs 5", 'did you mean "run.epochs" for "epochs"?'),
        ("pretrain --data.root photos", "but got photos; for folders of images, write data.name=folder"),
        ("pretrain --data.name folder --data.root nowhere", "that holds folder, but nowhere does not exist"),
        ("pretrain --data.name cifra10", 'but got "cifra10" (did you mean "cifar10"?)'),
        ("pretrain --data.batch_size 1", "`data.batch_size` to be at least 2, but got 1"),
        (
            "pretrain --run.accelerator gpus",
            "expected settings that this machine supports, but got `run.accelerator` gpus",
        ),
        ("train", 'did you mean "pretrain" for "train"?'),
        ("knn", "expected a run folder: write hex-ssl knn runs/NAME"),
        ("report", "expected a run folder: write hex-ssl report runs/NAME"),
        ("probe runs/nowhere", "`source` to be a run folder, .ckpt or .safetensors, but there is no runs/nowhere"),
        ("analyze nowhere", "expected a run folder, with a config.yaml in it, but got nowhere"),
        ("reproduce tabel7", 'did you mean "table7"?'),
    ],
)
def test_commands(
    arguments: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(arguments.split())
    assert exit_.value.code == 2
    error, *others = capsys.readouterr().err.splitlines()
    assert re.match("error: ", error)
    assert text in error
    assert others[-1].startswith("tip: `hex-ssl ")
    assert not [*tmp_path.iterdir()]


def test_superclasses_may_lie_in_a_folder_without_images(tmp_path: Path) -> None:
    from hex_ssl.train.config import DataConfig
    from hex_ssl.train.data import PretrainData

    (tmp_path / "superclasses.csv").write_text("".join(f"{each},{each % 2}\n" for each in range(10)))
    found: Any = PretrainData(DataConfig(name="digits", root=str(tmp_path)), seed=0).superclasses
    assert found.tolist() == [0, 1] * 5
