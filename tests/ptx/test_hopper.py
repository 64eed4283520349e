"""The interpreter on sm_90a: bulk copies, mbarriers, warpgroup products, and moving registers between warpgroups."""

import pytest
import torch
from torch import Tensor

from .interpreter import Interpreter, PtxError, Schedule
from .programs import kernel

COPY = """
    mov.u32 %r1, memory;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra $ready;
    mbarrier.init.shared::cta.b64 [%r1], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 8192;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+16], [%q0], 8192, [%r1];
    $ready:
    bar.sync 0;
    $wait:
    mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0;
    @!%p1 bra $wait;
    cvt.u32.u64 %r2, %q2; add.s32 %r2, %r2, %r1;
    ld.shared.u32 %r3, [%r2+7696];
    add.s64 %q3, %q1, %q2; st.global.u32 [%q3], %r3;
"""


def copy(interpreter: Interpreter, body: str, seed: int) -> Tensor:
    """What the last threads find of 8,192 bytes."""
    numbers, out = torch.arange(2048, dtype=torch.int32), torch.zeros(128, dtype=torch.int32)
    interpreter.schedule(Schedule(seed))
    interpreter.launch(kernel(body), [numbers, out, 0], threads=128, shared_bytes=8208, outputs=(1,))
    return out


def copy_in_some_orders(interpreter: Interpreter, body: str) -> None:
    """Not every order of things shows each fault."""
    for seed in range(8):
        copy(interpreter, body, seed)


@pytest.mark.parametrize("seed", range(3))
def test_bulk_copies(seed: int, interpreter: Interpreter) -> None:
    assert copy(interpreter, COPY, seed).equal(torch.arange(1920, 2048, dtype=torch.int32))


@pytest.mark.parametrize(
    ("text", "replacement", "complaint"),
    [
        ("@!%p1 bra $wait;", "", "which a bulk copy has in flight|race: a thread reads"),
        ("fence.mbarrier_init.release.cluster;", "", "before a fence of its mbarrier's initialisation"),
        ("_, [%r1], 8192", "_, [%r1], 4096", "which a bulk copy has in flight|race: a thread reads"),
        ("_, [%r1], 8192", "_, [%r1], 12288", "a hang"),
        ("[%r1+16], [%q0], 8192", "[%r1+16], [%q0], 8208", "outside of all arrays"),
        ("[%r1+16], [%q0]", "[%r1+8], [%q0]", "multiples of 16 bytes"),
        ("[%r1+16], [%q0]", "[%r1], [%q0]", "which is an mbarrier"),
        ("    bar.sync 0;", "", "no mbarrier is at|race: an mbarrier is used before"),
        ("[%r1], 0;", "[%r1], 1;", "which a bulk copy has in flight|race: a thread reads|a hang"),
    ],
)
def test_faults_of_bulk_copies(text: str, replacement: str, complaint: str, interpreter: Interpreter) -> None:
    assert COPY.count(text) == 1
    with pytest.raises(PtxError, match=complaint):
        copy_in_some_orders(interpreter, COPY.replace(text, replacement))


def swizzled(matrix: Tensor) -> Tensor:
    """Rows of 16 dimensions as rows of 128 bytes, whose 16-byte chunks are exchanged by the row's number."""
    image = torch.zeros(len(matrix), 8, 8, dtype=matrix.dtype)
    for row in range(len(matrix)):
        for chunk in range(2):
            image[row, chunk ^ row % 8] = matrix[row, chunk * 8 : chunk * 8 + 8]
    return image


# The left factor's 64 rows from the first multiple of 1,024 on, the right one's 8 behind them.
PRODUCT = f"""
    mov.u32 %r1, memory; add.s32 %r1, %r1, 1023; and.b32 %r1, %r1, -1024;
    mul.lo.s32 %r2, %r0, 72; add.s32 %r3, %r1, %r2; cvt.u64.u32 %q3, %r2; add.s64 %q3, %q0, %q3;
    {" ".join(f"ld.global.u64 %q4, [%q3+{k}]; st.shared.u64 [%r3+{k}], %q4;" for k in range(0, 72, 8))}
    fence.proxy.async;
    bar.sync 0;
    shr.u32 %r4, %r1, 4; cvt.u64.u32 %q5, %r4; or.b64 %q5, %q5, {1 << 62 | 64 << 32 | 1 << 16};
    add.s64 %q6, %q5, 512;
    mov.pred %p0, 0;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f0, %f1, %f2, %f3}}, %q5, %q6, %p0, 1, 1, 0, 0;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    mul.wide.u32 %q7, %r0, 16; add.s64 %q7, %q1, %q7; st.global.v4.f32 [%q7], {{%f0, %f1, %f2, %f3}};
"""


def multiply(interpreter: Interpreter, body: str, a: Tensor, b: Tensor) -> Tensor:
    """The product of a [64, 16] and b [8, 16], from its fragments."""
    out = torch.zeros(128, 4)
    image = torch.cat([swizzled(a), swizzled(b)])
    interpreter.launch(kernel(body), [image, out, 0], threads=128, shared_bytes=11264, outputs=(1,))
    # Lane l of warp w: rows 16 w + l / 4 and 8 further, columns l % 4 * 2 and the next.
    return out.view(4, 8, 4, 2, 2).permute(0, 3, 1, 2, 4).reshape(64, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_warpgroup_products(seed: int, dtype: torch.dtype, interpreter: Interpreter) -> None:
    interpreter.schedule(Schedule(seed))
    a, b = torch.randint(-9, 9, (64, 16)).to(dtype), torch.randint(-9, 9, (8, 16)).to(dtype)
    body = PRODUCT.replace("bf16", "f16") if dtype == torch.float16 else PRODUCT
    assert multiply(interpreter, body, a, b).equal(a.float() @ b.float().T)


@pytest.mark.parametrize(
    ("text", "replacement", "complaint"),
    [
        ("fence.proxy.async;", "", "without fence.proxy.async after it"),
        ("bar.sync 0;", "", "nobody wrote|without a barrier between|without fence.proxy.async"),
        ("wgmma.fence.sync.aligned;", "", "wgmma before any wgmma.fence"),
        ("    mov.pred %p0, 0;", "mov.pred %p0, 0; wgmma.fence.sync.aligned; mov.f32 %f0, 0f00000000;", None),
        ("wgmma.commit_group.sync.aligned;", "", "an accumulator that wgmma has in flight is read"),
        ("wgmma.wait_group.sync.aligned 0;", "", "an accumulator that wgmma has in flight is read"),
        ("wgmma.wait_group.sync.aligned 0;", "mov.f32 %f0, 0f00000000;", "a register .* in flight is written"),
        ("wgmma.wait_group.sync.aligned 0;", "st.shared.u64 [%r3], %q4;", "which an asynchronous product may read"),
        ("add.s64 %q6, %q5, 512;", "add.s64 %q6, %q5, 520;", "inside of the swizzle's 1,024 bytes"),
        ("add.s64 %q6, %q5, 512;", "cvt.u64.u32 %q6, %r0; add.s64 %q6, %q5, %q6;", "differs between lanes"),
        ("wgmma.fence.sync.aligned;", "wgmma.fence.sync.aligned; mov.f32 %f1, 0f00000000;", "since the last"),
    ],
)  # fmt: skip
def test_faults_of_warpgroup_products(
    text: str, replacement: str, complaint: str | None, interpreter: Interpreter
) -> None:
    assert PRODUCT.count(text) == 1
    a, b = torch.ones(64, 16).bfloat16(), torch.ones(8, 16).bfloat16()
    body = PRODUCT.replace(text, replacement)
    if complaint is None:  # a second fence makes up for it
        assert multiply(interpreter, body, a, b).eq(16).all()
        return
    with pytest.raises(PtxError, match=complaint):
        multiply(interpreter, body, a, b)


@pytest.mark.parametrize(("given", "complaint"), [(112, None), (120, "a hang"), (176, "setmaxnreg from 168 to 176")])
def test_registers_are_handed_on(given: int, complaint: str | None, interpreter: Interpreter) -> None:
    # Launched with 168 of them: one warpgroup gives up what the other one takes.
    body = f"""
        setp.lt.s32 %p0, %r0, 128; @%p0 bra $gives;
        setmaxnreg.inc.sync.aligned.u32 224; bra $end;
        $gives: setmaxnreg.dec.sync.aligned.u32 {given}; $end:
    """
    arguments: list[Tensor | int | float] = [torch.zeros(1), torch.zeros(1), 0]
    if complaint is None:
        interpreter.launch(kernel(body), arguments, threads=256)
        return
    with pytest.raises(PtxError, match=complaint):
        interpreter.launch(kernel(body), arguments, threads=256)
