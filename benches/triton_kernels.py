"""The kernels of `gpu_peers.triton_infonce`. Apart, as Triton must be there to import them.

Compiled for each number of rows, as `torch.compile` compiles for each shape.
"""

import triton
import triton.language as tl


@triton.jit
def sums(
    unit, partial, scale, rows: tl.constexpr, dims: tl.constexpr, splits: tl.constexpr,
    precision: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """Each row's sum of exp((similarity - 1) / temperature) over its part of the other rows."""
    blocks: tl.constexpr = (rows + block_columns * splits - 1) // (block_columns * splits)
    i = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    d = tl.arange(0, dims)
    anchors = tl.load(unit + i[:, None] * dims + d[None, :], mask=i[:, None] < rows, other=0.0)
    total = tl.zeros([block_rows], dtype=tl.float32)
    for block in range(0, blocks):
        j = (tl.program_id(1) * blocks + block) * block_columns + tl.arange(0, block_columns)
        keys = tl.load(unit + j[:, None] * dims + d[None, :], mask=j[:, None] < rows, other=0.0)
        similarities = tl.dot(anchors, tl.trans(keys), input_precision=precision)
        exponentials = tl.exp2((similarities - 1.0) * scale)
        negative = (j[None, :] < rows) & (i[:, None] != j[None, :])
        total += tl.sum(tl.where(negative, exponentials, 0.0), 1)
    tl.store(partial + tl.program_id(1) * rows + i, total, mask=i < rows)


@triton.jit
def pulls(
    unit, inverse, partial, scale, rows: tl.constexpr, dims: tl.constexpr, splits: tl.constexpr,
    precision: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """Each row's sum of (its softmax + the other's) * the other row, over its part of the other rows."""
    blocks: tl.constexpr = (rows + block_columns * splits - 1) // (block_columns * splits)
    i = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    d = tl.arange(0, dims)
    anchors = tl.load(unit + i[:, None] * dims + d[None, :], mask=i[:, None] < rows, other=0.0)
    of_anchors = tl.load(inverse + i, mask=i < rows, other=0.0)
    total = tl.zeros([block_rows, dims], dtype=tl.float32)
    for block in range(0, blocks):
        j = (tl.program_id(1) * blocks + block) * block_columns + tl.arange(0, block_columns)
        keys = tl.load(unit + j[:, None] * dims + d[None, :], mask=j[:, None] < rows, other=0.0)
        of_keys = tl.load(inverse + j, mask=j < rows, other=0.0)
        similarities = tl.dot(anchors, tl.trans(keys), input_precision=precision)
        exponentials = tl.exp2((similarities - 1.0) * scale)
        negative = (j[None, :] < rows) & (i[:, None] != j[None, :])
        factors = tl.where(negative, exponentials * (of_anchors[:, None] + of_keys[None, :]), 0.0)
        total += tl.dot(factors.to(keys.dtype), keys, input_precision=precision)
    split = tl.program_id(1).to(tl.int64) * rows * dims
    tl.store(partial + split + i[:, None] * dims + d[None, :], total, mask=i[:, None] < rows)
