"""The strategies: their curves, their names, their errors, and their effect on a loss."""

import math
import re

import pytest
import torch

from hex_ssl.functional import hex_loss, hex_loss_with_keys
from hex_ssl.thresholds import (
    AdaptiveThreshold,
    CosineThreshold,
    FixedThreshold,
    StepThreshold,
    SupervisedThreshold,
    Threshold,
    threshold_from,
)

from .batches import clustered
from .reference import nearest_quantile


def test_adaptive_is_the_mean_of_the_rows_quantiles(backend: str) -> None:
    z = clustered(60, 2, 12, torch.Generator().manual_seed(1))
    unit = torch.nn.functional.normalize(z)
    rows = (unit @ unit.T).fill_diagonal_(1.0).tolist()
    for quantile in (0.0, 0.3, 0.5, 0.9, 0.99, 1.0):
        expected = math.fsum(nearest_quantile(row, quantile) for row in rows) / len(rows)
        _, statistics = hex_loss(*z.chunk(2), threshold=AdaptiveThreshold(quantile), return_statistics=True)
        assert statistics.threshold.item() == pytest.approx(expected, abs=1e-13)


def test_adaptive_takes_half_to_even(backend: str) -> None:
    # 0.5 of 5 steps is index 2.5, which rounds to 2; of 7 steps 3.5, which rounds to 4.
    for samples, index in ((3, 2), (4, 4)):
        z = clustered(samples, 2, 6, torch.Generator().manual_seed(2))
        unit = torch.nn.functional.normalize(z)
        expected = (unit @ unit.T).fill_diagonal_(1.0).sort(1).values[:, index].mean()
        _, statistics = hex_loss(*z.chunk(2), threshold=AdaptiveThreshold(0.5), return_statistics=True)
        assert statistics.threshold.item() == pytest.approx(expected.item(), abs=1e-13)


def test_no_gradient_goes_through_the_threshold(backend: str) -> None:
    z = clustered(60, 2, 12, torch.Generator().manual_seed(1))
    gradients = []
    _, statistics = hex_loss(*z.chunk(2), return_statistics=True)
    # Halfway to the next similarity: the same split, but nothing that depends on z.
    for threshold in (AdaptiveThreshold(), FixedThreshold(statistics.threshold.item(), scale="cosine")):
        leaf = z.clone().requires_grad_()
        hex_loss(*leaf.chunk(2), threshold=threshold).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-15)


def test_step() -> None:
    threshold = StepThreshold(start=0.9, step_down=0.1, epoch_step=25, min=0.65)
    curve = [threshold.at(epoch) for epoch in range(100)]
    expected = [0.9] * 25 + [0.8] * 25 + [0.7] * 25 + [0.65] * 25
    assert [scale for scale, _ in curve] == ["minmax"] * 100
    assert [value for _, value in curve] == pytest.approx(expected)


def test_cosine_is_the_plain_curve() -> None:
    threshold = CosineThreshold(start=0.9, min=0.5, max_epochs=200)
    for epoch in range(0, 201, 10):
        expected = 0.5 + 0.4 * (1 + math.cos(math.pi * epoch / 200)) / 2
        assert threshold.at(epoch)[1] == pytest.approx(expected, abs=1e-15)
    assert threshold.at(0)[1] == pytest.approx(0.9)
    assert threshold.at(100)[1] == pytest.approx(0.7)
    assert threshold.at(1000)[1] == pytest.approx(0.5)


@pytest.mark.parametrize("threshold", [StepThreshold(epoch_step=3), CosineThreshold(max_epochs=9)], ids=str)
def test_scheduled_thresholds_are_the_fixed_ones_of_their_epoch(threshold: Threshold, backend: str) -> None:
    z1, z2 = clustered(50, 2, 10, torch.Generator().manual_seed(4)).chunk(2)
    losses = []
    for epoch in (0, 4, 8):
        scale, value = threshold.at(epoch)
        loss, statistics = hex_loss(z1, z2, threshold=threshold, epoch=epoch, return_statistics=True)
        expected = hex_loss(z1, z2, threshold=FixedThreshold(value, scale=scale))
        assert torch.equal(loss, expected)
        assert statistics.threshold.item() == value
        losses.append(loss.item())
    assert len(set(losses)) == 3


def test_minmax_scales_over_the_row_and_itself(backend: str) -> None:
    # From the first anchor: itself 1, its positive 0.8, negatives 0.6, 0, -0.6, 0.28; rescaled
    # by (c + 0.6) / 1.6 the negatives are 0.75, 0.375, 0 and 0.55. Without itself 0.6 would be 0.857.
    def at(cosine: float) -> list[float]:
        return [cosine, math.sqrt(1 - cosine * cosine)]

    rows = torch.tensor([at(1.0), at(0.6), at(-0.6), at(0.8), at(0.0), at(0.28)], dtype=torch.float64)
    index = torch.tensor([[3]])
    for value, hierarchical in (
        (0.76, 0),
        (0.74, 1),
        (0.56, 1),
        (0.54, 2),
        (0.38, 2),
        (0.36, 3),
        (0.01, 3),
        (-0.01, 4),
    ):
        _, statistics = hex_loss_with_keys(
            rows[:1], rows, positive_index=index, ignored_index=torch.tensor([0]),
            threshold=FixedThreshold(value), return_statistics=True,
        )  # fmt: skip
        assert statistics.hierarchical_negatives.item() == hierarchical


def test_supervised_needs_labels(backend: str) -> None:
    z1, z2 = torch.randn(2, 6, 4)
    with pytest.raises(ValueError, match="labels"):
        hex_loss(z1, z2, threshold="supervised")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8], ids=str)
def test_labels_of_any_integer_dtype(dtype: torch.dtype, backend: str) -> None:
    z1, z2 = torch.randn(2, 9, 4)
    labels = torch.arange(9) % 3
    expected = hex_loss(z1, z2, threshold="supervised", labels=labels)
    assert torch.equal(hex_loss(z1, z2, threshold="supervised", labels=labels.to(dtype)), expected)
    scattered = torch.stack([labels, labels + 5], 1)[:, 0]
    assert torch.equal(hex_loss(z1, z2, threshold="supervised", labels=scattered), expected)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("adaptive", AdaptiveThreshold()),
        ("step", StepThreshold()),
        ("cosine", CosineThreshold()),
        ("supervised", SupervisedThreshold()),
    ],
)
def test_names(name: str, strategy: Threshold) -> None:
    assert threshold_from(name) == strategy
    assert threshold_from(strategy) is strategy


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: AdaptiveThreshold(1.1), "expected `quantile` to be in [0, 1], but got 1.1"),
        (lambda: AdaptiveThreshold(-0.1), "expected `quantile` to be in [0, 1], but got -0.1"),
        (lambda: AdaptiveThreshold(math.nan), "expected `quantile` to be in [0, 1], but got nan"),
        (lambda: FixedThreshold(math.nan), "expected `value` to be a number, but got nan"),
        (lambda: FixedThreshold(0.5, scale="dot"), 'expected `scale` to be one of "cosine", "minmax", but got "dot"'),
        (lambda: StepThreshold(scale="dot"), 'expected `scale` to be one of "cosine", "minmax", but got "dot"'),
        (lambda: StepThreshold(step_down=-1.0), "expected `step_down` to be at least 0, but got -1.0"),
        (lambda: StepThreshold(epoch_step=0), "expected `epoch_step` to be at least 1, but got 0"),
        (lambda: CosineThreshold(max_epochs=0), "expected `max_epochs` to be at least 1, but got 0"),
        (lambda: CosineThreshold(start=math.nan), "expected `start` to be a finite number, but got nan"),
        (
            lambda: StepThreshold(start=0.5, min=0.6),
            "expected `min` to be a finite number of at most `start` = 0.5, but got 0.6",
        ),
        (
            lambda: threshold_from("cos"),
            'expected `threshold` to be one of "adaptive", "step", "cosine", "supervised" or a strategy, but got "cos"',
        ),
        (
            lambda: threshold_from("fixed"),
            'threshold "fixed" needs a value: pass hex_ssl.thresholds.FixedThreshold(value)',
        ),
    ],
)
def test_what_they_refuse(make: object, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        make()  # type: ignore[operator]


def test_not_a_strategy() -> None:
    text = (
        "expected `threshold` to be a strategy or its name, but got float; write hex_ssl.thresholds.FixedThreshold(0.9)"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        threshold_from(0.9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("strategy", "settings", "name"),
    [
        (AdaptiveThreshold, {"quantile": "0.5"}, "quantile"),
        (FixedThreshold, {"value": "0.5"}, "value"),
        (StepThreshold, {"start": "0.5"}, "start"),
        (StepThreshold, {"min": "0.5"}, "min"),
        (StepThreshold, {"step_down": "0.5"}, "step_down"),
        (StepThreshold, {"epoch_step": "3"}, "epoch_step"),
        (CosineThreshold, {"min": None}, "min"),
        (CosineThreshold, {"max_epochs": "100"}, "max_epochs"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_text_is_no_number(strategy: type[Threshold], settings: dict[str, object], name: str) -> None:
    (value,) = settings.values()
    with pytest.raises(TypeError, match=re.escape(f"expected `{name}` to be a number, but got {value!r}")):
        strategy(**settings)


def test_several_thresholds_are_none() -> None:
    with pytest.raises(ValueError, match=r"^expected `value` to be a number, but got a tensor of shape \[2\]$"):
        FixedThreshold(torch.zeros(2))
