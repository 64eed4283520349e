"""How the kernel `sample` finds the ends of brackets in a row of sampled similarities, key by key."""

import pytest
import torch
from torch import Tensor

from hex_ssl import _core

from .ptx.emulation import Emulation
from .ptx.interpreter import Schedule
from .ptx.kernels import CAPABILITY, HOPPER, kernel_names, without
from .ptx.mutations import SAMPLE_MUTATIONS, mutated

KEY_BIT, DIGIT, PARTS = 0x8000, 256, 512
GROUPS = 256
"""Of a row, of whose largest keys a bound is one. There is none for larger ranks."""
LEAST, MOST = 32, 32736
"""The keys of -1 and 1, without KEY_BIT."""
KERNEL = """
KERNEL(LANES, 1) find_ends(const u16* keys, const u32* ranks, float* ends, int columns) {
    SHARED_MEMORY(memory);
    u16* const row = (u16*)memory;
    const int lane = lane_of_thread(), at = blockIdx.x * RANKS;
    for (int i = lane; i < columns; i += LANES) row[i] = keys[blockIdx.x * columns + i];
    sync_warp();
    Ranks of = {{ranks[at], ranks[at + 1], ranks[at + 2], ranks[at + 3]}};
    for (int i = 0; i < RANKS; i++) if (of.all[i] > of.largest) of.largest = of.all[i];
    of.own = ranks[at + lane / RANK_LANES];
    const float found = find_end((u32*)(memory + STRIP_BYTES), row, columns, of);
    if (lane % RANK_LANES == 0) ends[at + lane / RANK_LANES] = found;
}
"""


def draw(kind: str, columns: int) -> Tensor:
    """Keys of a row, in no order."""
    normal = (torch.randn(columns) * 0.09 * 16352 + 16384).round().long()
    if kind == "equal":
        normal[:] = 20000
    if kind == "without a direction":
        normal[:] = LEAST
    if kind == "two":
        normal = torch.where(torch.arange(columns) % 3 == 0, MOST, LEAST)
    if kind == "all":
        normal = torch.randint(LEAST, MOST + 1, (columns,))
    if kind == "in few groups":
        # The largest ones share the groups whose largest keys give the bound, so that many other keys reach it.
        normal = normal.sort(descending=True).values
        groups = torch.arange(columns).view(-1, 32, 8).permute(1, 2, 0).reshape(-1)
        normal = torch.empty_like(normal).scatter_(0, groups, normal)
    return normal


def expected(keys: Tensor, ranks: tuple[int, ...]) -> list[float]:
    """The ends, by sorting. Parts are as large as all digits with ends need, and each end is that of a part."""
    of = [int(keys.sort(descending=True).values[rank - 1]) for rank in ranks if rank > 0]
    start, digits = min(of) // DIGIT * DIGIT, max(of) // DIGIT - min(of) // DIGIT + 1
    part = next(1 << shift for shift in range(16) if digits * DIGIT <= PARTS << shift)
    left, ends = iter(of), []
    for k, rank in enumerate(ranks):
        key = start + (next(left) - start) // part * part if rank > 0 else 0
        ends.append((key + part if k % 2 else key - 1) - 16384.0)
    return ends


RANKS = {
    256: ((14, 0, 0, 0), (14, 1, 6, 2), (256, 1, 128, 120), (0, 250, 0, 0)),
    512: ((20, 2, 9, 4), (257, 200, 0, 0)),
    1024: ((29, 0, 16, 6), (64, 40, 52, 48), (65, 40, 52, 48), (600, 424, 0, 0)),
    2048: ((45, 0, 26, 15), (45, 0, 26, 0), (GROUPS, 1, 0, 0), (GROUPS + 1, 1, 0, 0), (1120, 930, 0, 0),
           (2048, 2047, 2040, 1)),
}  # fmt: skip
KINDS = ("spread", "equal", "without a direction", "two", "all", "in few groups")


def check(columns: int, capability: tuple[int, int], sources: str, emulation: Emulation, config: pytest.Config) -> None:
    """All kinds of keys, with all of these ranks."""
    assert config.cache is not None
    only = without(sources, kernel_names(sources)) + KERNEL
    text = _core.cuda_ptx(capability, 64, "bfloat16", False, only, config.cache.mkdir("ptx"), False)
    cases = [(draw(kind, columns), ranks) for kind in KINDS for ranks in RANKS[columns]]
    keys = torch.stack([keys + KEY_BIT for keys, _ in cases]).to(torch.uint16)
    ranks = torch.tensor([ranks for _, ranks in cases], dtype=torch.uint32)
    ends = torch.zeros(len(cases), 4)
    emulation.interpreter.schedule(Schedule(seed=columns))
    emulation.interpreter.launch(
        text, [keys, ranks, ends, columns], kernel="find_ends", blocks=(len(cases), 1, 1), shared_bytes=4096 + 1024,
        outputs=(2,),
    )  # fmt: skip
    for (row, of), found in zip(cases, ends, strict=True):
        wanted = torch.tensor(expected(row, of)) * torch.tensor(1 / 16352)
        there = torch.tensor(of) > 0
        assert found[there].equal(wanted[there]), of


@pytest.mark.parametrize("capability", [CAPABILITY, HOPPER], ids=str)
@pytest.mark.parametrize("columns", RANKS)
def test_ends(columns: int, capability: tuple[int, int], emulation: Emulation, pytestconfig: pytest.Config) -> None:
    check(columns, capability, _core.cuda_sources(), emulation, pytestconfig)


@pytest.mark.parametrize("name", SAMPLE_MUTATIONS)
def test_a_planted_bug_is_seen(name: str, emulation: Emulation, pytestconfig: pytest.Config) -> None:
    with SAMPLE_MUTATIONS[name].seen():
        check(512, CAPABILITY, mutated(name), emulation, pytestconfig)
