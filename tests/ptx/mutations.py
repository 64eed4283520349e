"""Bugs to plant in the kernels' sources. The tests must detect each of them."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from hex_ssl import _core

from .kernels import kernel_names, kernels_running, without

KERNELS = Path(__file__).parents[2] / "src" / "cuda" / "kernels"


class Mutation(NamedTuple):
    """One change."""

    file: str
    text: str
    replacement: str
    dtype: torch.dtype = torch.bfloat16
    """Of the rows that show it."""
    complaint: str | None = None
    """A part of what the interpreter says of it; none where only the numbers are wrong."""

    def seen(self) -> AbstractContextManager[object]:
        """Expects the mutation to be seen: wrong numbers by the reference, the rest by the interpreter."""
        return pytest.raises(RuntimeError if self.complaint else AssertionError, match=self.complaint)


def planted(dtype: torch.dtype, *rows: tuple[str, str, str, str, str | None]) -> dict[str, Mutation]:
    """Mutations of files: file, name, text, replacement and complaint of each."""
    return {
        f"{file}: {name}": Mutation(f"{file}.cu", text, replacement, dtype, complaint)
        for file, name, text, replacement, complaint in rows
    }


# In the kernels.
STAGE = "        const u8* stage = stages + tile % 2 * S::stage;\n"
FETCH = "        if (tile + 1 < to) fetch<S>(stages + (tile + 1) % 2 * S::stage, source);\n"
ONLY_THE_LAST = "    if (!is_last_block(&p.header->done[0], gridDim.x, &shared.last)) return;\n"
SEARCH_KEPT = "    if (are_few) search_kept(p, l, count, shared.counts);\n"
MUTATIONS = {
    "a fragment from the wrong row": Mutation(
        "tile.cu",
        "a[k][1] = word(second",
        "a[k][1] = word(first",
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
        "derivatives.cu",
        "load_matrices_transposed(b",
        "load_matrices(b",
    ),
    "accumulators in the wrong order": Mutation(
        "derivatives.cu",
        "pack(m[k][2], m[k][3]), pack(m[k + 1][0], m[k + 1][1])",
        "pack(m[k + 1][0], m[k + 1][1]), pack(m[k][2], m[k][3])",
    ),
    "a gradient stored in the wrong row": Mutation(
        "derivatives.cu",
        "sum.c[d][half * 2 + e]",
        "sum.c[d][e * 2 + half]",
    ),
    "no barrier after the copies": Mutation(
        "tile.cu",
        "wait_for_copies<0>();\n        sync_threads();",
        "wait_for_copies<0>();",
        complaint="which cp.async has in flight|which nobody wrote|race",
    ),
    "the next copies before the barrier": Mutation(
        "tile.cu",
        "        sync_threads();\n" + STAGE + FETCH,
        STAGE + FETCH + "        sync_threads();\n",
        complaint="race: thread .* writes .*, read by warp",
    ),
    "no wait for the copies": Mutation(
        "tile.cu",
        "wait_for_copies<0>();",
        "wait_for_copies<1>();",
        complaint="which cp.async has in flight",
    ),
    "the pointer to the columns stands still": Mutation(
        "tile.cu",
        "from.rows += S::columns * ROW_BYTES;",
        "",
    ),
    "the second group has the first one's rows": Mutation(
        "tile.cu",
        "own.index[g * 2] * ROW_BYTES, rows.rows + (i64)own.index[g * 2 + 1]",
        "own.index[0] * ROW_BYTES, rows.rows + (i64)own.index[1]",
    ),
    "steps that are not added up": Mutation(
        "tile.cu",
        "s.c[g][n][e] + part.c[g][n][e]",
        "part.c[g][n][e]",
        torch.float32,
    ),
    "no barrier between counting digits and reading them": Mutation(
        "select.cu",
        "sync_threads();\n            for (int row = warp * 2;",
        "for (int row = warp * 2;",
        complaint="race",
    ),
    "no barrier between keeping similarities and searching them": Mutation(
        "select.cu",
        "= ordered(c); });\n    sync_threads();",
        "= ordered(c); });",
        complaint="race|which nobody wrote",
    ),
    "keys with other digits before are counted": Mutation(
        "digits.cu",
        "is_there ? leading >> 8 : ~0u",
        "is_there ? prefix : ~0u",
    ),
    "keys of an anchor that are not sorted": Mutation(
        "index.cu",
        "    sort(list, p.excluded);",
        "",
        torch.float32,
    ),
    "a key's last pair is not its own": Mutation(
        "parameters.cu",
        "(int)(p.key_ends[key] - start)",
        "(int)(p.key_ends[key] - start) - 1",
    ),
    "pairs of a key that are not sorted": Mutation(
        "index.cu",
        "    sort((u32*)pairs.list, pairs.count);",
        "    if (lane_of_thread() == 0 && pairs.count > 1) ((u32*)pairs.list)[0] = pairs.list[pairs.count - 1];",
    ),
    "a column too many": Mutation(
        "exclude.cu",
        "bits_from<S>(columns.count - column)",
        "bits_from<S>(columns.count - column + 1)",
        torch.float32,
    ),
    "the last tile is not looked at": Mutation(
        "tile.cu",
        "(all.end + S::columns - 1) / S::columns",
        "all.end / S::columns",
    ),
    "own pairs at the edge of a tile": Mutation(
        "exclude.cu",
        "above <= TILE_ROWS + S::columns - 2",
        "above < TILE_ROWS - 2",
    ),
    "a digit too early": Mutation(
        "digits.cu",
        "ballot(up_to[7] >= rank)",
        "ballot(up_to[7] > rank)",
        complaint="race|nobody wrote|outside of all arrays",
    ),
    "survivors that are too many are searched": Mutation(
        "select.cu",
        "inside <= (u32)p.capacity && ",
        "",
        complaint="past the end of survivors",
    ),
    "a missed bracket is searched": Mutation(
        "select.cu",
        "if (found >= low && found <= high) p.quantiles",
        "if (true) p.quantiles",
    ),
    "blocks of few rows skip some": Mutation(
        "select.cu",
        "tower * blocks) * l.rows",
        "tower * blocks) * SELECT_ROWS",
        complaint="read of quantiles.*, which nobody wrote",
    ),
    "warps of few anchors skip some": Mutation(
        "anchors.cu",
        "* WARPS + warp) * each;",
        "* WARPS + warp) * LANES;",
        complaint="read of positive_slopes.*, which nobody wrote",
    ),
    "each launch has the first rows": Mutation(
        "select.cu",
        "first = l.first_row + blockIdx.x * TILE_ROWS",
        "first = blockIdx.x * TILE_ROWS",
        complaint="outside of all arrays|race: block .* of keys.rows",
    ),
    "survivors behind those of a launch": Mutation(
        "select.cu",
        "(i64)(own.index[mine] - l.first_row) * p.capacity",
        "(i64)own.index[mine] * p.capacity",
        complaint="past the end of survivors",
    ),
    "each launch searches the first rows": Mutation(
        "select.cu",
        "row = l.first_row + at",
        "row = at",
        complaint="read of quantiles.*, which nobody wrote|survivors",
    ),
    "failed rows stay failed": Mutation(
        "select.cu",
        "count = (int)p.header->failed",
        "count = 0",
        complaint="read of quantiles.*, which nobody wrote",
    ),
    "each block compares failed rows with the first keys": Mutation(
        "select.cu",
        "{start(blockIdx.x), start(blockIdx.x + 1)}",
        "{start(0), start(1)}",
        complaint="race: blocks .* write the same word of survivors",
    ),
    "the last key of each part is not kept": Mutation(
        "select.cu",
        "start(blockIdx.x + 1)}",
        "start(blockIdx.x + 1) - 1}",
        complaint="read of survivors.*, which nobody wrote",
    ),
    "failed rows are searched before the last block": Mutation(
        "select.cu",
        ONLY_THE_LAST + SEARCH_KEPT,
        SEARCH_KEPT + ONLY_THE_LAST,
        complaint="survivors.*, which nobody wrote|of survivors without a fence",
    ),
    "no fence behind what a block has kept": Mutation(
        "parameters.cu",
        # Blocks that are not the last one have a fence after it too, but too late.
        """    fence();
    sync_threads();
    if (threadIdx.x == 0) *shared = atomic_add(done, 1) == blocks - 1;
    sync_threads();
    fence();
""",
        """    sync_threads();
    if (threadIdx.x == 0) *shared = atomic_add(done, 1) == blocks - 1;
    sync_threads();
    if (*shared) fence();
""",
        complaint="of survivors without a fence of both",
    ),
    "failed rows have one place": Mutation(
        "digits.cu",
        "(i64)at * groups_of_row(p) * 4",
        "at * 0",
    ),
    "what fills up the last four is above all": Mutation(
        "digits.cu",
        "ordered(apart_of(p, row)[i]) : 0;",
        "ordered(apart_of(p, row)[i]) : ~0u;",
    ),
    "a failed row's digits are those of the first four": Mutation(
        "digits.cu",
        "count_key(some[i].x), count_key(some[i].y), count_key(some[i].z), count_key(some[i].w);",
        "count_key(some[i].x), count_key(some[i].x), count_key(some[i].x), count_key(some[i].x);",
    ),
    "the mean before the last block": Mutation(
        "parameters.cu",
        "atomic_add(done, 1) == blocks - 1",
        "atomic_add(done, 1) == 0",
        complaint="read of quantiles.*, which nobody wrote",
    ),
    "one split's partial gradient": Mutation(
        "finish.cu",
        "= first + i < l.splits ?",
        "= first + i < 1 ?",
    ),
    "a dimension too many": Mutation(
        "finish.cu",
        "if (at < count) *(float4*)",
        "if (at <= count) *(float4*)",
        torch.float32,
        complaint="race: blocks? .* of gradient|past the end of gradient",
    ),
    "a gradient beyond the largest number": Mutation(
        "finish.cu",
        "across > largest ? largest : across < -largest ? -largest : across",
        "across",
        torch.float32,
    ),
    "a scale for positive weights alone": Mutation(
        "anchors.cu",
        "fabs(weight)",
        "weight",
        torch.float16,
    ),
    "an anchor with NaN has no loss": Mutation(
        "anchors.cu",
        "!(sums.global <= 0.0)",
        "sums.global > 0.0",
    ),
    "a scale for weights of 0": Mutation(
        "anchors.cu",
        "largest > 1e-30 && ",
        "",
        torch.float16,
    ),
    "a scale for weights that are nearly 0": Mutation(
        "anchors.cu",
        "largest > 1e-30",
        "largest > 0.0",
        torch.float16,
    ),
    "sums: a pair at the threshold is above it": Mutation(
        "sums.cu",
        "if (c > limit) {",
        "if (c >= limit) {",
    ),
    "gradient: a pair at the threshold is above it": Mutation(
        "gradient.cu",
        "if (c > limit) factor",
        "if (c >= limit) factor",
    ),
    "derivatives beyond float16": Mutation(
        "derivatives.cu",
        "pack_f16(within_range(low), within_range(high))",
        "pack_f16(low, high)",
        torch.float16,
    ),
    "no pull on the positive itself": Mutation(
        "finish.cu",
        "slope + p.positive_slopes[(i64)other * p.positives + p.positives - 1 - k]",
        "slope",
    ),
}

# In the inline PTX, and the other names for what the machine does.
BF16_PRODUCT = "bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}"
MUTATIONS |= {
    name: Mutation("device.cu", *change)
    for name, change in {
        "mma: second and third register of the left factor exchanged": (
            BF16_PRODUCT,
            BF16_PRODUCT.replace("%5, %6", "%6, %5"),
        ),
        "mma: registers of the right factor exchanged": (BF16_PRODUCT, BF16_PRODUCT.replace("%8, %9", "%9, %8")),
        "mma: of the other 16-bit type": ("f32.f16.f16.f32", "f32.bf16.bf16.f32", torch.float16),
        "mma: accumulators exchanged": (
            "tf32.tf32.f32 {%0, %1, %2, %3}, {%4",
            "tf32.tf32.f32 {%0, %2, %1, %3}, {%4",
            torch.float32,
        ),
        "ldmatrix: without .trans": ("m8n8.x4.trans.shared", "m8n8.x4.shared"),
        "ldmatrix: registers exchanged": ("x4.shared.b16 {%0, %1, %2, %3}", "x4.shared.b16 {%0, %2, %1, %3}"),
        "cp.async: a group too few is waited for": (
            '"cp.async.wait_group %0;" ::"n"(pending)',
            '"cp.async.wait_group %0;" ::"n"(pending + 1)',
            torch.bfloat16,
            "which cp.async has in flight",
        ),
        "cp.async: groups are not closed": (
            'asm volatile("cp.async.commit_group;" ::: "memory");',
            "",
            torch.bfloat16,
            "which cp.async has in flight",
        ),
        "cvt: halves exchanged": (
            'asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));',
            'asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(low), "f"(high));',
        ),
        "ex2: a logarithm": ("ex2.approx.ftz.f32", "lg2.approx.ftz.f32"),
        "the upper half of a float keeps 8 bits": ("%0, -8192;", "%0, -65536;", torch.float32),
        "shfl: from the own half of the warp": (
            "DEVICE u32 from_lane(u32 x, int lane) { return __shfl_sync(~0u, x, lane); }",
            "DEVICE u32 from_lane(u32 x, int lane) { return __shfl_sync(~0u, x, lane, 16); }",
            torch.bfloat16,
            "not all lanes come to a collective",
        ),
        "the fence does nothing": ("{ __threadfence(); }", "{}", torch.bfloat16, "without a fence of both"),
        "the warp's barrier does nothing": ("{ __syncwarp(); }", "{}", torch.bfloat16, "race in a warp"),
    }.items()
}
LOSS_MUTATIONS = planted(
    torch.bfloat16,
    # Two towers.
    ("exclude", "rows of the first tower are compared with it", "row < p.tower ? all & ~second : second", "second",
     None),
    ("exclude", "tiles of the second tower are not looked at",
     "    if (p.tower && row + TILE_ROWS > p.tower && column + S::columns > p.tower) return true;\n", "", None),
    ("tile", "a block with rows of both towers has the columns of one",
     "(first < p.tower && first + TILE_ROWS > p.tower)", "false", None),
    ("parameters", "towers exchanged", "Range{p.tower, 2 * p.tower} : Range{0, p.tower}",
     "Range{0, p.tower} : Range{p.tower, 2 * p.tower}", None),
    ("select", "a block goes on into the second tower", "p.tower ? (tower + 1) * p.tower : p.anchors.count",
     "p.anchors.count", "shared.*, which nobody wrote|race"),
    ("select", "failed rows have the places of the other tower", "key - compared_keys(p, row).first", "key",
     "past the end of survivors|survivors.*, which nobody wrote|race"),
    ("select", "failed rows are compared with both towers",
     "if (is_compared(p, row, key)) kept_of", "if (row >= 0) kept_of",
     "survivors|race|outside of all arrays"),
    # SupCon.
    ("tile", "the pointer to the labels stands still", "from.split += S::columns * sizeof(Split);", ";", None),
    ("sums_general", "weights for similarities", "p.formulation == SUPERVISED ? c : weight", "weight", None),
    ("anchors", "no pull on the positives of the label", "attraction = sums.weights", "attraction = 0.0", None),
    ("anchors", "a share for the named positives alone", "share = 1.0 / count, temperature",
     "share = 1.0 / fmax(p.positives, 1.0), temperature", None),
    # The derivative by the temperature.
    ("finish", "each pair once", "p.square ? 0.5 * sum : sum", "sum", None),
    ("finish", "the sum before the last block",
     "    if (!is_last_block(&p.header->done[2], gridDim.x, &shared.last)) return;\n", "",
     "radials.*, which nobody wrote|race"),
    ("finish", "the first 256 blocks alone", "block += THREADS) sum", "block += gridDim.x) sum", None),
    ("anchors", "the first 256 blocks alone", "block += LANES) sum", "block += gridDim.x) sum", None),
    ("anchors", "exponentials that the positive may exceed", "fmax(logit, fmax(global, local))",
     "fmax(global, local)", None),
    ("anchors", "exponentials that negatives may exceed", "fmax(logit, fmax(global, local))", "fmax(logit, global)",
     None),
    ("anchors", "exponentials that named positives may exceed",
     "k < p.positives; k++) top = fmax(top, similarities[k] / temperature)", "k < 0; k++)", None),
    ("anchors", "nothing of the floor", "        anchor.temperature += scale * floor / temperature;\n", "", None),
    ("anchors", "nothing of the constant", "constant / (temperature * temperature)", "0.0", None),
    ("rows", "shifts of 1 at any temperature", "!(temperature > p.least_temperature)", "false", None),
)  # fmt: skip
"""In what only two towers, SupCon and a temperature in device memory use."""
NEGATIVE_MUTATIONS = planted(
    torch.float32,
    # Margins.
    ("tile", "products beside the diagonal", "lane / 4 % 2 ? s.c[0][0][1] : s.c[0][0][0]", "s.c[0][0][0]",
     None),
    ("tile", "the first lane of a row", "lane_of_thread() % 4 == lane_of_thread() / 8", "lane_of_thread() % 4 == 0",
     None),
    ("sums_general", "the last positive", "fmaxf(closest, diagonal_similarity(eight, p.keys, key < 0 ? 0 : key))",
     "diagonal_similarity(eight, p.keys, key < 0 ? 0 : key)", None),
    ("tile", "rows past the end", "anchor < p.anchors.count ? anchor : p.anchors.count - 1", "anchor",
     "past the end of"),
    ("sums_general", "a fraction with a sign", "fabs(closest)", "closest", None),
    ("parameters", "a threshold of 1 is a number", "epsilon >= 1.0 ?", "epsilon > 1.0 ?", None),
    # The elimination.
    ("anchors", "nothing is eliminated", "    if (p.formulation == ELIMINATION) sums.hierarchical = 0.0;\n", "",
     None),
    ("anchors", "what is eliminated is not counted", "totals[1] = hierarchical", "totals[1] = sums.hierarchical",
     None),
    # Lists of keys to ignore.
    ("index", "the list of another anchor", "(i64)anchor * ignored + k - positives", "(i64)anchor + k - positives",
     None),
    ("parameters", "queues without lists", "p.pairing != VIEWS && p.excluded > 0", "p.pairing == INDEXED", None),
    ("anchors", "padding counts", "at < keys.count && keys.list[at] != ~0u", "at < keys.count", None),
    # Indices that the host does not check.
    ("index", "the key behind the last one is ignored", "*place < p.keys.count", "*place <= p.keys.count",
     "past the end of key_ends"),
    ("index", "a key below the first one is ignored", "*place >= 0 && ", "", None),
    ("parameters", "a positive behind the last key", "key < p.keys.count ? (int)key", "key <= p.keys.count ? (int)key",
     None),
    ("anchors", "a positive that is no key", "key < 0 ? (double)not_a_number()", "key < 0 ? 0.0", None),
    ("anchors", "a key that is named twice counts twice", "keys.list[at] != keys.list[at - 1]", "true", None),
    ("finish", "a pull towards no key", "if (key >= 0) add_row(", "add_row(", "outside of all arrays"),
    ("sums_general", "the similarity with no key", "key < 0 ? 0 : key", "key", "outside of all arrays"),
    ("finish", "ignored keys pull", "if (k < (u32)p.positives) add_row", "add_row",
     "outside of all arrays"),
) | {
    "tile: another rounding of the closest positive": Mutation(
        "tile.cu",
        "return similarity(lane / 4 % 2 ? s.c[0][0][1] : s.c[0][0][0], eight.inverse_length, ",
        "return product(product(lane / 4 % 2 ? s.c[0][0][1] : s.c[0][0][0], eight.inverse_length), ",
    ),
}  # fmt: skip
"""In what only margins, the elimination, lists of keys to ignore and indices that are no rows use."""
OWN_MUTATIONS = planted(
    torch.float32,
    ("anchors", "some are not compared", "i += gridDim.y", "i += gridDim.y + 1",
     "apart_similarities.*, which nobody wrote"),
    ("anchors", "the positives of other anchors", "? anchor * p.rows_apart : e", "? anchor : e", None),
    ("parameters", "the positive is an own negative", "return p.pairing == APART; }", "return 0; }", None),
    ("parameters", "the threshold of all", "p.anchors.splits ? p.anchors.splits[anchor] : Split{",
     "p.anchors.splits ? Split{0, p.header->limit, p.anchors.splits[anchor].global_shift, "
     "p.anchors.splits[anchor].hierarchical_shift} : Split{", None),
    ("anchors", "none in the sums", "if (p.own_sums) add_part", "if (false) add_part", None),
    ("anchors", "not counted", " + p.rows_apart - first_own(p);", ";", None),
    ("anchors", "not in the mean similarity", "        all[4] += c;\n", "", None),
    ("anchors", "none is hierarchical", "hierarchical = c > split.threshold", "hierarchical = false", None),
    ("anchors", "lanes add one twice", "p.rows_apart; i += LANES", "p.rows_apart; i += LANES - 1", None),
    ("anchors", "some are missed", "p.rows_apart; i += LANES", "p.rows_apart / LANES * LANES; i += LANES", None),
    ("anchors", "the sums of a lane", "warp_sum(all[i])", "all[i]", None),
    ("anchors", "the sums of another anchor", "(i64)anchor * SUMS + i]", "i]", "race|nobody wrote"),
    ("finish", "none pulls like a hierarchical one", "c > split.threshold", "false", None),
    ("exclude", "slopes without the weights' derivative", " - (hierarchical ? card.weights : 0.0f)", "", None),
    ("finish", "slopes of another row", "apart_of(p, anchor)[i]", "apart_of(p, anchor)[first_own(p)]", None),
    ("finish", "no pull on the anchor", "own < p.rows_apart ?", "own < first_own(p) ?", None),
    ("finish", "the slope of each lane", "from_lane(slope, i)", "slope", None),
    ("finish", "as many as a warp has lanes", "first < p.rows_apart; first += LANES", "first < 1; first += LANES",
     None),
    ("finish", "gradients by another anchor", "p.anchors, row / p.rows_apart)", "p.anchors, 0)", None),
    ("select", "none among few keys", "l.columns + p.rows_apart, l.rank", "l.columns, l.rank", None),
    ("select", "none among the survivors", "count = inside + p.rows_apart;", "count = inside;", None),
    ("digits", "none of failed rows that are few", "i < p.rows_apart ? ordered(", "false ? ordered(", None),
    ("select", "one of failed rows", "i < SELECT_ROWS * p.rows_apart", "i < SELECT_ROWS", None),
    ("select", "a missed bracket is searched", "if (found >= low && found <= high) p.quantiles",
     "if (found == found) p.quantiles", None),
    ("joint", "none among the listed", "key_of(apart_of(p, row)[i], base)", "0u", None),
    ("joint", "below the list", "is_found && quantile >= low", "is_found", None),
    ("anchors", "none in the range", "if (p.threshold != MINMAX || ", "if (true || ", None),
    ("anchors", "a range beside the diagonal", " || !is_on_diagonal()) return;", ") return;", None),
    ("sums_general", "none in the shifts", "i < end; i += gridDim.y * 4", "i < 0; i += gridDim.y * 4", None),
    ("sums_general", "some are not in the shifts", "i < end; i += gridDim.y * 4", "i < end; i += gridDim.y * 8", None),
    ("sums_general", "the margin over an own negative", "apart_of(p, row)[0]", "apart_of(p, row)[1]", None),
)  # fmt: skip
"""In what only own negatives use."""

JOINT_MUTATIONS = planted(
    torch.float32,
    ("lists", "the threshold's bracket is not looked at", "fminf(p.lows[row], p.header->floor)", "p.lows[row]",
     None),
    ("lists", "excluded pairs are not marked", "member >= low ? member * MARK", "member >= low ? member", None),
    ("lists", "excluded pairs are not of the row", "member >= low ? member * MARK : ",
     "false ? member * MARK : ", None),
    ("joint", "marks are above all", "c > LARGEST ? c * (1.0f / MARK) : c", "c > LARGEST ? LARGEST : c", None),
    ("lists", "a negative lower end", "end >= LEAST_END ? end : infinity()", "end", None),
    ("joint", "listed and added", "@in add.u32 %0, %0, %5;\\n@!in add.f32", "@in add.u32 %0, %0, %5;\\nadd.f32",
     None),
    ("joint", "the others are listed", "setp.ge.f32 in, %1, %2", "setp.lt.f32 in, %1, %2",
     "which nobody wrote|race|past the end"),
    ("joint", "the end is not listed", "setp.ge.f32 in, %2, %4", "setp.gt.f32 in, %2, %4", None),
    ("joint", "the end is not appended", "setp.ge.f32 in, %1, %2", "setp.gt.f32 in, %1, %2",
     "which nobody wrote"),
    ("lists", "an excluded pair at the end is not of the row", "member >= low ?", "member > low ?", None),
    ("lists", "all lanes list from one place on", " + before.of(row); }", "; }", "which nobody wrote|race"),
    ("lists", "places of another row", "& ~3) + row)", "& ~3))", "which nobody wrote|race|past the end"),
    ("lists", "lists that are too long are written", "return place + count <= (u32)p.capacity;", "return true;",
     "past the end of survivors|race|nobody wrote"),
    ("lists", "the anchor's own similarity is rounded", "key == own_key(p, anchor) ? 1.0f : c", "c", None),
    ("joint", "none at the lower end", "const bool below = c <= floor", "const bool below = c < floor", None),
    ("joint", "pending at the lower end", "return !(c <= floor) &&", "return !(c < floor) &&", None),
    ("joint", "none at the upper end", "&& !(c > ceiling); }", "&& !(c >= ceiling); }", None),
    ("lists", "a full list is not written", "return place + count <= (u32)", "return place + count < (u32)",
     "survivors.*, which nobody wrote"),
    ("joint", "lists that are too long are searched", "&& inside <= (u32)p.capacity;", ";",
     "past the end of survivors|nobody wrote"),
    ("joint", "each launch has the first rows", "first = l.first_row + blockIdx.x * TILE_ROWS",
     "first = blockIdx.x * TILE_ROWS", "outside of all arrays"),
    ("lists", "lists behind those of a launch", "(i64)(row - l.first_row)", "(i64)row", "past the end of survivors"),
    ("joint", "sums behind those of a launch", "own.index[row] - l.first_row", "own.index[row]", None),
    ("joint", "each launch searches the first rows", "row = l.first_row + at", "row = at",
     "outside of|pending_at.*, which nobody wrote"),
    ("joint", "one part of the columns", "i < 2 * l.splits; i += LANES", "i < 2; i += LANES", None),
    ("joint", "marked numbers are summed", "c > LARGEST ? -infinity() : c", "c", None),
    ("joint", "the largest of a lane", "top = warp_max(bits_of(sets.top));", "top = bits_of(sets.top);", None),
    ("joint", "squares are not scaled", "listed.weighted * largest * largest", "listed.weighted * largest", None),
    ("joint", "a list's end is not filled up", "list[inside] = -infinity();", ";", "survivors.*, which nobody wrote"),
    ("joint", "pending similarities' end is not filled up", "p.pending[start + shared.pending] = -infinity();", ";",
     "pending.*, which nobody wrote"),
    ("joint", "the candidate behind the quantile", "not_less >= rank", "not_less > rank", None),
    ("joint", "candidates with another digit", "first += shared.digit << shift;", "first = shared.digit << shift;",
     None),
    ("joint", "a launch with more warps has the first one's sums", "other < warps; other++", "other < 1; other++",
     None),
    ("joint", "pending similarities over each other", " + up_to - pending;", ";",
     "pending.*, which nobody wrote|race"),
    ("joint", "too many are pending", "start + all <= (u32)p.pending_capacity && start + all >= start", "true",
     "past the end of pending|race"),
    ("joint", "pending similarities are forgotten", "add_listed(p, to, sums, sets, before);", "", None),
    ("joint", "pending similarities are all global", "{p.header->limit, p.header->limit,", "{infinity(), infinity(),",
     None),
    ("digits", "a threshold above its bracket", " && p.header->limit <= p.header->ceiling", "", None),
    ("digits", "a threshold out of its bracket", "p.header->rerun = 1", "p.header->rerun = 0", None),
    ("sums", "no other pass", "if (p.joint && !p.header->rerun) return;", "if (p.joint) return;",
     "sums.*, which nobody wrote"),
    ("anchors", "parts that are not there", "p.joint && !p.header->rerun ? 1 : p.splits", "p.splits",
     "sums.*, which nobody wrote"),
    ("anchors", "one part after another pass", "p.joint && !p.header->rerun ? 1 : p.splits",
     "p.joint ? 1 : p.splits", None),
    ("total", "all rows in each block", "shared, blockIdx.x * WARPS, rows.count", "shared, 0, rows.count", None),
    ("total", "the sums of one block", "from + (i64)block * DIMS", "from", None),
    ("total", "the anchors for the keys", "side ? p.keys : p.anchors", "p.anchors", None),
    ("total", "the sum before the last block", "if (!is_last_block(", "if (is_last_block(", "which nobody wrote|race"),
    ("anchors", "the sum over all pairs is not added", "? p.header->similarities : 0.0", "? 0.0 : 0.0", None),
    ("anchors", "the sum over all pairs after another pass", "(p.row_sums && !p.header->rerun ? p.header->similarities",
     "(p.row_sums ? p.header->similarities", None),
    ("select", "the bracket before the last block", "if (p.joint && is_last_block(",
     "if (p.joint && !is_last_block(", "which nobody wrote|race"),
)  # fmt: skip
"""In the pass that finds quantiles and sums."""
SAMPLE_MUTATIONS = planted(
    torch.bfloat16,
    ("select", "a bound that too few keys reach", ">= ranks.largest) bound", "> 0) bound", "outside of shared memory"),
    ("select", "keys where there are none", "if (there < 4) found[first / 4] &=", "if (false) found[first / 4] &=",
     "which nobody wrote"),
    ("select", "keys below the parts are above them", "part < 0 ? 0 : part < PARTS ?", "part >= 0 && part < PARTS ?",
     None),
    ("select", "one part of two is looked at", " - set_bits(first_parts & eight)", "", None),
    ("select", "the parts of another rank", "0xffu << mine * RANK_LANES", "0xffu", None),
    ("select", "counts are cleared while they are read", "+ (pair >> 16));\n    sync_warp();", "+ (pair >> 16));",
     "race"),
)  # fmt: skip
"""In the search of a sample. A wrong bracket only makes a call slower, so the ends themselves are looked at."""
IN_FLIGHT = "in flight|which nobody wrote|race"
EARLY = f"{IN_FLIGHT}|product may read|an arrival more|a hang"
HOPPER_MUTATIONS = {
    f"{file}: {name}": Mutation(f"hopper_{file}.cu".replace("_ring", ""), text, replacement, complaint=complaint)
    for file, name, text, replacement, complaint in (
        # The inline PTX.
        ("device", "rows not transposed", '", adds, 1, 1, 1;', '", adds, 1, 1, 0;', IN_FLIGHT),
        ("device", "no fence", 'asm volatile("wgmma.fence.sync.aligned;" ::: "memory");', "", "wgmma.fence"),
        ("device", "open groups", 'asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");', "", "in flight"),
        ("device", "a group too few is waited for", '"n"(pending) : "memory")', '"n"(pending + 1) : "memory")',
         "in flight"),
        ("device", "barriers are not published", """asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");""", "", "before a fence of its mbarrier"),
        ("device", "stores are not published", '{ asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }', "{}",
         "without fence.proxy.async after it"),
        ("device", "too many registers", ": 112", ": 120", "a hang"),
        # Tiles and ring.
        ("ring", "a stride of half the rows", "descriptor(address, 16, 1024)", "descriptor(address, 16, 512)", None),
        ("tiles", "a row's chunks in their own order", "((chunk ^ row) & 7)", "(chunk & 7)", None),
        ("ring", "a copy's bytes are not expected", "TILE_BYTES + NOTE_BYTES);", "TILE_BYTES);", EARLY),
        ("ring", "a stage is filled early", "barrier_wait(empty(turn.stage), turn.parity);", "", EARLY),
        ("ring", "a stage is read early", "barrier_wait(full(turn.stage), turn.parity);", "", EARLY),
        ("ring", "the parity stays", "turn.parity ^= 1;", "", EARLY),
        ("ring", "every lane releases a stage", "if (lane_of_thread() == 0) barrier_arrive", "barrier_arrive", EARLY),
        ("ring", "pairs of the other row are excluded", "bits[pair / 2 % 2]", "bits[pair % 2]", None),
        ("ring", "a column too many", "(bit) >= columns.count", "(bit) > columns.count", None),
        ("ring", "excluded columns are found too late", "found = column - 63 +", "found = column + 64 +", None),
        ("ring", "excluded columns of a view are passed over", "above > 0 ? p.view_rows - above : -above",
         "p.view_rows - above", None),
        # The kernels.
        ("sums", "own rows are not waited for", "barrier_wait(memory.own(), 0);", "", IN_FLIGHT),
        ("tiles", "notes of other columns", "column % 8 / 2 * 4 + column / 8 % 2 * 2", "column % 16 / 2 * 2", None),
        ("ring", "the strips of a block are one", "const int row = first + consumer * STRIP;",
         "const int row = first;", None),
        ("sums", "a stage is released while it is read", """scale_strip(c, inverse, memory.notes_of(turn.stage));
        memory.release(turn.stage);""", """memory.release(turn.stage);
        scale_strip(c, inverse, memory.notes_of(turn.stage));""", EARLY),
        ("sums", "strips exchanged", "first + consumer * STRIP;", "first + (consumer ^ 1) * STRIP;", None),
        ("select", "all lanes keep from one place on", " + up_to - inside;", ";", "which nobody wrote"),
        ("select", "nothing is kept", "s, own.low[half], own", "s, own.high[half], own", None),
        ("select", "each launch has the first rows", "block(p, shared, l.first_row)", "block(p, shared, 0)",
         "outside of all arrays"),
        ("select", "survivors behind those of a launch", "(i64)(anchor - l.first_row)", "(i64)anchor",
         "past the end of survivors"),
        ("select", "failed rows stay failed", "= p.header->failed,", "= 0 * p.header->failed,",
         "read of quantiles.*, which nobody wrote"),
        ("select", "a positive apart counts four times", "p.pairing == APART && lane_of_thread() % 4 == 0",
         "p.pairing == APART", None),
        ("select", "each block compares failed rows with all keys", "part_of(p.keys, blockIdx.x, gridDim.x)",
         "part_of(p.keys, 0, 1)", "race: blocks .* write the same word of survivors"),
        ("select", "a part of the keys is left out", "part_of(p.keys, blockIdx.x, gridDim.x)",
         "part_of(p.keys, blockIdx.x, gridDim.x + 1)", "read of survivors.*, which nobody wrote"),
        ("select", "failed rows are searched before the last block", ONLY_THE_LAST + SEARCH_KEPT,
         SEARCH_KEPT + ONLY_THE_LAST,
         "survivors.*, which nobody wrote|of survivors without a fence|write the same word of survivors"),
        ("select", "rows are multiplied before all are copied", "take_rows(0);\n        sync_threads();",
         "take_rows(0);", "without fence.proxy.async after it|which nobody wrote|race"),
        ("gradient", "another rounding of similarities", "similarity(c, own.inverse[half], column.x)",
         "product(product(c, own.inverse[half]), column.x)", None),
        ("gradient", "columns exchanged", "pack(c[2 * i], c[2 * i + 1])", "pack(c[2 * i + 1], c[2 * i])", None),
        ("gradient", "another stage is released", "memory.release(last);", "memory.release(turn.stage);", EARLY),
        ("gradient", "derivatives replaced while they are multiplied", """wait_for_products<0>(sum);
        memory.release(last);""", "memory.release(last);", "in flight"),
        ("gradient", "the last turn is kept", "if (consumer == 0) hand_turn_on(0);", "", "deadlock|a hang"),
        ("gradient", "the number beside is not written", "{sum[i], sum[i + 1]}", "{sum[i], sum[i]}", None),
        ("device", "turns are not handed on", "bar.arrive %0, 256;", "", "deadlock|a hang"),
    )
} | planted(
    torch.bfloat16,
    ("rows", "rows of a tile at one place", "row % WGMMA_COLUMNS, dim / 8)", "0, dim / 8)",
     "race: blocks .* write the same word of anchor_tiles"),
    ("rows", "no padding in the tiles", "if (tiles.rows) store_in", "if (tiles.rows && row < side.count) store_in",
     "which nobody wrote"),
)  # fmt: skip
"""In the kernels for sm_90a."""


SIFT_MUTATIONS = planted(
    torch.bfloat16,
    ("hopper_joint", "listed and added", '"@!in add.f32', '"add.f32', None),
    ("hopper_joint", "excluded pairs are not marked", "if (!find_excluded(", "if (true || !find_excluded(", None),
    ("hopper_joint", "excluded pairs are not taken off", "similarities[half] -= c[i];", "", None),
    ("hopper_joint", "rows share slots", "first + half * SLOTS * SLOT_BYTES", "first", None),
    ("hopper_joint", "warps share slots", "const int warp = threadIdx.x / LANES - 4;",
     "const int warp = threadIdx.x / LANES / 4 * 4 - 4;", "race|nobody wrote"),
    ("hopper_joint", "slots are never full", "> SLOTS / 2 || count(1) > SLOTS / 2", "> SLOTS || count(1) > SLOTS",
     "race"),
    ("hopper_joint", "slots are not cleared", """        clear();
    }
};""", """    }
};""", "race"),
    ("hopper_joint", "the last lists are forgotten", """    });
    staged.write(p, l, row);""", "    });", None),
    ("hopper_joint", "sums of another row", "row + half * 8 - l.first_row,", "row + 8 - half * 8 - l.first_row,", None),
    ("hopper_joint", "sums behind those of a launch", "row + half * 8 - l.first_row,", "row + half * 8,", None),
    ("hopper_joint", "each launch takes the first rows", "block(p, shared, l.first_row)", "block(p, shared, 0)",
     "outside of all arrays"),
    ("hopper_sums", "no other pass", "if (p.joint && !p.header->rerun) return;", "if (p.joint) return;",
     "sums.*, which nobody wrote"),
)  # fmt: skip
"""In that pass by the kernels for sm_90a."""

SHOWN_BY = {
    "rows": (
        "rows: shifts of 1 at any temperature",
        "rows: rows of a tile at one place",
        "rows: no padding in the tiles",
        "tiles: notes of other columns",
    ),
    "select": (
        "a fragment from the wrong row",
        "a fragment from the wrong half of a step",
        "steps that are not added up",
        "keys with other digits before are counted",
        "a digit too early",
        "the mean before the last block",
        "mma: second and third register of the left factor exchanged",
        "mma: registers of the right factor exchanged",
        "mma: of the other 16-bit type",
        "mma: accumulators exchanged",
        "the upper half of a float keeps 8 bits",
        "shfl: from the own half of the warp",
        "the fence does nothing",
        "the warp's barrier does nothing",
    ),
    "select_failed": (
        "digits: a threshold above its bracket",
        "digits: a threshold out of its bracket",
        "digits: none of failed rows that are few",
        "no fence behind what a block has kept",
        "failed rows have one place",
        "what fills up the last four is above all",
        "a failed row's digits are those of the first four",
    ),
    "closest_positives": (
        "tile: products beside the diagonal",
        "tile: the first lane of a row",
        "tile: rows past the end",
        "tile: another rounding of the closest positive",
    ),
    "settle_thresholds": ("parameters: a threshold of 1 is a number",),
    "anchors": (
        "parameters: queues without lists",
        "parameters: a positive behind the last key",
    ),
    "own_sums": (
        "parameters: the positive is an own negative",
        "parameters: the threshold of all",
    ),
    "sift": (
        "lists: the threshold's bracket is not looked at",
        "lists: excluded pairs are not marked",
        "lists: excluded pairs are not of the row",
        "lists: an excluded pair at the end is not of the row",
        "lists: all lanes list from one place on",
        "lists: places of another row",
        "lists: lists that are too long are written",
        "lists: the anchor's own similarity is rounded",
        "lists: a full list is not written",
    ),
    "gather": (
        "lists: a negative lower end",
        "lists: lists behind those of a launch",
    ),
    "sums": (
        "the second group has the first one's rows",
        "a column too many",
        "own pairs at the edge of a tile",
        "exclude: tiles of the second tower are not looked at",
    ),
    "gradient": (
        "matrices of the right factor exchanged",
        "rows not transposed",
        "accumulators in the wrong order",
        "a gradient stored in the wrong row",
        "no barrier after the copies",
        "the next copies before the barrier",
        "no wait for the copies",
        "the pointer to the columns stands still",
        "the last tile is not looked at",
        "derivatives beyond float16",
        "ldmatrix: without .trans",
        "ldmatrix: registers exchanged",
        "cp.async: a group too few is waited for",
        "cp.async: groups are not closed",
        "cvt: halves exchanged",
        "ex2: a logarithm",
        "exclude: rows of the first tower are compared with it",
        "tile: a block with rows of both towers has the columns of one",
        "parameters: towers exchanged",
    ),
    "gradient_general": ("tile: the pointer to the labels stands still",),
    "finish": (
        "a key's last pair is not its own",
        "exclude: slopes without the weights' derivative",
    ),
    "select_wgmma": (
        "device: no fence",
        "device: open groups",
        "device: a group too few is waited for",
        "device: stores are not published",
        "ring: a stride of half the rows",
        "tiles: a row's chunks in their own order",
        "ring: a copy's bytes are not expected",
        "ring: a stage is filled early",
        "ring: a stage is read early",
        "ring: the parity stays",
        "ring: every lane releases a stage",
    ),
    "sums_wgmma": (
        "ring: a column too many",
        "hopper_sums: no other pass",
        "sums: own rows are not waited for",
        "sums: a stage is released while it is read",
        "sums: strips exchanged",
        "device: too many registers",
    ),
    "gradient_wgmma": (
        "device: rows not transposed",
        "device: barriers are not published",
        "device: turns are not handed on",
        "ring: pairs of the other row are excluded",
        "ring: excluded columns are found too late",
        "ring: excluded columns of a view are passed over",
        "ring: the strips of a block are one",
    ),
}
"""The kernel that shows a bug in a function which kernels of other files call. Compiling it alone saves minutes."""
CALLED_BY_OTHERS = ("rows.cu", "hopper.cu", "hopper_sums.cu")
"""Files with kernels, and with functions that kernels of other files call."""


def mutated(name: str) -> str:
    """The sources of the kernels that one bug changes.

    Args:
        name: One of the bugs above.

    Returns:
        The sources in one text, as the extension has them, with the kernels that the bug is in, or the one that shows
        it.

    Raises:
        ValueError: The text to replace does not stand in its file exactly once, or the file not in the extension. Or
            `SHOWN_BY` lacks a bug that is in no kernel.
    """
    of_mma = MUTATIONS | JOINT_MUTATIONS | LOSS_MUTATIONS | NEGATIVE_MUTATIONS | OWN_MUTATIONS
    mutation = (of_mma | SAMPLE_MUTATIONS | HOPPER_MUTATIONS | SIFT_MUTATIONS)[name]
    whole, part = _core.cuda_sources(), (KERNELS / mutation.file).read_text()
    for count, text, where in (
        (part.count(mutation.text), mutation.text, mutation.file),
        (whole.count(part), mutation.file, "the extension, which may be older than the sources"),
    ):
        if count != 1:
            raise ValueError(f"expected {text!r} once in {where}, but found it {count} times")
    shown = kernels_running(part, part.index(mutation.text))
    if not shown or mutation.file in CALLED_BY_OTHERS:
        shown = {kernel for kernel, names in SHOWN_BY.items() if name in names}
        if not shown:
            raise ValueError(
                f"expected {name!r} in SHOWN_BY, as kernels of other files call functions of {mutation.file}"
            )
    unused = set(kernel_names(whole)) - shown
    return without(whole.replace(part, part.replace(mutation.text, mutation.replacement)), unused)
