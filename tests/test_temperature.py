"""A temperature as a tensor: the same loss as for a number, and its derivative, in every loss, reduction and mode."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hex_ssl
from hex_ssl import functional
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold

ROWS, DIMS = 24, 7
Loss = Callable[..., Tensor]
FLOOR: dict[str, Any] = {"tau_plus": 0.9, "threshold": AdaptiveThreshold(0.7)}


def close_rows(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Two views near each other, so that some anchors are at the floor."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(6, DIMS, generator=generator, dtype=torch.float64).repeat(4, 1)
    z1, z2 = (base + 0.4 * torch.randn(ROWS, DIMS, generator=generator, dtype=torch.float64) for _ in range(2))
    return z1, z2


def with_queue(z1: Tensor, z2: Tensor, **more: Any) -> Tensor:
    queue = torch.randn(40, DIMS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return functional.hex_loss_with_keys(z1, queue.to(z1.dtype), positives=z2, threshold=FixedThreshold(0.7), **more)


LOSSES: dict[str, Loss] = {
    "hex": lambda *z, **more: functional.hex_loss(*z, threshold=FixedThreshold(0.5, scale="cosine"), **more),
    "adaptive": lambda *z, **more: functional.hex_loss(*z, **FLOOR, **more),
    "official": lambda *z, **more: functional.hex_loss(*z, formulation="official", **more),
    "ntxent": functional.ntxent_loss,
    "hcl": functional.hcl_loss,
    "dcl": functional.dcl_loss,
    "queue": with_queue,
    "clip": functional.clip_loss,
    "infonce": functional.infonce_loss,
    "supcon": lambda *z, **more: functional.supcon_loss(*z, labels=torch.arange(ROWS) % 5, **more),
}


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_derivative_is_that_of_central_differences(name: str, reduction: str, temperature: float, backend: str) -> None:
    z1, z2 = close_rows()
    loss, weights = LOSSES[name], torch.linspace(0.5, 1.5, 2 * ROWS, dtype=torch.float64)

    def at(temperature: float | Tensor) -> Tensor:
        found = loss(z1, z2, temperature=temperature, reduction=reduction)
        return (found * weights[: found.numel()]).sum() if reduction == "none" else found

    learned = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    found = at(learned)
    found.backward()
    assert learned.grad is not None
    torch.testing.assert_close(found.detach(), at(temperature), rtol=1e-12, atol=0)
    step = 1e-6
    expected = (at(temperature + step) - at(temperature - step)) / (2 * step)
    torch.testing.assert_close(learned.grad, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_some_anchors_are_at_the_floor(temperature: float) -> None:
    z1, z2 = close_rows()
    _, statistics = functional.hex_loss(z1, z2, temperature=temperature, return_statistics=True, **FLOOR)
    assert statistics.floor_fraction > 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_has_the_temperatures_dtype(dtype: torch.dtype, backend: str) -> None:
    z1, z2 = (rows.to(dtype).requires_grad_() for rows in close_rows())
    exact = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    functional.ntxent_loss(z1.double(), z2.double(), temperature=exact).backward()
    for of_temperature in (torch.float32, torch.bfloat16, torch.float64):
        learned = torch.tensor(0.2, dtype=of_temperature, requires_grad=True)
        loss = functional.ntxent_loss(z1, z2, temperature=learned)
        loss.backward()
        assert loss.dtype == torch.float32
        assert learned.grad is not None
        assert learned.grad.dtype == of_temperature
        torch.testing.assert_close(learned.grad.double(), exact.grad, rtol=3e-2, atol=0)
        assert z1.grad is not None
        assert z1.grad.dtype == dtype


def test_it_alone_may_require_a_gradient(backend: str) -> None:
    z1, z2 = close_rows()
    learned = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    functional.clip_loss(z1, z2, temperature=learned).backward()
    assert learned.grad is not None
    assert learned.grad != 0


def test_parameter_of_a_module_is_trained() -> None:
    z1, z2 = close_rows()
    criterion = hex_ssl.HexLoss(temperature=nn.Parameter(torch.tensor(0.5, dtype=torch.float64)))
    assert [name for name, _ in criterion.named_parameters()] == ["temperature"]
    optimizer = torch.optim.SGD(criterion.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = criterion(z1, z2)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert criterion.state_dict()["temperature"] < 0.5


@pytest.mark.parametrize("mode", ["compile", "autocast", "func", "checkpoint", "factor", "twice"])
def test_modes(mode: str) -> None:
    z1, z2 = close_rows()
    learned = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    functional.clip_loss(z1, z2, temperature=learned).backward()
    assert learned.grad is not None
    expected, learned.grad = learned.grad.clone(), None

    def loss(temperature: Tensor) -> Tensor:
        return functional.clip_loss(z1, z2, temperature=temperature)

    match mode:
        case "compile":
            torch.compile(loss, backend="aot_eager", fullgraph=True)(learned).backward()
        case "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = loss(learned)
            found.backward()
        case "func":
            learned.grad = torch.func.grad(loss)(learned.detach())
        case "checkpoint":
            torch.utils.checkpoint.checkpoint(loss, learned, use_reentrant=False).backward()
        case "factor":
            (loss(learned) * 3.0).backward()
            learned.grad /= 3.0
        case "twice":
            (gradient,) = torch.autograd.grad(loss(learned), learned, create_graph=True)
            with pytest.raises(NotImplementedError, match="no second derivative"):
                gradient.backward()
            learned.grad = gradient.detach()
    torch.testing.assert_close(learned.grad, expected)


@pytest.mark.parametrize(
    ("temperature", "error", "message"),
    [
        (torch.tensor([0.1]), ValueError, r"expected `temperature` to be a number, or a tensor of shape \[\] .* \[1\]"),
        (torch.tensor(1), ValueError, r"floating-point dtype, but got shape \[\], int64"),
        (torch.tensor(0.0), ValueError, "expected `temperature` to be a positive number, but got 0"),
        (torch.tensor(float("nan")), ValueError, "expected `temperature` to be a positive number, but got (nan|NaN)"),
        ("0.1", TypeError, "expected `temperature` to be a number, but got '0.1'"),
    ],
)
def test_errors(temperature: Any, error: type[Exception], message: str) -> None:
    z1, z2 = close_rows()
    with pytest.raises(error, match=message):
        functional.clip_loss(z1, z2, temperature=temperature)
