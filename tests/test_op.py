"""The torch operators: registration, gradients of any upstream gradient, compile, autocast. More is in
`test_derivatives`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hex_ssl import HexLoss, dispatch, functional, ops
from hex_ssl.operands import Operands

from .batches import clustered

# torch 2.15's fake tensors look at the gradient of tensors that are no leaves.
of_fake_tensors = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

FORMULATIONS = ["importance", "official", "decoupled"]


def op_arguments(
    views: list[Tensor],
    *,
    rule: str = "adaptive",
    reduction: str = "mean",
    formulation: str = "importance",
    **given: Any,
) -> tuple[Any, ...]:
    """The operator's arguments in order."""
    tensors = (
        "keys",
        "positives",
        "positive_index",
        "ignored_index",
        "anchor_labels",
        "key_labels",
        "threshold",
        "weights",
        "temperature",
    )
    value = {"adaptive": 0.9, "labels": 0.0}.get(rule, 0.3)
    return (
        views, *(given.get(name) for name in tensors), given.get("offset", 0),
        rule, value, formulation, 1.0, 0.1, 0.2, reduction, given.get("towers", False), True,
    )  # fmt: skip


def op_cases() -> dict[str, tuple[Any, ...]]:
    """One call of each kind."""
    z = clustered(12, 2, 6, torch.Generator().manual_seed(1))
    z1, z2 = (x.clone().requires_grad_() for x in z.chunk(2))
    keys, positives = (x.clone().requires_grad_() for x in torch.randn(2, 12, 6, dtype=torch.float64))
    labels = torch.arange(24) % 3
    return {
        "views": op_arguments([z1, z2]),
        "views, none": op_arguments([z1, z2], reduction="none"),
        "views, sum, official": op_arguments([z1, z2], reduction="sum", formulation="official", rule="minmax"),
        "labels": op_arguments([z1, z2], rule="labels", anchor_labels=labels),
        "given": op_arguments([z1, z2], rule="given", threshold=torch.tensor(0.3, dtype=torch.float64)),
        "apart": op_arguments([z1], keys=keys, positives=positives),
        "apart, none": op_arguments([z1], keys=keys, positives=positives, reduction="none"),
        "index": op_arguments(
            [z1], keys=keys, positive_index=torch.arange(12)[:, None], ignored_index=torch.arange(12).roll(1)[:, None]
        ),
        "own negatives": op_arguments(
            [z1],
            keys=keys,
            positives=torch.cat([keys, positives]).detach().requires_grad_(),
            positive_index=torch.arange(12)[:, None],
            rule="margin",
            formulation="elimination",
        ),
        "own negatives after the positives, none": op_arguments(
            [z1], keys=keys, positives=torch.cat([keys, positives]).detach().requires_grad_(), reduction="none"
        ),
        "temperature": op_arguments([z1, z2], temperature=torch.tensor(0.2, dtype=torch.float64, requires_grad=True)),
        "temperature, none": op_arguments(
            [z1, z2], reduction="none", temperature=torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        ),
        "towers": op_arguments([z1, z2], towers=True),
        "supervised": op_arguments([z1, z2], rule="labels", formulation="supervised", anchor_labels=labels),
        "float32": op_arguments([z1.detach().float().requires_grad_(), z2.detach().float()]),
        "bfloat16": op_arguments([z1.detach().bfloat16().requires_grad_(), z2.detach().bfloat16().requires_grad_()]),
    }


@of_fake_tensors
@pytest.mark.parametrize("case", op_cases())
def test_opcheck(case: str, backend: str) -> None:
    utilities = ["test_schema", "test_autograd_registration", "test_faketensor"]
    # The last one calls NaN, the threshold where labels decide, unequal to itself.
    utilities += ["test_aot_dispatch_dynamic"] if case not in ("labels", "supervised") else []  # NaN: no threshold
    torch.library.opcheck(torch.ops.hex_ssl.evaluate.default, op_cases()[case], test_utils=utilities)


@of_fake_tensors
def test_opcheck_of_the_quantiles(backend: str) -> None:
    z1, z2 = (torch.randn(9, 4, requires_grad=True) for _ in range(2))
    torch.library.opcheck(torch.ops.hex_ssl.row_quantiles.default, ([z1, z2], None, None, 0, 0.9))
    torch.library.opcheck(torch.ops.hex_ssl.row_quantiles.default, ([z1], torch.randn(7, 4), z2, 0, 0.5))


def test_quantiles_of_one_view_against_other_keys(backend: str) -> None:
    # So each process finds its part of the threshold where positives are rows of the keys.
    anchors, keys = torch.randn(9, 4, dtype=torch.float64), torch.randn(21, 4, dtype=torch.float64)
    found = ops.row_quantiles([anchors], keys, None, 0, 0.9)
    cosines = torch.nn.functional.cosine_similarity(anchors[:, None], keys, dim=2)
    torch.testing.assert_close(found, cosines.quantile(0.9, dim=1, interpolation="nearest"), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("factor", [2.5, -1.0, 0.0, 1e-3])
def test_upstream_gradient(factor: float, dtype: torch.dtype, backend: str) -> None:
    z = clustered(40, 2, 16, torch.Generator().manual_seed(3)).to(dtype)
    gradients = []
    for upstream in (1.0, factor):
        leaf = z.clone().requires_grad_()
        (functional.hex_loss(*leaf.chunk(2)) * upstream).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad.double())
    # Two roundings of the dtype apart.
    torch.testing.assert_close(gradients[1], gradients[0] * factor, rtol=3 * torch.finfo(dtype).eps, atol=1e-7)


def test_upstream_gradient_of_each_anchor(backend: str) -> None:
    z = clustered(30, 2, 8, torch.Generator().manual_seed(3)).requires_grad_()
    losses = functional.hex_loss(*z.chunk(2), reduction="none")
    weights = torch.randn(60, dtype=torch.float64)
    weights[::7] = 0.0
    (weighted,) = torch.autograd.grad(losses, z, weights, retain_graph=True)
    one_by_one = torch.stack([torch.autograd.grad(each, z, retain_graph=True)[0] for each in losses.unbind()])
    torch.testing.assert_close(weighted, torch.einsum("i,ird->rd", weights, one_by_one), rtol=1e-9, atol=1e-12)
    mean = torch.autograd.grad(functional.hex_loss(*z.chunk(2)), z)[0]
    torch.testing.assert_close(mean, one_by_one.mean(0), rtol=1e-9, atol=1e-12)


def test_weights_of_the_operator(backend: str) -> None:
    z1, z2 = torch.randn(2, 10, 5, dtype=torch.float64).requires_grad_()
    weights = torch.rand(20, dtype=torch.float64)
    loss, *_ = ops.evaluate(*op_arguments([z1, z2], weights=weights, reduction="none"))
    each, *_ = ops.evaluate(*op_arguments([z1, z2], reduction="none"))
    assert loss.dim() == 0
    torch.testing.assert_close(loss, (weights * each).sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_tensors_that_are_negated_when_read(dtype: torch.dtype, backend: str) -> None:
    # Not of the operator, for which torch's dispatcher has negated them already.
    z, keys = torch.randn(29, 6, dtype=dtype).split([9, 20])
    given = {
        "keys": keys,
        "positive_index": torch.arange(9)[:, None],
        "ignored_index": torch.arange(9)[:, None] + 9,
        "anchor_labels": torch.arange(9) % 3 - 1,
        "key_labels": torch.arange(20) % 4 - 1,
        "weights": torch.rand(9, dtype=dtype),
    }
    negated = {name: torch._neg_view(-each) for name, each in given.items()}
    assert all(torch.equal(each, given[name]) and each.is_neg() for name, each in negated.items())
    expected, found = (
        dispatch.evaluate(Operands(*op_arguments([z], rule="labels", **each))) for each in (given, negated)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_without_grad(backend: str) -> None:
    z1, z2 = torch.randn(2, 12, 5).requires_grad_()
    recorded = functional.hex_loss(z1, z2)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            loss = functional.hex_loss(z1, z2)
        assert not loss.requires_grad
        torch.testing.assert_close(loss.clone(), recorded.detach(), rtol=1e-6, atol=0)
    assert not functional.hex_loss(z1.detach(), z2.detach()).requires_grad


def test_one_view_without_gradient(backend: str) -> None:
    z1, z2 = torch.randn(2, 12, 5, dtype=torch.float64)
    both = [z1.clone().requires_grad_(), z2.clone().requires_grad_()]
    functional.hex_loss(*both).backward()
    second = z2.clone().requires_grad_()
    functional.hex_loss(z1, second).backward()
    torch.testing.assert_close(second.grad, both[1].grad)
    assert z1.grad is None


def test_the_same_tensor_twice(backend: str) -> None:
    z = torch.randn(12, 5, dtype=torch.float64).requires_grad_()
    functional.hex_loss(z, z).backward()
    apart = [z.detach().clone().requires_grad_() for _ in range(2)]
    functional.hex_loss(*apart).backward()
    assert apart[0].grad is not None
    assert apart[1].grad is not None
    torch.testing.assert_close(z.grad, apart[0].grad + apart[1].grad)


def test_backward_twice_gives_the_same(backend: str) -> None:
    z1, z2 = torch.randn(2, 12, 5).requires_grad_()
    loss = functional.hex_loss(z1, z2)
    first = torch.autograd.grad(loss, z1, retain_graph=True)
    assert torch.equal(torch.autograd.grad(loss, z1)[0], first[0])


def test_a_queue_may_change_between_forward_and_backward(backend: str) -> None:
    queue = torch.randn(30, 5)
    z, positives = torch.randn(2, 8, 5)
    expected = z.clone().requires_grad_()
    functional.hex_loss_with_keys(expected, queue.clone(), positives=positives).backward()
    z.requires_grad_()
    loss = functional.hex_loss_with_keys(z, queue, positives=positives)
    queue.zero_()
    loss.backward()
    assert torch.equal(z.grad, expected.grad)  # type: ignore[arg-type]


def test_inputs_are_not_changed(backend: str) -> None:
    z1, z2 = torch.randn(2, 12, 5).requires_grad_()
    before = (z1.detach().clone(), z2.detach().clone())
    functional.hex_loss(z1, z2).backward()
    assert torch.equal(z1, before[0])
    assert torch.equal(z2, before[1])


HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_autocast_takes_16_bit_rows_as_they_are(
    reduction: str, dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Tensor] = []
    evaluate = dispatch.evaluate
    monkeypatch.setattr(functional, "evaluate_directly", lambda *_: None)
    monkeypatch.setattr(dispatch, "evaluate", lambda given: (read.extend(given.views), evaluate(given))[1])
    z1, z2 = torch.randn(2, 20, 8).to(dtype)
    found = []
    for autocast in (False, True):
        read.clear()
        leaves = [z.clone().requires_grad_() for z in (z1, z2)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = functional.hex_loss(*leaves, reduction=reduction)
        assert loss.dtype == torch.float32
        loss.sum().backward()
        # No copy, in the forward or in the backward.
        assert {each.data_ptr() for each in read} == {each.data_ptr() for each in leaves}
        gradients = [each.grad for each in leaves]
        assert all(each is not None and each.dtype == dtype for each in gradients)
        found.append([loss.detach(), *gradients])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_operator_under_autocast(dtype: torch.dtype, backend: str) -> None:
    z, keys, positives = torch.randn(3, 12, 6).to(dtype)
    for inputs in (op_arguments([z, keys]), op_arguments([z], keys=keys, positives=positives)):
        plain = ops.evaluate(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = ops.evaluate(*inputs)
        torch.testing.assert_close(found, plain, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("first", "second"), [(torch.bfloat16, torch.float32), (torch.bfloat16, torch.float16)], ids=str
)
def test_autocast_takes_rows_of_two_dtypes_in_the_widest(first: torch.dtype, second: torch.dtype, backend: str) -> None:
    z1, z2 = torch.randn(2, 20, 8)
    leaves = [z1.to(first).requires_grad_(), z2.to(second).requires_grad_()]
    wide = [each.detach().float().requires_grad_() for each in leaves]
    calls = (
        lambda a, b: functional.hex_loss(a, b),
        lambda a, b: functional.hex_loss_with_keys(a, b, positives=b.detach().flip(0)),
    )
    for call in calls:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = call(*leaves)
        expected = call(*wide)
        assert torch.equal(loss, expected)
        found, right = torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, wide)
        assert [each.dtype for each in found] == [first, second]
        torch.testing.assert_close(
            found, tuple(r.to(f.dtype) for f, r in zip(found, right, strict=True)), rtol=0, atol=0
        )


def test_autocast_of_a_projector(backend: str) -> None:
    linear = torch.nn.Linear(16, 8)
    x1, x2 = torch.randn(2, 40, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z1, z2 = linear(x1), linear(x2)
        assert z1.dtype == torch.bfloat16
        loss = functional.hex_loss(z1, z2)
    assert torch.equal(loss, functional.hex_loss(z1, z2))
    loss.backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.dtype == torch.float32
    assert linear.weight.grad.isfinite().all()
    assert linear.weight.grad.abs().max() > 0


def test_autocast_leaves_float64(backend: str) -> None:
    z1, z2 = torch.randn(2, 20, 8, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = functional.hex_loss(z1, z2)
    assert torch.equal(loss, functional.hex_loss(z1, z2))


@pytest.mark.parametrize("factor", [1024.0, 2.0**40])
def test_the_factor_of_a_grad_scaler(factor: float, backend: str) -> None:
    z = clustered(40, 2, 16, torch.Generator().manual_seed(5)).half()
    plain, scaled = z.clone().requires_grad_(), z.clone().requires_grad_()
    functional.hex_loss(*plain.chunk(2)).backward()
    (functional.hex_loss(*scaled.chunk(2)) * factor).backward()
    assert plain.grad is not None
    assert scaled.grad is not None
    assert not scaled.grad.isnan().any()
    if factor == 1024.0:
        # The factor comes before the rounding to float16: scaled gradients keep the bits that plain ones lose.
        torch.testing.assert_close(scaled.grad.double() / factor, plain.grad.double(), rtol=2e-3, atol=1e-7)
    else:
        # Too much: infinities, by which the scaler sees that it must go down.
        assert scaled.grad.isinf().any()


class Step(torch.nn.Module):
    """Projector and loss, as in a training step."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.projector = torch.nn.Linear(12, 8)
        self.criterion = HexLoss(**settings)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        loss: Tensor = self.criterion(self.projector(x1), self.projector(x2))
        return loss


def trained(step: torch.nn.Module, model: Step, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the projector's gradient."""
    model.zero_grad()
    loss = step(x1, x2)
    loss.backward()
    assert model.projector.weight.grad is not None
    return loss.detach(), model.projector.weight.grad.clone()


@pytest.mark.parametrize(
    "settings",
    [{}, {"formulation": "official", "threshold": "cosine"}, {"temperature": 0.5, "beta": 0.0, "tau_plus": 0.0}],
    ids=str,
)
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.filterwarnings("ignore")
def test_compile_fullgraph(settings: dict[str, Any], dynamic: bool | None, backend: str) -> None:
    torch._dynamo.reset()
    model = Step(**settings)
    model.criterion.set_epoch(1)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for samples in (40, 40, 33, 51):
        x1, x2 = torch.randn(2, samples, 12)
        eager = trained(model, model, x1, x2)
        statistics = model.criterion.statistics
        for ours, expected in zip(trained(compiled, model, x1, x2), eager, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(model.criterion.statistics, statistics, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_compile_with_inductor() -> None:
    torch._dynamo.reset()
    model = Step()
    compiled = torch.compile(model, fullgraph=True)
    x1, x2 = torch.randn(2, 40, 12)
    eager = trained(model, model, x1, x2)
    for ours, expected in zip(trained(compiled, model, x1, x2), eager, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_compile_views_of_two_dtypes_under_autocast() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(functional.hex_loss, fullgraph=True, backend="aot_eager")
    z1, z2 = torch.randn(2, 10, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(z1.bfloat16(), z2), functional.hex_loss(z1.bfloat16(), z2))


@pytest.mark.filterwarnings("ignore")
def test_compile_with_keys(backend: str) -> None:
    torch._dynamo.reset()

    def loss(z: Tensor, keys: Tensor, positives: Tensor) -> Tensor:
        return functional.hex_loss_with_keys(z, keys, positives=positives, reduction="none").sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    z, positives = torch.randn(2, 10, 6)
    keys = torch.randn(40, 6)
    gradients = []
    for function in (loss, compiled):
        leaf = z.clone().requires_grad_()
        function(leaf, keys, positives).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_an_unknown_backend_lists_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEX_SSL_BACKEND", "gpu")
    choices = '"auto", "cpu", "cuda", "composite"'
    with pytest.raises(ValueError, match=f'^expected HEX_SSL_BACKEND to be one of {choices}, but got "gpu"$'):
        functional.hex_loss(*torch.randn(2, 4, 3))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_loss_may_be_changed_in_place(reduction: str, backend: str) -> None:
    z = torch.randn(2, 12, 5)
    plain, changed = (z.clone().requires_grad_() for _ in range(2))
    (functional.hex_loss(*plain, reduction=reduction) / 4).sum().backward()
    loss = functional.hex_loss(*changed, reduction=reduction)
    loss /= 4
    loss.sum().backward()
    assert torch.equal(changed.grad, plain.grad)  # type: ignore[arg-type]
