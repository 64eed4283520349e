"""The results of PTX's instructions in the interpreter."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from .interpreter import Interpreter, Schedule
from .programs import REGISTERS, kernel

SIGNED = {"s16": torch.int16, "s32": torch.int32, "s64": torch.int64}
UNSIGNED = {"u16": torch.uint16, "u32": torch.uint32, "u64": torch.uint64}
DTYPES = SIGNED | UNSIGNED | {"b32": torch.uint32, "b64": torch.uint64, "f32": torch.float32, "f64": torch.float64}


def apply(interpreter: Interpreter, instruction: str, types: Sequence[str], *operands: float) -> float:
    """The result of one instruction, of the first type, on operands of the other ones; "pred" gives 0 or 1."""
    loads, names = [], []
    values = torch.zeros(len(operands), dtype=torch.float64).view(torch.uint64)
    for k, (type_, operand) in enumerate(zip(types[1:], operands, strict=True)):
        dtype = DTYPES[type_]
        raw = torch.tensor([operand], dtype=dtype).view(torch.uint8)
        values.view(torch.uint8)[8 * k : 8 * k + len(raw)] = raw
        letter = REGISTERS[type_ if type_ in REGISTERS else f"b{type_[1:]}"]
        names.append(f"%{letter}{k + 10}")
        loads.append(f"ld.global.{type_} {names[-1]}, [%q0+{8 * k}];")
    result = "u32" if types[0] == "pred" else types[0]
    letter = REGISTERS[types[0] if types[0] in REGISTERS else f"b{types[0][1:]}"]
    ends = "selp.u32 %r9, 1, 0, %p9;" if types[0] == "pred" else ""
    stored = "%r9" if types[0] == "pred" else f"%{letter}9"
    body = f"{' '.join(loads)} {instruction} %{letter}9, {', '.join(names)}; {ends} st.global.{result} [%q1], {stored};"
    out = torch.zeros(1, dtype=DTYPES[result])
    interpreter.launch(kernel(body), [values, out, 0], outputs=(1,))
    return out.item()


NAN, INF = math.nan, math.inf
INSTRUCTIONS = [
    # Instruction, types of result and operands, operands, result.
    ("add.s32", ("s32", "s32", "s32"), (2**31 - 1, 1), -(2**31)),
    ("sub.s64", ("s64", "s64", "s64"), (-(2**63), 1), 2**63 - 1),
    ("mul.lo.s32", ("s32", "s32", "s32"), (1 << 20, 1 << 12), 0),
    ("mul.hi.u32", ("u32", "u32", "u32"), (2**32 - 1, 2**32 - 1), 2**32 - 2),
    ("mul.hi.s32", ("s32", "s32", "s32"), (-1, 1), -1),
    ("mul.wide.s32", ("s64", "s32", "s32"), (-3, 2**31 - 1), -3 * (2**31 - 1)),
    ("mul.wide.u32", ("u64", "u32", "u32"), (2**32 - 1, 2**32 - 1), (2**32 - 1) ** 2),
    ("mad.lo.s32", ("s32", "s32", "s32", "s32"), (-7, 9, 5), -58),
    ("div.s32", ("s32", "s32", "s32"), (-7, 2), -3),
    ("div.s32", ("s32", "s32", "s32"), (-(2**31), -1), -(2**31)),
    ("rem.s64", ("s64", "s64", "s64"), (-7, 2), -1),
    ("rem.u32", ("u32", "u32", "u32"), (2**32 - 1, 10), 5),
    ("min.s32", ("s32", "s32", "s32"), (-1, 1), -1),
    ("min.u32", ("u32", "u32", "u32"), (2**32 - 1, 1), 1),
    ("max.u16x2", ("b32", "b32", "b32"), (0x00058000, 0xFFFE7FFF), 0xFFFE8000),
    ("neg.s32", ("s32", "s32"), (5,), -5),
    ("abs.s32", ("s32", "s32"), (-5,), 5),
    ("prmt.b32", ("b32", "b32", "b32", "b32"), (0x33221180, 0x77665544, 0x7531), 0x77553311),
    ("prmt.b32", ("b32", "b32", "b32", "b32"), (0x33221180, 0x77665544, 0xF840), 0x00FF4480),
    ("shr.s32", ("s32", "s32", "u32"), (-8, 1), -4),
    ("shr.s32", ("s32", "s32", "u32"), (-8, 40), -1),
    ("shr.u32", ("u32", "u32", "u32"), (2**32 - 8, 1), 2**31 - 4),
    ("shl.b32", ("b32", "b32", "u32"), (3, 31), 2**31),
    ("shl.b32", ("b32", "b32", "u32"), (3, 32), 0),
    ("bfi.b32", ("b32", "b32", "b32", "u32", "u32"), (0b101, 0xFFFF, 4, 4), 0xFF5F),
    ("not.b32", ("b32", "b32"), (0xFF,), 0xFFFFFF00),
    ("clz.b32", ("u32", "b32"), (1,), 31),
    ("popc.b64", ("u32", "b64"), (0xF0F0,), 8),
    ("max.f32", ("f32", "f32", "f32"), (NAN, 1.0), 1.0),
    ("min.f32", ("f32", "f32", "f32"), (2.0, NAN), 2.0),
    ("fma.rn.f64", ("f64", "f64", "f64", "f64"), (1 + 2**-52, 1 + 2**-52, -1.0), 2**-51 + 2**-104),
    ("div.rn.f64", ("f64", "f64", "f64"), (1.0, 3.0), 1 / 3),
    ("rcp.rn.f64", ("f64", "f64"), (3.0,), 1 / 3),
    ("sqrt.rn.f64", ("f64", "f64"), (2.0,), math.sqrt(2)),
    ("ex2.approx.ftz.f32", ("f32", "f32"), (-3.0,), 0.125),
    ("ex2.approx.ftz.f32", ("f32", "f32"), (-130.0,), 0.0),
    ("lg2.approx.ftz.f32", ("f32", "f32"), (8.0,), 3.0),
    ("setp.lt.s32", ("pred", "s32", "s32"), (-1, 1), 1),
    ("setp.lt.u32", ("pred", "u32", "u32"), (2**32 - 1, 1), 0),
    ("setp.gt.f32", ("pred", "f32", "f32"), (NAN, 1.0), 0),
    ("setp.gtu.f32", ("pred", "f32", "f32"), (NAN, 1.0), 1),
    ("setp.ne.f64", ("pred", "f64", "f64"), (NAN, 1.0), 0),
    ("setp.neu.f64", ("pred", "f64", "f64"), (NAN, 1.0), 1),
    ("setp.nan.f64", ("pred", "f64", "f64"), (NAN, 1.0), 1),
    ("cvt.rn.f32.f64", ("f32", "f64"), (1 + 2**-24 + 2**-40,), 1 + 2**-23),
    ("cvt.rn.f32.s64", ("f32", "s64"), (-(2**40) - 1,), -(2.0**40)),
    ("cvt.rzi.s32.f32", ("s32", "f32"), (-2.9,), -2),
    ("cvt.rmi.s32.f64", ("s32", "f64"), (-2.1,), -3),
    ("cvt.rpi.s32.f64", ("s32", "f64"), (2.1,), 3),
    ("cvt.rni.s32.f64", ("s32", "f64"), (2.5,), 2),
    ("cvt.rzi.s32.f32", ("s32", "f32"), (1e20,), 2**31 - 1),
    ("cvt.rzi.u32.f32", ("u32", "f32"), (-1.0,), 0),
    ("cvt.rzi.s32.f64", ("s32", "f64"), (NAN,), 0),
    ("cvt.s64.s32", ("s64", "s32"), (-5,), -5),
    ("cvt.u64.u32", ("u64", "u32"), (2**32 - 5,), 2**32 - 5),
    ("cvt.u32.u64", ("u32", "u64"), (2**32 + 7,), 7),
]


@pytest.mark.parametrize(("instruction", "types", "operands", "expected"), INSTRUCTIONS)
def test_instructions(
    instruction: str, types: tuple[str, ...], operands: tuple[float, ...], expected: float, interpreter: Interpreter
) -> None:
    assert apply(interpreter, instruction, types, *operands) == expected


def test_every_float16(interpreter: Interpreter) -> None:
    halves = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.float16)
    out = torch.zeros(1 << 16)
    body = """
        mov.u32 %r1, %ctaid.x; shl.b32 %r1, %r1, 8; add.s32 %r1, %r1, %r0;
        mul.wide.u32 %q3, %r1, 2; add.s64 %q4, %q0, %q3; ld.global.u16 %h0, [%q4];
        cvt.f32.f16 %f0, %h0;
        mul.wide.u32 %q3, %r1, 4; add.s64 %q4, %q1, %q3; st.global.f32 [%q4], %f0;
    """
    interpreter.launch(kernel(body), [halves, out, 0], blocks=(256, 1, 1), threads=256, outputs=(1,))
    torch.testing.assert_close(out, halves.float(), rtol=0, atol=0, equal_nan=True)


ROUNDED = [0.0, -0.0, 1.0, 65519.9, 65520.0, 1e-8, 2**-25, 3 * 2**-25, 2**-14 - 2**-26, INF, -INF, 3.0e38, 1 + 2**-11]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_to_16_bits(dtype: torch.dtype, interpreter: Interpreter) -> None:
    powers = torch.randint(-30, 18, (256 - len(ROUNDED),))
    numbers = torch.cat([torch.tensor(ROUNDED), torch.randn(len(powers)) * 2.0**powers])
    out = torch.zeros(256, dtype=torch.int32)
    name = {torch.bfloat16: "bf16x2", torch.float16: "f16x2"}[dtype]
    body = f"""
        add.s64 %q3, %q0, %q2; ld.global.f32 %f0, [%q3]; neg.f32 %f1, %f0;
        cvt.rn.{name}.f32 %r1, %f1, %f0;
        add.s64 %q3, %q1, %q2; st.global.u32 [%q3], %r1;
    """
    interpreter.launch(kernel(body), [numbers, out, 0], threads=256, outputs=(1,))
    low, high = out.view(dtype).view(256, 2).unbind(1)
    assert low.equal(numbers.to(dtype))
    assert high.equal(-numbers.to(dtype))


def test_rounding_to_tf32(interpreter: Interpreter) -> None:
    numbers = torch.cat([torch.tensor([1 + 2**-11, 1 + 2**-11 - 2**-23, -1 - 2**-11, INF]), torch.randn(28)])
    out = torch.zeros(32)
    body = """
        add.s64 %q3, %q0, %q2; ld.global.f32 %f0, [%q3]; cvt.rna.tf32.f32 %r1, %f0;
        add.s64 %q3, %q1, %q2; st.global.u32 [%q3], %r1;
    """
    interpreter.launch(kernel(body), [numbers, out, 0], outputs=(1,))
    fraction, exponent = torch.frexp(numbers.double())
    expected = torch.ldexp(torch.trunc(fraction * 2**11 + 0.5 * fraction.sign()), exponent - 11)
    expected[numbers.isinf()] = INF
    assert out.double().equal(expected)


@pytest.mark.parametrize(
    ("how", "by", "sources"),
    [
        ("bfly", 5, [lane ^ 5 for lane in range(32)]),
        ("idx", 7, [7] * 32),
        ("up", 3, [max(lane - 3, lane if lane < 3 else 0) for lane in range(32)]),
        ("down", 3, [lane + 3 if lane < 29 else lane for lane in range(32)]),
    ],
)
def test_shuffles(how: str, by: int, sources: list[int], interpreter: Interpreter) -> None:
    numbers, out = torch.arange(100, 132, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    clamp = 0 if how == "up" else 31
    body = f"""
        add.s64 %q3, %q0, %q2; ld.global.u32 %r1, [%q3];
        shfl.sync.{how}.b32 %r2|%p0, %r1, {by}, {clamp}, -1;
        add.s64 %q3, %q1, %q2; st.global.u32 [%q3], %r2;
    """
    interpreter.launch(kernel(body), [numbers, out, 0], outputs=(1,))
    assert out.tolist() == [100 + source for source in sources]


def fragments(matrix: Tensor, rows: int) -> Tensor:
    """A matrix of 16 (or, of the right factor, 8) rows as mma's registers, [lanes][registers], by the ISA's tables."""
    per = 4 // matrix.element_size()  # numbers of a register
    half = matrix.shape[1] // 2
    words = torch.zeros(32, rows // 8 * 2, per, dtype=matrix.dtype)
    for lane in range(32):
        for register in range(rows // 8 * 2):
            row = lane // 4 + (register % 2 * 8 if rows == 16 else 0)
            first = lane % 4 * per + (register // 2 if rows == 16 else register) * half
            words[lane, register] = matrix[row, first : first + per]
    return words.flatten(1).contiguous().view(torch.int32)


PRODUCTS = {torch.bfloat16: ("m16n8k16", "bf16", 16), torch.float16: ("m16n8k16", "f16", 16)}
PRODUCTS[torch.float32] = ("m16n8k8", "tf32", 8)


def multiply(interpreter: Interpreter, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """c + a b^T of one mma; a [16, k], b [8, k], c [16, 8]."""
    shape, name, _ = PRODUCTS[a.dtype]
    at = torch.tensor([[(lane // 4 + e // 2 * 8) * 8 + lane % 4 * 2 + e % 2 for e in range(4)] for lane in range(32)])
    sums = c.flatten()[at].contiguous().view(torch.int32)
    words = torch.cat([fragments(a, 16), fragments(b, 8), sums], 1).contiguous()
    out = torch.zeros(32, 4)
    loads = " ".join(f"ld.global.u32 %r{k + 1}, [%q4+{4 * k}];" for k in range(6))
    loads += " ".join(f"ld.global.f32 %f{k}, [%q4+{24 + 4 * k}];" for k in range(4))
    stores = " ".join(f"st.global.f32 [%q4+{4 * k}], %f{k};" for k in range(4))
    body = f"""
        mul.wide.u32 %q3, %r0, 40; add.s64 %q4, %q0, %q3; {loads}
        mma.sync.aligned.{shape}.row.col.f32.{name}.{name}.f32 {{%f0, %f1, %f2, %f3}},
            {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{%f0, %f1, %f2, %f3}};
        mul.wide.u32 %q3, %r0, 16; add.s64 %q4, %q1, %q3; {stores}
    """
    interpreter.launch(kernel(body), [words, out, 0], outputs=(1,))
    found = torch.zeros(128)
    found[at.flatten()] = out.flatten()
    return found.view(16, 8)


@pytest.mark.parametrize("dtype", PRODUCTS, ids=str)
def test_products(dtype: torch.dtype, interpreter: Interpreter) -> None:
    k = PRODUCTS[dtype][2]
    # Of small integers nothing is rounded.
    a, b, c = (torch.randint(-9, 9, shape).to(dtype) for shape in ((16, k), (8, k), (16, 8)))
    assert multiply(interpreter, a, b, c.float()).equal(c.float() + a.float() @ b.float().T)


def test_sums_that_are_cut_off(interpreter: Interpreter) -> None:
    a = torch.full((16, 16), 2.0**-12).bfloat16()
    b = torch.full((8, 16), 2.0**-13).bfloat16()  # 16 terms of 2^-25
    c = torch.ones(16, 8)
    assert multiply(interpreter, a, b, c).eq(1 + 2**-21).all()
    interpreter.schedule(Schedule(extra_bits=1))
    assert multiply(interpreter, a, b, c).eq(1).all()
    # One bit further each term counts.
    interpreter.schedule(Schedule(extra_bits=2))
    assert multiply(interpreter, a, b, c).eq(1 + 2**-21).all()
    # Toward zero, not to the nearest: 1 + 2^-23 - 2^-24 - 2^-25.
    interpreter.schedule(Schedule(extra_bits=2))
    a, b = torch.zeros(2, 16, 16).bfloat16()
    a[:, :2] = torch.tensor([2.0**-24, 2.0**-25])
    b[:8] = 1
    assert multiply(interpreter, a, b[:8], c).eq(1).all()
    interpreter.schedule(Schedule())
    assert multiply(interpreter, a, b[:8], c).eq(1 + 2**-23).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed: bool, interpreter: Interpreter) -> None:
    matrices = torch.arange(4 * 8 * 8, dtype=torch.int16).view(4, 8, 8)
    out = torch.zeros(32, 8, dtype=torch.int16)
    body = f"""
        shl.b32 %r1, %r0, 4; mov.u32 %r2, memory; add.s32 %r2, %r2, %r1;
        cvt.u64.u32 %q3, %r1; add.s64 %q4, %q0, %q3;
        ld.global.v4.u32 {{%r3, %r4, %r5, %r6}}, [%q4]; st.shared.v4.u32 [%r2], {{%r3, %r4, %r5, %r6}};
        bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x4{".trans" if transposed else ""}.shared.b16 {{%r3, %r4, %r5, %r6}}, [%r2];
        add.s64 %q4, %q1, %q3; st.global.v4.u32 [%q4], {{%r3, %r4, %r5, %r6}};
    """
    interpreter.launch(kernel(body), [matrices, out, 0], shared_bytes=512, outputs=(1,))
    sources = matrices.mT if transposed else matrices
    # Lane l has of each matrix row l / 4, columns l % 4 * 2 and the next.
    assert out.view(8, 4, 4, 2).permute(2, 0, 1, 3).reshape(4, 8, 8).equal(sources)


GARBAGE = 0xDEADBEEF
"""What a register of 32 bits has before anyone writes it."""
SPENT = "add.s32 %r20, %r0, 1; add.s32 %r21, %r20, 1; add.s32 %r22, %r21, 1;"
"""Values that nobody reads any more."""
REGISTERS_KEPT = {
    "read where nobody wrote": (f"{SPENT} mov.u32 %r9, %r30;", lambda lane: GARBAGE),
    "written in some lanes": (
        f"{SPENT} setp.lt.u32 %p0, %r0, 16; @%p0 mov.u32 %r30, 7; mov.u32 %r9, %r30;",
        lambda lane: 7 if lane < 16 else GARBAGE,
    ),
    "written in another block": (
        f"setp.lt.u32 %p0, %r0, 16; mov.u32 %r30, 5; @%p0 bra $read; mov.u32 %r30, 6; {SPENT} $read: {SPENT}"
        "mov.u32 %r9, %r30;",
        lambda lane: 5 if lane < 16 else 6,
    ),
    "carried by a loop": (
        f"mov.u32 %r31, 0; mov.u32 %r30, 0; $again: {SPENT} add.s32 %r30, %r30, %r22; add.s32 %r31, %r31, 1; {SPENT}"
        "setp.lt.u32 %p0, %r31, 4; @%p0 bra $again; mov.u32 %r9, %r30;",
        lambda lane: 4 * (lane + 3),
    ),
    "kept while earlier lines are executed": (
        f"bra.uni $start; $earlier: {SPENT} bra.uni $read; $start: mov.u32 %r30, %r0; bra.uni $earlier;"
        "$read: mov.u32 %r9, %r30;",
        lambda lane: lane,
    ),
    "read by the next round": (
        f"mov.u32 %r31, 0; $again: mov.u32 %r9, %r30; mov.u32 %r30, %r0; {SPENT} add.s32 %r31, %r31, 1;"
        "setp.lt.u32 %p0, %r31, 2; @%p0 bra $again;",
        lambda lane: lane,
    ),
    "read and written at once": (
        f"{SPENT} add.s32 %r30, %r30, 1; mov.u32 %r9, %r30;",
        lambda lane: GARBAGE + 1,
    ),
}


@pytest.mark.parametrize("random_lanes", [False, True])
@pytest.mark.parametrize("name", REGISTERS_KEPT)
def test_registers_that_share_a_place_keep_their_values(
    name: str, random_lanes: bool, interpreter: Interpreter
) -> None:
    body, expected = REGISTERS_KEPT[name]
    interpreter.schedule(Schedule(1, random_lanes))
    out = torch.zeros(32, dtype=torch.uint32)
    stored = "add.s64 %q3, %q1, %q2; st.global.u32 [%q3], %r9;"
    interpreter.launch(kernel(f"{body} {stored}"), [torch.zeros(1), out, 0], threads=32, outputs=(1,), unwritten=(1,))
    assert out.tolist() == [expected(lane) for lane in range(32)]
