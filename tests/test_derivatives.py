"""torch's own checks of derivatives over every loss and reduction: each passes, or raises the documented error."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from hex_ssl import HexLoss, contrast, functional, losses
from hex_ssl.thresholds import FixedThreshold

from .batches import clustered, decided
from .compare import arguments
from .reference import Settings

# torch's own forward mode is built with it.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

REDUCTIONS = ["mean", "sum", "none"]
NO_SECOND = "hex_ssl's losses have no second derivative with respect to their inputs"
NO_FORWARD = 'a forward-mode derivative with reduction "mean" or "sum", but not "none"'
NO_VMAP = "hex_ssl's losses do not support torch.func.vmap"


class Case(NamedTuple):
    """A loss of the given tensors, and whether a gradient goes to each."""

    loss: Callable[..., Tensor]
    inputs: list[Tensor]
    differentiable: list[bool]

    def leaves(self) -> list[Tensor]:
        return [
            each.clone().requires_grad_(needed) for each, needed in zip(self.inputs, self.differentiable, strict=True)
        ]


def rows(*counts: int) -> list[Tensor]:
    return list(clustered(sum(counts), 1, 3, torch.Generator().manual_seed(2)).split(list(counts)))


def fused_cases(reduction: str) -> dict[str, Case]:
    """The losses of the kernel, far from where a finite difference would turn a decision over."""
    cases = {}
    for formulation in ("importance", "official", "decoupled"):
        settings = Settings(0.3, "cosine", 0.25, formulation)
        z = decided(3, 3, 2, settings, torch.bfloat16).double()
        given = arguments(settings)
        cases[formulation] = Case(
            lambda *z, given=given: functional.hex_loss(*z, reduction=reduction, **given), list(z.chunk(3)), [True] * 3
        )
    labels = {"anchor_labels": torch.arange(4) % 3, "key_labels": torch.arange(7) % 3}
    cases["apart"] = Case(
        lambda a, k, p: functional.hex_loss_with_keys(
            a, k, positives=p, temperature=0.3, threshold="supervised", reduction=reduction, **labels
        ),
        rows(4, 7, 4),
        [True] * 3,
    )
    cases["index"] = Case(
        lambda a, k: functional.hex_loss_with_keys(
            a, k, positive_index=torch.arange(4), ignored_index=torch.arange(4) + 1, temperature=0.3,
            threshold=FixedThreshold(-0.99, "cosine"), reduction=reduction,
        ),
        rows(4, 7),
        [True] * 2,
    )  # fmt: skip
    two, both = rows(4, 4), [True, True]
    cases["ntxent"] = Case(lambda *z: functional.ntxent_loss(*z, reduction=reduction), two, both)
    cases["hcl"] = Case(lambda *z: functional.hcl_loss(*z, reduction=reduction), two, both)
    cases["dcl"] = Case(lambda *z: functional.dcl_loss(*z, temperature=0.4, reduction=reduction), two, both)
    cases["nnclr"] = Case(lambda n, p: losses.nnclr_loss(n, p, reduction=reduction), two, both)
    cases["moco"] = Case(
        lambda q, k, queue: losses.moco_loss(q, k, queue, reduction=reduction), rows(4, 4, 7), [True, False, False]
    )
    return cases


def composed_cases() -> dict[str, Case]:
    """The losses of torch's operations, which have every derivative."""
    two, four = rows(6, 6), rows(6, 6, 6, 6)
    return {
        "barlow_twins": Case(losses.barlow_twins_loss, two, [True, True]),
        "vicreg": Case(losses.vicreg_loss, two, [True, True]),
        "byol": Case(losses.byol_loss, two, [True, False]),
        "simsiam": Case(losses.simsiam_loss, two, [True, False]),
        "feature_contrast": Case(losses.feature_contrast_loss, four, [True, True, False, False]),
    }


FUSED = sorted(fused_cases("mean"))
fused = pytest.mark.parametrize("name", FUSED)
reductions = pytest.mark.parametrize("reduction", REDUCTIONS)


def gradients(loss: Callable[..., Tensor], leaves: list[Tensor], **how: Any) -> tuple[Tensor, ...]:
    """By autograd, with respect to those that want one."""
    return torch.autograd.grad(loss(*leaves).sum(), [each for each in leaves if each.requires_grad], **how)


@fused
@reductions
def test_gradcheck(name: str, reduction: str, backend: str) -> None:
    case = fused_cases(reduction)[name]
    scalar = reduction != "none"
    # One direction for the slower backend, each element for the other.
    fast = backend == "composite"
    assert gradcheck(case.loss, case.leaves(), check_forward_ad=scalar, check_grad_dtypes=True, fast_mode=fast)
    if not scalar:
        with pytest.raises(NotImplementedError, match=NO_FORWARD):
            gradcheck(case.loss, case.leaves(), check_forward_ad=True)


@fused
@reductions
def test_a_second_derivative_with_respect_to_inputs_is_refused(name: str, reduction: str) -> None:
    case = fused_cases(reduction)[name]
    with pytest.raises(NotImplementedError, match=NO_SECOND):
        gradgradcheck(case.loss, case.leaves())


@fused
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_derivative_of_the_gradient_with_respect_to_a_factor(name: str, reduction: str) -> None:
    case = fused_cases(reduction)[name]

    def gradient_of(factor: Tensor) -> tuple[Tensor, ...]:
        return gradients(lambda *z: factor * case.loss(*z), case.leaves(), create_graph=True)

    # Linear in the factor: exact.
    assert gradgradcheck(lambda factor: factor * case.loss(*case.inputs), torch.tensor(1.3).double().requires_grad_())
    assert gradcheck(gradient_of, torch.tensor(1.3, dtype=torch.float64, requires_grad=True), check_grad_dtypes=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_weights_of_losses_learn(dtype: torch.dtype, backend: str) -> None:
    # GradNorm (Chen et al. 2018): the weights of several losses follow the norms of their gradients.
    x1, x2 = torch.randn(2, 12, 5, dtype=dtype)
    weight = torch.randn(5, 4, dtype=dtype).requires_grad_()
    factor = torch.tensor(0.7, requires_grad=True)
    loss = functional.hex_loss(x1 @ weight, x2 @ weight)
    (plain,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (scaled,) = torch.autograd.grad(factor * loss, weight, create_graph=True)
    (found,) = torch.autograd.grad(scaled.float().norm(), factor)
    assert found.item() == pytest.approx(plain.float().norm().item(), rel=3e-2 if dtype == torch.bfloat16 else 1e-5)


class Operations(TorchDispatchMode):
    """Notes what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gradients_are_scaled_and_cast_in_one_operation(dtype: torch.dtype) -> None:
    z1, z2 = (each.requires_grad_() for each in torch.randn(2, 9, 5).to(dtype))
    factor = torch.tensor(0.7)
    loss = functional.hex_loss(z1, z2)
    with Operations() as operations:
        found = torch.autograd.grad(loss, [z1, z2], factor, retain_graph=True)
    (scaling,) = (name for name in operations.names if name.startswith("aten.mul"))
    assert not any("copy" in name for name in operations.names)
    assert scaling == ("aten.mul.Tensor" if dtype == torch.float32 else "aten.mul.out")
    # As by two operations, where something else takes part.
    recorded = torch.autograd.grad(loss, [z1, z2], factor, create_graph=True)
    batched = torch.autograd.grad(loss, [z1, z2], torch.stack([factor, 2 * factor]), is_grads_batched=True)
    for one, other, (first, second) in zip(found, recorded, batched, strict=True):
        assert one.dtype == dtype
        assert one.equal(other)
        assert one.equal(first)
        assert (2 * one).equal(second)


def test_the_factor_of_losses_of_each_anchor_is_refused(backend: str) -> None:
    z1, z2 = torch.randn(2, 6, 4).requires_grad_()
    factor = torch.ones(12, requires_grad=True)
    losses = functional.hex_loss(z1, z2, reduction="none")
    (gradient,) = torch.autograd.grad((factor * losses).sum(), z1, create_graph=True)
    with pytest.raises(NotImplementedError, match=NO_SECOND):
        torch.autograd.grad(gradient.norm(), factor)


@fused
@reductions
def test_opcheck(name: str, reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    evaluate = contrast.evaluate_call
    monkeypatch.setattr(functional, "evaluate_directly", lambda *_: None)
    monkeypatch.setattr(contrast, "evaluate_call", lambda operands: (calls.append(operands), evaluate(operands))[1])
    case = fused_cases(reduction)[name]
    case.loss(*case.leaves())
    (inputs,) = calls
    utilities = ["test_schema", "test_autograd_registration", "test_faketensor"]
    # The last one calls NaN, the threshold where labels decide, unequal to itself.
    utilities += [] if name == "apart" else ["test_aot_dispatch_dynamic"]
    torch.library.opcheck(torch.ops.hex_ssl.evaluate.default, inputs, test_utils=utilities)


@fused
@reductions
def test_transforms_in_reverse_mode(name: str, reduction: str) -> None:
    case = fused_cases(reduction)[name]
    expected = gradients(case.loss, case.leaves())
    wanted = tuple(index for index, needed in enumerate(case.differentiable) if needed)
    torch.testing.assert_close(grad(lambda *z: case.loss(*z).sum(), argnums=wanted)(*case.inputs), expected)
    loss, backward = vjp(case.loss, *case.inputs)
    found = backward(torch.full_like(loss, 2.0))
    torch.testing.assert_close([found[index] / 2 for index in wanted], list(expected))


@fused
@reductions
def test_transforms_in_forward_mode(name: str, reduction: str) -> None:
    case = fused_cases(reduction)[name]
    tangents = tuple(torch.randn_like(each) for each in case.inputs)
    if reduction == "none":
        with pytest.raises(NotImplementedError, match=NO_FORWARD):
            jvp(case.loss, tuple(case.inputs), tangents)
        return
    leaves = case.leaves()
    moved = [tangent for tangent, leaf in zip(tangents, leaves, strict=True) if leaf.requires_grad]
    expected = sum((g * t).sum() for g, t in zip(gradients(case.loss, leaves), moved, strict=True))
    torch.testing.assert_close(jvp(case.loss, tuple(case.inputs), tangents)[1], expected)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(case.inputs, tangents, strict=True)]
        torch.testing.assert_close(forward_ad.unpack_dual(case.loss(*duals)).tangent, expected)


@fused
@reductions
def test_transforms_that_are_refused(name: str, reduction: str) -> None:
    case = fused_cases(reduction)[name]
    others = case.inputs[1:]

    def loss(z: Tensor) -> Tensor:
        return case.loss(z, *others).sum()

    z = case.inputs[0]
    with pytest.raises(NotImplementedError, match=NO_VMAP):
        vmap(loss)(torch.stack([z, z]))
    with pytest.raises(NotImplementedError, match=NO_VMAP):
        vmap(grad(loss))(torch.stack([z, z]))
    for second in (
        lambda: grad(lambda z: grad(loss)(z).square().sum())(z),
        lambda: jvp(grad(loss), (z,), (z,)),
        lambda: grad(lambda moved: jvp(loss, (moved,), (z,))[1])(z),
        lambda: hessian(loss)(z),
    ):
        with pytest.raises(NotImplementedError, match=f"{NO_SECOND}|{NO_VMAP}|{NO_FORWARD}"):
            second()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_forward_over_reverse_and_reverse_over_forward_are_refused(reduction: str) -> None:
    z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    other = torch.randn(6, 4, dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(z, other)
        if reduction == "none":
            with pytest.raises(NotImplementedError, match=NO_FORWARD):
                functional.hex_loss(dual, other, reduction=reduction)
            return
        loss = functional.hex_loss(dual, other, reduction=reduction)
        with pytest.raises(NotImplementedError, match=NO_SECOND):
            torch.autograd.grad(loss, z, retain_graph=True)
        with pytest.raises(NotImplementedError, match=NO_SECOND):
            torch.autograd.grad(forward_ad.unpack_dual(loss).tangent, z)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", sorted(composed_cases()))
def test_losses_of_torchs_operations(name: str) -> None:
    case = composed_cases()[name]
    assert gradcheck(case.loss, case.leaves(), check_forward_ad=True, check_grad_dtypes=True)
    assert gradgradcheck(case.loss, case.leaves(), fast_mode=True)
    (expected, *_) = gradients(case.loss, case.leaves())
    torch.testing.assert_close(grad(case.loss)(*case.inputs), expected)
    torch.testing.assert_close(jacrev(case.loss)(*case.inputs), expected)
    batches = [torch.stack([each, each.flip(1)]) for each in case.inputs]
    torch.testing.assert_close(
        vmap(case.loss)(*batches), torch.stack([case.loss(*z) for z in zip(*batches, strict=True)])
    )


def test_functional_call(backend: str) -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projector, self.criterion = nn.Linear(5, 3), HexLoss()

        def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
            loss: Tensor = self.criterion(self.projector(x1), self.projector(x2))
            return loss

    step, x = Step(), torch.randn(2, 7, 5)
    parameters = {name: each.detach() for name, each in step.named_parameters()}
    found = grad(lambda given: functional_call(step, given, tuple(x)))(parameters)
    step(*x).backward()
    torch.testing.assert_close(found, {name: each.grad for name, each in step.named_parameters()})


@reductions
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant: bool, reduction: str, backend: str) -> None:
    case = fused_cases(reduction)["importance"]
    expected = gradients(case.loss, case.leaves())
    leaves = case.leaves()
    checkpoint(case.loss, *leaves, use_reentrant=use_reentrant).sum().backward()
    assert all(torch.equal(leaf.grad, theirs) for leaf, theirs in zip(leaves, expected, strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_inputs_are_not_kept_for_the_backward(reduction: str, backend: str) -> None:
    z1, z2 = torch.randn(2, 8, 5)
    expected = z1.clone().requires_grad_()
    functional.hex_loss(expected, z2, reduction=reduction).backward()
    with torch.inference_mode():
        of_inference = z2.clone()
    for other in (of_inference, z2.clone()):
        leaf = z1.clone().requires_grad_()
        loss = functional.hex_loss(leaf, other, reduction=reduction)
        with torch.inference_mode():
            other.zero_()  # a buffer, written over by the next batch
        loss.backward()
        assert torch.equal(leaf.grad, expected.grad)  # type: ignore[arg-type]


@reductions
def test_meta_tensors(reduction: str) -> None:
    cases = {**fused_cases(reduction), **composed_cases()}
    for name in cases.keys() - {"apart", "index"}:  # their labels and indices are not on meta
        case = cases[name]
        on_cpu = case.loss(*case.inputs)
        leaves = [
            each.to("meta").requires_grad_(needed)
            for each, needed in zip(case.inputs, case.differentiable, strict=True)
        ]
        loss = case.loss(*leaves)
        assert (loss.device.type, loss.shape, loss.dtype) == ("meta", on_cpu.shape, on_cpu.dtype), name
        loss.sum().backward()
        assert leaves[0].grad is not None
        assert leaves[0].grad.shape == leaves[0].shape


@pytest.mark.parametrize("threshold", ["adaptive", "step", "cosine", "supervised"])
def test_a_loss_built_on_meta(threshold: str) -> None:
    labels = torch.arange(6) % 2 if threshold == "supervised" else None
    z = torch.randn(2, 6, 4)
    built = HexLoss(threshold=threshold, warmup_epochs=1)
    built.set_epoch(3)
    with torch.device("meta"):
        criterion = HexLoss(threshold=threshold, warmup_epochs=1)
        criterion.set_epoch(3)
        restored = HexLoss(threshold=threshold, warmup_epochs=1)
        restored.load_state_dict(criterion.state_dict())
        assert torch.equal(criterion(*z, labels=labels), built(*z, labels=labels))
    assert torch.equal(restored(*z, labels=labels), built(*z, labels=labels))
