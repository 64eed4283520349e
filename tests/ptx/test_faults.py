"""The interpreter's errors for wrong programs and for PTX that it does not know."""

import pytest
import torch

from .interpreter import Interpreter, PtxError, Schedule
from .programs import kernel

STORE = "mov.u32 %r3, memory; shl.b32 %r4, %r0, 2; add.s32 %r3, %r3, %r4; st.shared.u32 [%r3], %r0;"
# The next thread's, in a block of 64.
NEXT = "add.s32 %r5, %r0, {by}; and.b32 %r5, %r5, 63; shl.b32 %r5, %r5, 2; mov.u32 %r6, memory; add.s32 %r6, %r6, %r5;"
LOAD_NEXT = NEXT + "ld.shared.u32 %r7, [%r6];"
COPY = """
    mov.u32 %r3, memory; shl.b32 %r4, %r0, 4; add.s32 %r3, %r3, %r4; cvt.u64.u32 %q3, %r4; add.s64 %q4, %q0, %q3;
    cp.async.cg.shared.global [%r3], [%q4], 16;
"""

FAULTS = {
    "a read past the end": ("ld.global.u32 %r1, [%q0+1024];", "read of 4 bytes outside .*, 0 bytes past the end"),
    "a read across the end": ("ld.global.u64 %q5, [%q0+1020];", "misaligned read"),
    "a write before the start": ("st.global.u32 [%q1+-4], %r0;", "write of 4 bytes outside .*, 4 bytes before"),
    "a write to an input": ("st.global.u32 [%q0], %r0;", r"write to the input array 0\+0"),
    "a misaligned read": ("ld.global.u32 %r1, [%q0+2];", "misaligned read of 4 bytes"),
    "an output that nobody wrote": ("ld.global.u32 %r1, [%q1];", r"read of array 1\+0, which nobody wrote"),
    "a parameter that there is not": ("ld.param.u32 %r1, [number+4];", "read outside of the parameters"),
    "shared memory that nobody wrote": (
        "mov.u32 %r3, memory; ld.shared.u32 %r1, [%r3];",
        r"reads shared\+0, which nobody wrote",
    ),
    "shared memory past its end": (
        "mov.u32 %r3, memory; st.shared.u32 [%r3+1024], %r0;",
        "write of 4 bytes outside of shared memory: at 1024 of 1024",
    ),
    "a copy that is not waited for": (
        COPY + "cp.async.commit_group; ld.shared.u32 %r1, [%r3];",
        r"reads shared\+\d+, which cp.async has in flight",
    ),
    "a copy whose group is open": (
        COPY + "cp.async.wait_group 0; ld.shared.u32 %r1, [%r3];",
        r"reads shared\+\d+, which cp.async has in flight",
    ),
    "a copy of another thread without a barrier": (
        COPY + "cp.async.wait_all; xor.b32 %r4, %r4, 512; mov.u32 %r3, memory;"
        "add.s32 %r3, %r3, %r4; ld.shared.u32 %r1, [%r3];",
        r"which cp.async has in flight|which nobody wrote|race",
    ),
    "a read of what another warp writes": (STORE + LOAD_NEXT.format(by=32), "race|which nobody wrote"),
    "a write of what another warp reads": (
        STORE + "bar.sync 0;" + LOAD_NEXT.format(by=32) + "st.shared.u32 [%r3], %r0;",
        "race: thread .* writes shared.*, read by warp|race: a thread reads",
    ),
    "a read of what another lane writes": (STORE + LOAD_NEXT.format(by=1), "race in a warp|which nobody wrote"),
    "a write of what another lane reads": (
        STORE + "bar.sync 0;" + LOAD_NEXT.format(by=1) + "st.shared.u32 [%r3], %r0;",
        "race in a warp: .*, read by another lane|race",
    ),
    "a collective that half the warp comes to": (
        "setp.lt.s32 %p0, %r0, 16; @%p0 bra $end; bar.warp.sync -1; $end:",
        "names lanes that have ended|not all lanes come",
    ),
    "a barrier that half the warp comes to": (
        "and.b32 %r1, %r0, 1; setp.eq.s32 %p0, %r1, 0; @%p0 bra $end; bar.sync 0; $end: mov.u32 %r2, 0;",
        "an aligned instruction that only lanes",
    ),
    "a barrier that one warp comes to": (
        "setp.lt.s32 %p0, %r0, 32; @%p0 bra $end; bar.sync 0; $end:",
        "deadlock: 32 of 64",
    ),
    "a loop without an end": ("$again: bra.uni $again;", "a hang"),
    "a division by 0": ("mov.u32 %r1, 0; div.u32 %r2, %r0, %r1;", "an integer is divided by 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_faults(name: str, seed: int, interpreter: Interpreter) -> None:
    body, complaint = FAULTS[name]
    numbers, out = torch.zeros(256, dtype=torch.int32), torch.zeros(256, dtype=torch.int32)
    interpreter.schedule(Schedule(seed))
    with pytest.raises(PtxError, match=complaint) as caught:
        interpreter.launch(kernel(body), [numbers, out, 0], threads=64, shared_bytes=1024, outputs=(1,), unwritten=(1,))
    if "deadlock" not in str(caught.value):
        assert "[kernel, line " in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("random_lanes", [False, True])
def test_the_same_without_the_faults(seed: int, random_lanes: bool, interpreter: Interpreter) -> None:
    interpreter.schedule(Schedule(seed, random_lanes))
    numbers, out = torch.arange(256, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    body = f"""
        {STORE} bar.sync 0; {LOAD_NEXT.format(by=33)} bar.sync 0;
        {COPY} cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;
        {NEXT.format(by=33)} ld.shared.u32 %r8, [%r6]; add.s32 %r8, %r8, %r7;
        and.b32 %r1, %r0, 3; setp.lt.s32 %p0, %r1, 2; @%p0 bra $less; add.s32 %r8, %r8, 1000; $less:
        bar.warp.sync -1; add.s64 %q3, %q1, %q2; st.global.u32 [%q3], %r8;
    """
    interpreter.launch(kernel(body), [numbers, out, 0], threads=64, shared_bytes=1024, outputs=(1,), unwritten=(1,))
    assert out.tolist() == [2 * ((k + 33) % 64) + (1000 if k % 4 >= 2 else 0) for k in range(64)]


@pytest.mark.parametrize("fenced", [False, True])
def test_blocks_need_fences(fenced: bool, interpreter: Interpreter) -> None:
    # One thread of each of two blocks: the last one to count reads what both wrote.
    fence = "membar.gl;" if fenced else ""
    body = f"""
        setp.ne.s32 %p0, %r0, 0; @%p0 bra $end;
        mov.u32 %r1, %ctaid.x; mul.wide.u32 %q3, %r1, 4; add.s64 %q4, %q1, %q3; st.global.u32 [%q4], 5; {fence}
        atom.global.add.u32 %r2, [%q1+8], 1; setp.eq.s32 %p0, %r2, 0; @%p0 bra $end; {fence}
        ld.global.u32 %r3, [%q1]; ld.global.u32 %r4, [%q1+4]; add.s32 %r3, %r3, %r4; st.global.u32 [%q1+12], %r3;
        $end:
    """
    numbers, out = torch.zeros(4, dtype=torch.int32), torch.zeros(4, dtype=torch.int32)

    def launch() -> None:
        interpreter.launch(kernel(body), [numbers, out, 0], blocks=(2, 1, 1), outputs=(1,))

    if fenced:
        launch()
        assert out.tolist() == [5, 5, 2, 10]
    else:
        with pytest.raises(PtxError, match="race: block . reads what block . wrote of array 1 without a fence of both"):
            launch()


# What is not known.

UNKNOWN = [
    "tanh.approx.f32 %f0, %f1;",
    "add.sat.s32 %r1, %r2, %r3;",
    "add.ftz.f32 %f0, %f1, %f2;",
    "add.rz.f32 %f0, %f1, %f2;",
    "mul.s32 %r1, %r2, %r3;",
    "div.approx.f32 %f0, %f1, %f2;",
    "max.NaN.f32 %f0, %f1, %f2;",
    "setp.lt.and.s32 %p0, %r1, %r2, %p1;",
    "setp.foo.s32 %p0, %r1, %r2;",
    "cvt.rz.f32.f64 %f0, %d0;",
    "cvt.s32.f32 %r1, %f0;",
    "cvt.f32.f64 %f0, %d0;",
    "ld.global.nc.f32 %f0, [%q0];",
    "ld.volatile.global.f32 %f0, [%q0];",
    "ld.f32 %f0, [%q0];",
    "st.shared.u8 [%r2], %r1;",
    "ld.global.v2.f32 %f0, [%q0];",
    "ld.global.f64 %f0, [%q0];",
    "st.local.f32 [%q0], %f0;",
    "atom.global.cas.b32 %r1, [%q0], %r2, %r3;",
    "atom.global.add.f32 %f0, [%q0], %f1;",
    "cp.async.ca.shared.global [%r1], [%q0], 16;",
    "cp.async.cg.shared.global [%r1], [%q0], 8;",
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r7}, {%r1,%r2,%r3,%r4};",
    "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r1,%r2}, {%r1,%r2,%r3,%r4}, {%r1,%r2}, {%r1,%r2};",
    "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1, %r2}, [%r3];",
    "shfl.bfly.b32 %r1, %r2, 1, 31;",
    "vote.sync.uni.pred %p0, %p1, -1;",
    "membar.cta;",
    "mov.u32 %r1, %clock;",
    "mov.u32 %r1, nothing;",
    "bra $nowhere;",
    ".local .b8 depot[16];",
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.bf16 {%f0,%f1,%f2,%f3}, %q0, %q1, %p0, 1, 1, 0, 0;",
    "fence.acq_rel.gpu;",
]  # fmt: skip


@pytest.mark.parametrize("instruction", UNKNOWN)
def test_unknown_ptx_is_refused(instruction: str, interpreter: Interpreter) -> None:
    # Although no thread comes there.
    text = kernel(f"bra $end; {instruction} $end:")
    with pytest.raises(PtxError, match=r"^unknown PTX, line \d+: "):
        interpreter.launch(text, [torch.zeros(4), torch.zeros(4), 0], outputs=(1,))


@pytest.mark.parametrize("directive", [".global .b8 table[16];", ".func other() { ret; }"])
def test_unknown_directives_are_refused(directive: str, interpreter: Interpreter) -> None:
    with pytest.raises(PtxError, match=r"^unknown PTX, line 1: \.(global|func)$"):
        interpreter.load("text", directive + kernel(""))
