"""The formula is written four times: in the docstring, in `src/formula.rs`, in `anchors.cu` and in `composite.py`. This
compares all four on the same sums, number by number."""

import math
from typing import NamedTuple

import pytest
import torch

from hex_ssl import _core, composite, functional
from hex_ssl.operands import Operands

from .ptx.emulation import Emulation
from .ptx.structures import enumerators, structures

DOCSTRING = """
        importance:  L_ip = -log( exp(s_ip) / (exp(s_ip) + E_i + Q_ip) )
                     E_i  = sum_{n in G(i)} exp(s_in)
                     Q_ip = max( (R_i - tau_plus |H(i)| exp(s_ip)) / (1 - tau_plus),  |H(i)| exp(-1 / temperature) )
                     R_i  = sum_{h in H(i)} w_ih exp(s_ih)
                     w_ih = exp(beta s_ih) / mean_{h' in H(i)} exp(beta s_ih')
        official:    L_ip = -s_ip + log(E_i) + (|G(i)| + |H(i)|) exp(-1 / temperature)
        decoupled:   L_ip = -s_ip + log(E_i)
        elimination: L_ip = -log( exp(s_ip) / (exp(s_ip) + E_i) )
"""
"""What `by_docstring` computes, line by line."""


class Case(NamedTuple):
    """One anchor: the similarities with its negatives on either side and with its positives, exact in bfloat16."""

    global_: list[float]
    hierarchical: list[float]
    positives: list[float]
    formulation: str = "importance"
    temperature: float = 0.5
    beta: float = 1.0
    tau_plus: float = 0.1

    def sums(self) -> list[float]:
        """In the order of `composite.Sums`, rounded to float32, in which the CUDA kernels keep them."""

        def total(side: list[float], shift: float, power: float) -> float:
            found = math.fsum(math.exp(power * (c - shift) / self.temperature) for c in side)
            return torch.tensor(found, dtype=torch.float32).item()

        highest = [max(side, default=0.0) for side in (self.global_, self.hierarchical)]
        return [
            *highest,
            total(self.global_, highest[0], 1.0),
            total(self.hierarchical, highest[1], 1.0 + self.beta),
            total(self.hierarchical, highest[1], self.beta),
            float(len(self.hierarchical)),
            float(len(self.global_) + len(self.hierarchical)),
        ]


LOW, HIGH = [-0.5, 0.125, 0.25], [0.5, 0.625, 0.875]
CASES = {
    "HEX": Case(LOW, HIGH, [0.75]),
    "HEX, three positives": Case(LOW, HIGH, [0.75, -0.25, 0.5], beta=0.5, tau_plus=0.3),
    "HEX, at the floor with one of two": Case(LOW, [-0.5, -0.75], [0.96875, -0.75], tau_plus=0.6),
    "HEX, sharp": Case(LOW, HIGH, [0.75, 0.5], temperature=0.05, beta=2.0),
    "HEX, neither beta nor tau_plus": Case(LOW, HIGH, [0.75], beta=0.0, tau_plus=0.0),
    "NT-Xent: nothing hierarchical": Case(LOW + HIGH, [], [0.75, 0.5]),
    "HCL: nothing global": Case([], LOW + HIGH, [0.75, 0.5]),
    "official": Case(LOW, HIGH, [0.75, -0.25], "official"),
    "official: nothing hierarchical": Case(LOW + HIGH, [], [0.75], "official"),
    "official: nothing global": Case([], HIGH, [0.75, 0.5], "official"),
    "decoupled": Case(LOW, HIGH, [0.75, 0.5], "decoupled"),
    "DCL: nothing hierarchical": Case(LOW + HIGH, [], [0.75], "decoupled", 0.1),
    "elimination": Case(LOW, HIGH, [0.75, -0.25], "elimination"),
    "elimination, sharp": Case(LOW, [*HIGH, 1.0], [-0.25], "elimination", 0.03),
    "elimination: nothing hierarchical": Case(LOW + HIGH, [], [0.75], "elimination"),
    "elimination: nothing global": Case([], HIGH, [0.75, -0.5], "elimination", 0.05),
}


class Found(NamedTuple):
    """What a statement makes of a case, in the words of `composite.Formula`."""

    loss: float
    defined: float
    at_floor: float
    global_: float
    weighted: float
    weights: float
    positives: list[float]

    def weighed(self, weight: float) -> "Found":
        """The derivatives times the anchor's weight."""
        coefficients = (weight * each for each in self[3:6])
        return Found(*self[:3], *coefficients, [weight * each for each in self.positives])


def by_docstring(case: Case) -> Found:
    """By the docstring, and autograd."""
    *shifts, of_global, weighted, weights, hierarchical, negatives = case.sums()
    t, beta, tau_plus = case.temperature, case.beta, case.tau_plus
    sums = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (of_global, weighted, weights)]
    c = torch.tensor(case.positives, dtype=torch.float64, requires_grad=True)
    s = c / t
    e = sums[0] * math.exp(shifts[0] / t)
    floor = torch.full_like(s, hierarchical * math.exp(-1 / t))
    q = debiased = torch.zeros_like(s)
    if hierarchical:
        r = hierarchical * sums[1] / sums[2] * math.exp(shifts[1] / t)
        debiased = (r - tau_plus * hierarchical * s.exp()) / (1 - tau_plus)
        q = torch.maximum(debiased, floor)
    if case.formulation == "importance":
        losses = -torch.log(s.exp() / (s.exp() + e + q))
    elif case.formulation == "elimination":
        losses = -torch.log(s.exp() / (s.exp() + e))
    else:
        losses = -s + e.log() + (negatives * math.exp(-1 / t) if case.formulation == "official" else 0.0)
        if not case.global_:
            return Found(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, [0.0] * len(s))
    loss = losses.mean()
    slopes = torch.autograd.grad(loss, [c, *sums], allow_unused=True)
    by_global, by_weighted, by_weights = (0.0 if each is None else each.item() for each in slopes[1:])
    floored = ((debiased <= floor).sum().item() if hierarchical else 0) if case.formulation == "importance" else 0
    # From the derivatives by the sums to the factors of the exponentials.
    factors = (by_global / t if case.global_ else 0.0, by_weighted * (1 + beta) / t, -by_weights * beta / t)
    return Found(loss.item(), 1.0, floored, *factors, slopes[0].tolist())


def by_rust(case: Case) -> Found:
    """By `src/formula.rs`."""
    settings = (case.formulation, case.beta, case.tau_plus, case.temperature)
    loss, defined, floored, *factors, slopes = _core.anchor_formula(*settings, tuple(case.sums()), case.positives)
    return Found(loss, float(defined), floored, *factors, slopes)


def by_composite(case: Case) -> Found:
    """By `composite.formula`."""
    settings = ("cosine", 0.0, case.formulation, case.beta, case.tau_plus, case.temperature, "mean", False, True)
    operands = Operands([], *[None] * 9, 0, *settings)
    *of_negatives, count = case.sums()
    similarity = 0.0  # of the hierarchical negatives: SupCon alone asks for it
    sums = composite.Sums(*(torch.tensor([[each]], dtype=torch.float64) for each in (*of_negatives, similarity, count)))
    found = composite.formula(operands, sums, torch.tensor([case.positives], dtype=torch.float64))
    floored = found.at_floor.item() * len(case.positives)
    factors = (found.global_.item(), found.weighted.item(), found.weights.item())
    return Found(found.loss.item(), float(found.defined.item()), floored, *factors, found.positives[0].tolist())


DIMS, OPERAND = 64, "BF16"


def by_cuda(case: Case, emulation: Emulation, weight: float | None) -> Found:
    """By the kernel `anchors`, compiled and interpreted: one anchor along the first axis, each positive a key."""
    struct, number, count = structures(), enumerators(), len(case.positives)
    global_shift, hierarchical_shift, *sums, hierarchical, negatives = case.sums()
    f32, f64 = {"dtype": torch.float32}, {"dtype": torch.float64}
    rows = torch.zeros(1 + count, DIMS, dtype=torch.bfloat16)
    rows[:, 0] = torch.tensor([1.0, *case.positives])
    cards = torch.zeros(1 + count, 4, **f32)
    cards[:, 0] = 1.0
    splits = torch.zeros(8, **f32)
    splits[3:5] = torch.tensor([global_shift, hierarchical_shift])
    # The first key is named twice, which counts once, and the list is padded.
    index, named = torch.arange(count), torch.tensor([0, *range(count), -1], dtype=torch.int32)
    sums_of_anchor = torch.tensor([*sums, hierarchical, 0.0], **f32)
    loss, statistics, totals = torch.zeros(1, **f32), torch.zeros(6, **f32), torch.zeros(9, **f64)
    header, similarities, slopes = torch.zeros(16, **f64), torch.zeros(count, **f32), torch.zeros(count, **f32)
    header[struct["Header"].temperature.offset // 8] = case.temperature
    weights = torch.tensor([1.0 if weight is None else weight], **f32)
    memory = (
        rows,
        cards,
        splits,
        index,
        named,
        sums_of_anchor,
        loss,
        statistics,
        totals,
        header,
        similarities,
        slopes,
        weights,
    )
    side, card = rows.stride(0) * rows.element_size(), cards.stride(0) * cards.element_size()
    parameters = struct["Parameters"](
        anchors=struct["Side"](rows.data_ptr(), cards.data_ptr(), splits.data_ptr(), None, 1, 1),
        keys=struct["Side"](rows.data_ptr() + side, cards.data_ptr() + card, None, None, int(negatives) + count, count),
        positive_index=index.data_ptr(), excluded_keys=named.data_ptr(),
        anchor_weights=None if weight is None else weights.data_ptr(),
        loss=loss.data_ptr(), statistics=statistics.data_ptr(), header=header.data_ptr(),
        sums=sums_of_anchor.data_ptr(), positive_similarities=similarities.data_ptr(),
        positive_slopes=slopes.data_ptr(), totals=totals.data_ptr(), beta=case.beta, tau_plus=case.tau_plus,
        dims=DIMS, pairing=number["INDEXED"], positives=count, excluded=count + 2,
        formulation=number[case.formulation.upper()], splits=1,
    )  # fmt: skip
    emulation.interpreter.launch(
        emulation.start(OPERAND, DIMS).result(),
        [bytes(parameters), bytes(struct["Launch"](rows=256))],
        kernel="anchors",
        threads=256,
        shared_bytes=584,
        memory=memory,
    )
    assert totals[0].item() == pytest.approx(loss.item() * weights.item(), rel=1e-6)
    assert torch.equal(similarities, torch.tensor(case.positives))
    return Found(loss.item(), totals[5].item(), totals[4].item(), *cards[0, 1:].tolist(), slopes.tolist())


def assert_alike(found: Found, expected: Found, tolerance: float) -> None:
    """Each number within a relative error. Below it: differences of numbers of order 1."""
    for name, ours, right in zip(Found._fields, found, expected, strict=True):
        assert ours == pytest.approx(right, rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("name", CASES)
def test_the_four_statements(name: str, emulation: Emulation) -> None:
    assert DOCSTRING in functional.hex_loss.__doc__  # type: ignore[operator]
    case = CASES[name]
    expected = by_docstring(case)
    assert_alike(by_rust(case), expected, 1e-12)
    assert_alike(by_composite(case), expected, 1e-12)
    for weight in (None, 2.5):
        assert_alike(by_cuda(case, emulation, weight), expected.weighed(weight or 1.0), 1e-6)


def test_the_cases_reach_the_floor() -> None:
    assert {name: by_docstring(case).at_floor for name, case in CASES.items() if by_docstring(case).at_floor} == {
        "HEX, at the floor with one of two": 1
    }
