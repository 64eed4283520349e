"""The shortest way to the kernels: what takes it, what does not, and that it computes the same."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hex_ssl import DCLLoss, HCLLoss, HexLoss, NTXentLoss, _core, functional
from hex_ssl.contrast import Settings
from hex_ssl.direct import evaluate_directly
from hex_ssl.functional import NO_HIERARCHY

from .conftest import Emulate

USUAL = Settings("adaptive", 0.99, "importance", 1.0, 0.1, 0.2, "mean")


@pytest.fixture(autouse=True)
def on_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEX_SSL_BACKEND", raising=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "criterion",
    [
        HexLoss(),
        HexLoss(threshold="cosine", formulation="official", reduction="sum"),
        HexLoss(threshold=NO_HIERARCHY, beta=0.5),
        NTXentLoss(),
        HCLLoss(reduction="sum"),
        DCLLoss(),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:HexLoss.set_epoch was never called")
def test_both_ways_give_the_same_bits(
    criterion: torch.nn.Module, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_both_ways_equal(criterion, torch.randn(3, 20, 9).to(dtype), monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("criterion", [HexLoss(), NTXentLoss(temperature=0.01), HCLLoss(reduction="sum")], ids=str)
@pytest.mark.filterwarnings("ignore:HexLoss.set_epoch was never called")
def test_both_ways_give_the_same_bits_on_the_cuda_kernels(
    criterion: torch.nn.Module, dtype: torch.dtype, emulate: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate(dtype, 40)
    assert evaluate_directly(list(torch.randn(2, 6, 40).to(dtype)), USUAL) is not None
    assert_both_ways_equal(criterion, torch.randn(3, 20, 40).to(dtype), monkeypatch)


def assert_both_ways_equal(criterion: torch.nn.Module, z: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, statistics and gradients, with and without a record of autograd."""
    results = []
    for way in (evaluate_directly, lambda *_: None):
        monkeypatch.setattr(functional, "evaluate_directly", way)
        z1, z2 = z[0].clone().requires_grad_(), z[1].clone().requires_grad_()
        loss = criterion(z1, z2, z[2])
        (loss * 0.7).backward()
        with torch.no_grad():
            alone = criterion(z1, z2, z[2])
        results.append([loss.detach(), alone, *criterion.statistics, z1.grad, z2.grad])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("rule", ["adaptive", "cosine", "minmax"])
def test_the_usual_call_takes_it(rule: str) -> None:
    z1, z2 = torch.randn(2, 6, 4)
    settings = USUAL._replace(threshold_rule=rule, threshold_value=0.5)
    for views in ([z1, z2], [z1.requires_grad_(), torch.nn.Parameter(z2)], [z1.detach().T, z2.T, z2[:, ::2].T[:4]]):
        alike = all(each.shape == views[0].shape for each in views)
        found = evaluate_directly(views, settings)
        assert (found is not None) == alike
        assert found is None or found[0].requires_grad == any(each.requires_grad for each in views)


class Subclass(Tensor):
    """A user's own."""


UNUSUAL_VIEWS: dict[str, Callable[[Tensor], list[Any]]] = {
    "one view": lambda z: [z],
    "no view": lambda z: [],
    "not a tensor": lambda z: [z, z.tolist()],
    "a subclass": lambda z: [z, z.as_subclass(Subclass)],
    "on meta": lambda z: [z.to("meta"), z.to("meta")],
    "negated when read": lambda z: [z, torch._neg_view(z)],
    "another shape": lambda z: [z, z[:3]],
    "another dtype": lambda z: [z, z.double()],
    "not a matrix": lambda z: [z[0], z[0]],
    "integers": lambda z: [z.long(), z.long()],
    "sparse": lambda z: [z.to_sparse(), z.to_sparse()],
    "nested": lambda z: [torch.nested.nested_tensor([z, z[:2]])] * 2,
}


@pytest.mark.parametrize("views", UNUSUAL_VIEWS.values(), ids=UNUSUAL_VIEWS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_other_views_do_not_take_it(views: Callable[[Tensor], list[Any]]) -> None:
    assert evaluate_directly(views(torch.randn(6, 4)), USUAL) is None


@pytest.mark.parametrize(
    "settings",
    [
        USUAL._replace(reduction="none"),
        USUAL._replace(threshold_rule="labels"),
        USUAL._replace(temperature=torch.tensor(0.2)),
        USUAL._replace(threshold_rule="cosine", threshold_value=torch.tensor(0.2)),
    ],
    ids=str,
)
def test_other_settings_do_not_take_it(settings: Settings) -> None:
    assert evaluate_directly(list(torch.randn(2, 6, 4)), settings) is None


class Watcher(TorchDispatchMode):
    """Changes nothing."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("observer", "taken"),
    [(nullcontext, True), (BaseTorchFunctionMode, False), (Watcher, False), (forward_ad.dual_level, False)],
    ids=["none", "function mode", "dispatch mode", "forward mode"],
)
def test_it_gives_way_to_observers(observer: Callable[[], AbstractContextManager[Any]], taken: bool) -> None:
    views = list(torch.randn(2, 6, 4))
    with observer():
        assert (evaluate_directly(views, USUAL) is not None) == taken


def test_it_gives_way_where_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "evaluate", lambda *_: "no kernel for this call")
    assert evaluate_directly(list(torch.randn(2, 6, 4)), USUAL) is None


def test_it_gives_way_to_transforms_and_other_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(2, 6, 4)
    seen = []
    torch.func.grad(lambda x: (seen.append(evaluate_directly(list(x), USUAL)), x.sum())[1])(z)
    torch.vmap(lambda x: (seen.append(evaluate_directly([x, x], USUAL)), x)[1])(z)
    for backend in ("composite", "cuda"):
        monkeypatch.setenv("HEX_SSL_BACKEND", backend)
        seen.append(evaluate_directly(list(z), USUAL))
    assert seen == [None] * 4
