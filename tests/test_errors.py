"""The error messages for bad input, word for word. Bad rows are in `test_numerics`, strategies in `test_thresholds`."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hex_ssl import DCLLoss, HCLLoss, HexLoss, NTXentLoss, dispatch
from hex_ssl.functional import dcl_loss, hcl_loss, hex_loss, hex_loss_with_keys, ntxent_loss
from hex_ssl.thresholds import Threshold

Z = torch.ones(6, 4)
LABELS = torch.zeros(6, dtype=torch.int64)
INDEX = torch.arange(6)
QUEUE = torch.ones(12, 4)


def exactly(text: str) -> str:
    """The whole text as a regular expression."""
    return f"^{re.escape(text)}$"


SETTINGS = [
    ({"temperature": 0.0}, "expected `temperature` to be a positive number, but got 0.0"),
    ({"temperature": -0.1}, "expected `temperature` to be a positive number, but got -0.1"),
    ({"temperature": math.nan}, "expected `temperature` to be a positive number, but got nan"),
    ({"temperature": math.inf}, "expected `temperature` to be a positive number, but got inf"),
    ({"beta": -1.0}, "expected `beta` to be at least 0, but got -1.0"),
    ({"beta": math.inf}, "expected `beta` to be at least 0, but got inf"),
    ({"tau_plus": 1.0}, "expected `tau_plus` to be in [0, 1), but got 1.0"),
    ({"tau_plus": -0.1}, "expected `tau_plus` to be in [0, 1), but got -0.1"),
    ({"tau_plus": math.nan}, "expected `tau_plus` to be in [0, 1), but got nan"),
    ({"reduction": "avg"}, 'expected `reduction` to be one of "mean", "sum", "none", but got "avg"'),
    (
        {"formulation": "offical"},
        'expected `formulation` to be one of "importance", "official", "decoupled", "elimination", but got "offical"',
    ),
    (
        {"threshold": "adaptve"},
        'expected `threshold` to be one of "adaptive", "step", "cosine", "supervised" or a strategy, but got "adaptve"',
    ),
    ({"threshold": "fixed"}, 'threshold "fixed" needs a value: pass hex_ssl.thresholds.FixedThreshold(value)'),
]


@pytest.mark.parametrize(("settings", "text"), SETTINGS, ids=lambda x: str(x)[:40])
def test_settings(settings: dict[str, Any], text: str) -> None:
    for call in (
        lambda: hex_loss(Z, Z, **settings),
        lambda: hex_loss_with_keys(Z, QUEUE, positives=Z, **settings),
        lambda: HexLoss(**settings),
    ):
        with pytest.raises(ValueError, match=exactly(text)):
            call()


def test_changed_settings_are_checked_by_the_next_forward(backend: str) -> None:
    criterion = HexLoss()
    criterion.temperature = -1.0
    with pytest.raises(ValueError, match=exactly("expected `temperature` to be a positive number, but got -1.0")):
        criterion(Z, Z)
    criterion.temperature = "0.5"  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"^expected `temperature` to be a number, but got '0.5'"):
        criterion(Z, Z)


@pytest.mark.parametrize("module", [NTXentLoss, HCLLoss, DCLLoss, HexLoss])
def test_settings_of_every_module_are_checked_at_once(module: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=exactly("expected `temperature` to be a positive number, but got 0.0")):
        module(temperature=0)
    for wrong in (None, "0.5", [0.5], True):
        with pytest.raises(TypeError, match=exactly(f"expected `temperature` to be a number, but got {wrong!r}")):
            module(temperature=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=exactly("expected `reduction` to be a string, but got 1")):
        module(reduction=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^expected `reduction` to be one of"):
        module(reduction="avg")


def test_settings_of_the_module() -> None:
    with pytest.raises(ValueError, match=exactly("expected `warmup_epochs` to be at least 0, but got -1")):
        HexLoss(warmup_epochs=-1)
    with pytest.raises(ValueError, match=exactly("expected `epoch` to be at least 0, but got -2")):
        HexLoss().set_epoch(-2)


@pytest.mark.parametrize(
    ("views", "text"),
    [
        (
            (Z, torch.ones(5, 4)),
            "expected `z2` to have shape [6, 4] like `z1`, but got [5, 4]; row i of each is sample i",
        ),
        ((Z, torch.ones(6, 3)), "expected `z2` to have shape [6, 4] like `z1`, but got [6, 3]"),
        ((Z, Z, torch.ones(6, 5)), "expected `more_views[0]` to have shape [6, 4] like `z1`, but got [6, 5]"),
        (
            (Z[0], Z[0]),
            "expected `z1` to have shape [rows, dimensions], but got [4]; for a batch of one, write z1[None]",
        ),
        (
            (Z, Z[None]),
            "expected `z2` to have shape [rows, dimensions], but got [1, 6, 4]; for stacked views, write "
            "*z2.unbind(1), or for one view z2.flatten(1)",
        ),
        (
            (Z.long(), Z.long()),
            "expected `z1` to have one of the dtypes float64, float32, bfloat16, float16, but got int64; write "
            "z1.float()",
        ),
        (
            (Z.to(torch.complex64), Z),
            "expected `z1` to have one of the dtypes float64, float32, bfloat16, float16, but got complex64",
        ),
        (
            (Z, Z.double()),
            "expected `z2` to have dtype float32 like `z1`, but got float64; write z2.to(z1.dtype)",
        ),
        (
            (Z.bfloat16(), Z.half()),
            "expected `z2` to have dtype bfloat16 like `z1`, but got float16; write z2.to(z1.dtype)",
        ),
        ((Z, Z.to("meta")), "expected `z2` on cpu like `z1`, but got it on meta; write z2.to(z1.device)"),
    ],
    ids=lambda x: x[:60] if isinstance(x, str) else "",
)
def test_views(views: tuple[torch.Tensor, ...], text: str, backend: str) -> None:
    for loss in (hex_loss, ntxent_loss, hcl_loss, dcl_loss, HexLoss(), NTXentLoss(), HCLLoss(), DCLLoss()):
        with pytest.raises(ValueError, match=exactly(text)):
            loss(*views)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((0, 4), "expected at least 1 anchor, but got 0"),
        ((6, 0), "expected at least 1 embedding dimension, but got 0"),
    ],
    ids=str,
)
def test_empty_batches(shape: tuple[int, int], text: str, backend: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        hex_loss(torch.ones(shape), torch.ones(shape))


def test_not_a_tensor(backend: str) -> None:
    with pytest.raises(
        TypeError, match=exactly("expected `z1` to be a tensor, but got list; write torch.as_tensor(z1)")
    ):
        hex_loss([[1.0]], Z)  # type: ignore[call-overload]
    with pytest.raises(
        TypeError, match=exactly("expected `z2` to be a tensor, but got ndarray; write torch.as_tensor(z2)")
    ):
        hex_loss(Z, Z.numpy())  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=exactly("expected `keys` to be a tensor, but got NoneType")):
        hex_loss_with_keys(Z, None, positives=Z)  # type: ignore[call-overload]
    with pytest.raises(
        TypeError, match=exactly("expected `labels` to be a tensor, but got list; write torch.as_tensor(labels)")
    ):
        hex_loss(Z, Z, threshold="supervised", labels=[0] * 6)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"^expected `threshold` to be a strategy or its name, but got list$"):
        HexLoss(threshold=[0.9])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (LABELS[:5], "expected `labels` to have shape [6], but got [5]"),
        (LABELS[:, None], "expected `labels` to have shape [6], but got [6, 1]; write labels.squeeze(1)"),
        (LABELS.float(), "expected `labels` to have an integer dtype, but got float32; write labels.long()"),
        (LABELS.bool(), "expected `labels` to have an integer dtype, but got bool; write labels.long()"),
        (LABELS.to("meta"), "expected `labels` on cpu, but got it on meta; write labels.to('cpu')"),
    ],
    ids=lambda x: x[:60] if isinstance(x, str) else "",
)
def test_labels(labels: torch.Tensor, text: str, backend: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        hex_loss(Z, Z, threshold="supervised", labels=labels)


UNREAD = (
    "expected no `{}` for {}, which does not read them; "
    'with threshold="supervised" they tell which negatives are hierarchical'
)


def test_unused_labels_are_refused(backend: str) -> None:
    for name, threshold in (("adaptive", "AdaptiveThreshold"), ("step", "StepThreshold")):
        text = exactly(UNREAD.format("labels", threshold))
        with pytest.raises(ValueError, match=text):
            hex_loss(Z, Z, threshold=name, epoch=0, labels=LABELS)
        criterion = HexLoss(threshold=name, warmup_epochs=1)
        for epoch in (0, 1):
            criterion.set_epoch(epoch)
            with pytest.raises(ValueError, match=text if epoch else "^expected no `labels`"):
                criterion(Z, Z, labels=LABELS)
    for name in ("anchor_labels", "key_labels"):
        with pytest.raises(ValueError, match=exactly(UNREAD.format(name, "AdaptiveThreshold"))):
            HexLoss().against_keys(Z, Z + 1, positives=Z, **{name: LABELS})


class FromTheSecondEpochOn(Threshold):
    """A user's own threshold that uses labels, but only from the second epoch on."""

    scheduled = True
    reads_labels = True

    def at(self, epoch: int) -> tuple[str, float]:
        return ("labels", 0.0) if epoch else ("adaptive", 0.99)


def test_labels_that_are_read_in_another_epoch(backend: str) -> None:
    z1, z2 = torch.randn(2, 6, 4)
    for threshold in ("supervised", FromTheSecondEpochOn()):
        criterion = HexLoss(threshold=threshold, warmup_epochs=1)
        losses = []
        for epoch in range(3):
            criterion.set_epoch(epoch)
            losses.append(criterion(z1, z2, labels=INDEX % 2))
        assert torch.equal(losses[0], ntxent_loss(z1, z2, temperature=0.1))
        assert torch.equal(losses[1], hex_loss(z1, z2, threshold="supervised", labels=INDEX % 2))
    assert hex_loss(z1, z2, threshold=FromTheSecondEpochOn(), epoch=0, labels=LABELS) == hex_loss(z1, z2)


@pytest.mark.parametrize(
    ("keys", "positives", "index"),
    [
        (Z, Z, "torch.arange(len(anchors))"),
        (Z, Z.detach(), "torch.arange(len(anchors))"),
        (QUEUE, QUEUE[:6], "torch.arange(len(anchors))"),
        (QUEUE, QUEUE[3:9], "torch.arange(3, 9)"),
    ],
    ids=["the same", "detached", "the first rows", "rows"],
)
def test_positives_that_are_keys(keys: torch.Tensor, positives: torch.Tensor, index: str, backend: str) -> None:
    text = (
        "expected `positives` apart from `keys`, but got rows of the keys: each positive would be a negative, too; "
        f"call hex_ssl.functional.hex_loss_with_keys(anchors, keys, positive_index={index})"
    )
    with pytest.raises(ValueError, match=exactly(text)):
        HexLoss().against_keys(Z + 1, keys, positives=positives)
    with pytest.raises(ValueError, match=exactly(text)):
        hex_loss_with_keys(Z + 1, keys, positives=positives)


def test_positives_beside_the_keys_in_one_tensor(backend: str) -> None:
    together = torch.randn(12, 8)
    for keys, positives in (together.split(6), together.hsplit(2)):
        anchors = torch.randn_like(keys)
        expected = hex_loss_with_keys(anchors, keys.clone(), positives=positives.clone())
        assert torch.equal(hex_loss_with_keys(anchors, keys, positives=positives), expected)


def test_scheduled_thresholds_need_an_epoch() -> None:
    for name, strategy in (("step", "StepThreshold"), ("cosine", "CosineThreshold")):
        text = f"expected `epoch` for {strategy}, which changes with it, but got None"
        with pytest.raises(ValueError, match=exactly(text)):
            hex_loss(Z, Z, threshold=name)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "expected one of `positives` and `positive_index`, but got none"),
        ({"positives": Z, "positive_index": INDEX}, "expected one of `positives` and `positive_index`, but got both"),
        (
            {"positives": Z[:5]},
            "expected `positives` to have shape [6, 4] like `anchors`, but got [5, 4]; row i of each is sample i",
        ),
        (
            {"positives": Z.double()},
            "expected `positives` to have dtype float32 like `anchors`, but got float64; write "
            "positives.to(anchors.dtype)",
        ),
        ({"positive_index": INDEX[:5]}, "expected `positive_index` to have shape [6], but got [5]"),
        (
            {"positive_index": INDEX.float()},
            "expected `positive_index` to have an integer dtype, but got float32; write positive_index.long()",
        ),
        (
            {"positive_index": INDEX, "ignored_index": INDEX[:2]},
            "expected `ignored_index` to have shape [6], but got [2]",
        ),
        (
            {"positives": Z, "threshold": "supervised", "anchor_labels": LABELS, "key_labels": LABELS},
            "expected `key_labels` to have shape [7], but got [6]",
        ),
        (
            {"positives": Z, "threshold": "supervised", "anchor_labels": LABELS[:3], "key_labels": LABELS},
            "expected `anchor_labels` to have shape [6], but got [3]",
        ),
    ],
    ids=lambda x: x[:60] if isinstance(x, str) else "",
)
def test_keys(inputs: dict[str, Any], text: str, backend: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        hex_loss_with_keys(Z, torch.ones(7, 4), **inputs)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (torch.ones(7, 5), "expected `keys` to have 4 columns like `anchors`, but got shape [7, 5]"),
        (
            torch.ones(7),
            "expected `keys` to have shape [rows, dimensions], but got [7]; for a batch of one, write keys[None]",
        ),
        (
            torch.ones(7, 4).half(),
            "expected `keys` to have dtype float32 like `anchors`, but got float16; write keys.to(anchors.dtype)",
        ),
    ],
    ids=lambda x: x[:60] if isinstance(x, str) else "",
)
def test_shape_of_keys(keys: torch.Tensor, text: str, backend: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        hex_loss_with_keys(Z, keys, positives=Z)


@pytest.mark.parametrize("bad", [-1, 7, 2**40])
@pytest.mark.parametrize("name", ["positive_index", "ignored_index"])
def test_rows_that_are_not_there(name: str, bad: int, backend: str) -> None:
    if name == "ignored_index" and bad == -1:
        bad = -2
    indices = {"positive_index": INDEX.clone(), "ignored_index": INDEX.roll(1)}
    indices[name][4] = bad
    with pytest.raises(ValueError, match=f"`{name}`.*{bad}"):
        hex_loss_with_keys(torch.randn(6, 4), torch.randn(7, 4), **indices)


def without_memory() -> torch.Tensor:
    """A tensor as large as a test's loss, without memory."""
    losses = torch.zeros(12, dtype=torch.float64)
    losses.untyped_storage().resize_(0)
    return losses


MADE = "expected memory for the loss, contiguous float32 [12] on cpu, but got "


@pytest.mark.parametrize(
    ("made", "kind", "text"),
    [
        (torch.zeros(3), RuntimeError, MADE + "float32 [3] on cpu"),
        (torch.zeros(12, dtype=torch.float64), RuntimeError, MADE + "float64 [12] on cpu"),
        (torch.zeros(24)[::2], RuntimeError, MADE + "float32 [12] on cpu"),
        (without_memory(), ValueError, "expected a tensor with memory of its own, but got a Tensor without"),
    ],
    ids=["short", "of another dtype", "with gaps", "without memory"],
)
def test_memory_that_is_not_as_asked_for(
    made: torch.Tensor, kind: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The extension checks the memory that torch allocates.
    monkeypatch.setenv("HEX_SSL_BACKEND", "cpu")
    monkeypatch.setattr(dispatch, "_new_empty", lambda *_, **__: made)
    with pytest.raises(kind, match=exactly(text)):
        hex_loss(Z, Z, reduction="none")


def test_errors_leave_no_gradient_behind(backend: str) -> None:
    z1, z2 = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
    with pytest.raises(ValueError, match="temperature"):
        hex_loss(z1, z2, temperature=-1.0)
    assert z1.grad is None
    hex_loss(z1, z2)
