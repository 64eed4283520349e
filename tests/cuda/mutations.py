"""Bugs to plant in the kernels' sources."""

from typing import NamedTuple

import torch

from . import emulator


class Mutation(NamedTuple):
    """One change."""

    file: str
    text: str
    replacement: str
    dtype: torch.dtype = torch.bfloat16
    """Of the rows that show it."""


MUTATIONS = {
    "a fragment from the wrong row": Mutation(
        "tile.cu",
        "rows.a[k][1] = word(second",
        "rows.a[k][1] = word(first",
    ),
    "a fragment from the wrong half of a step": Mutation(
        "tile.cu",
        "a[k][2] = word(first + k * STEP + at + 16)",
        "a[k][2] = word(first + k * STEP + at)",
    ),
    "matrices of the right factor exchanged": Mutation(
        "tile.cu",
        "(lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 16",
        "(lane % 8 + lane / 8 % 2 * 8) * PITCH + lane / 16 * 16",
    ),
    "rows not transposed": Mutation(
        "gradient.cu",
        "load_matrices_transposed(b",
        "load_matrices(b",
    ),
    "accumulators in the wrong order": Mutation(
        "gradient.cu",
        "pack(m.c[k][2], m.c[k][3]), pack(m.c[k + 1][0], m.c[k + 1][1])",
        "pack(m.c[k + 1][0], m.c[k + 1][1]), pack(m.c[k][2], m.c[k][3])",
    ),
    "a gradient stored in the wrong row": Mutation(
        "gradient.cu",
        "sum.c[d][half * 2 + e]",
        "sum.c[d][e * 2 + half]",
    ),
    "no barrier after the copies": Mutation(
        "tile.cu",
        "wait_for_copies<1>();\n        sync_threads();",
        "wait_for_copies<1>();",
    ),
    "no barrier before the next copies": Mutation(
        "tile.cu",
        "TILE_COLUMNS, stage);\n        sync_threads();",
        "TILE_COLUMNS, stage);",
    ),
    "no wait for the copies": Mutation(
        "tile.cu",
        "wait_for_copies<1>();",
        "wait_for_copies<2>();",
    ),
    "no barrier between counting digits and reading them": Mutation(
        "select.cu",
        "sync_threads();\n            for (int row = warp * 2;",
        "for (int row = warp * 2;",
    ),
    "a column too many": Mutation(
        "tile.cu",
        "lane_of_thread() % 4 * 2 + e >= columns.count",
        "lane_of_thread() % 4 * 2 + e > columns.count",
        torch.float32,
    ),
    "the last tile is not looked at": Mutation(
        "tile.cu",
        "(columns.count + TILE_COLUMNS - 1) / TILE_COLUMNS",
        "columns.count / TILE_COLUMNS",
    ),
    "own pairs at the edge of a tile": Mutation(
        "tile.cu",
        "most = (i64)column - row + (TILE_COLUMNS - 1)",
        "most = (i64)column - row",
    ),
    "a digit too early": Mutation(
        "select.cu",
        "ballot(up_to >= rank)",
        "ballot(up_to > rank)",
    ),
    "survivors that are too many are searched": Mutation(
        "select.cu",
        "inside > (u32)p.capacity || ",
        "",
    ),
    "a missed bracket is searched": Mutation(
        "select.cu",
        "above + inside + extra < rank",
        "false",
    ),
    "failed rows stay failed": Mutation(
        "select.cu",
        "(int)p.header->failed",
        "0 * (int)p.header->failed",
    ),
    "the mean before the last block": Mutation(
        "parameters.cu",
        "atomic_add(done, 1) == blocks - 1",
        "atomic_add(done, 1) == 0",
    ),
    "one split's partial gradient": Mutation(
        "gradient.cu",
        "split < l.splits; split++",
        "split < 1; split++",
    ),
    "a dimension too many": Mutation(
        "gradient.cu",
        "if (dim >= p.dims) continue;",
        "if (dim > p.dims) continue;",
        torch.float32,
    ),
    "no pull on the positive itself": Mutation(
        "gradient.cu",
        "if (l.side == 1 || (l.side == 0 && p.square)) add_as_positive",
        "if (l.side == 1) add_as_positive",
    ),
}


def mutated(name: str) -> dict[str, str]:
    """The emulator's sources with one bug.

    Args:
        name: One of `MUTATIONS`.

    Returns:
        The sources by path below `src/cuda`.

    Raises:
        ValueError: The text to replace does not stand in its file exactly once.
    """
    file, text, replacement, _ = MUTATIONS[name]
    sources = emulator.sources()
    path = f"kernels/{file}"
    count = sources[path].count(text)
    if count != 1:
        raise ValueError(f"expected {text!r} once in {file}, but found it {count} times")
    return {**sources, path: sources[path].replace(text, replacement)}
