"""The CUDA kernels compiled by NVRTC for real chips: registers, shared memory, instructions. No GPU is needed.

Spills and registers are checked with NVRTC 13.0, for which the kernels were written. With other versions, the kernels
must compile and fit the chip.
"""

import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from hex_ssl import _core

from .cubins import TABLE, compile_variant, digest, resources, run_tool, variants
from .ptx.kernels import OPERANDS, without

pytest.importorskip("triton", reason="its package has the tools, as torch's for CUDA has NVRTC")
WRITTEN_WITH = torch.version.cuda == "13.0"
THREADS = 256
REGISTERS = 65536
"""Of a multiprocessor."""
SHARED_BYTES = {(8, 0): 163, (8, 6): 99, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}
"""Kilobytes that a block may have, by compute capability (CUDA C++ Programming Guide, "Technical Specifications")."""

# Every chip, dtype and size at least once; all of them with each other would take half an hour.
CASES = [
    ((8, 0), 128, "float32", False),
    ((8, 6), 128, "bfloat16", False),
    ((8, 9), 64, "float16", False),
    ((9, 0), 128, "bfloat16", False),
    ((9, 0), 256, "bfloat16", False),
    ((10, 0), 64, "float32", True),
    ((12, 0), 256, "float32", False),
]
KERNELS = {
    "rows", "index_anchors", "index_starts", "index_pairs", "index_keys", "apart_similarities", "select", "sample",
    "survivors", "pick", "select_failed", "copy_quantiles", "ranges", "closest_positives", "settle_thresholds",
    "maxima", "settle_shifts", "sums", "sums_general", "anchors", "gradient", "gradient_general", "finish", "sift",
    "gather", "settle", "own_sums", "total_similarity",
}  # fmt: skip
SPILLS_ELSEWHERE = 48
"""Bytes of split rows of 128 dimensions and more, on chips that the kernels are not tuned for."""
PASSES = {"survivors", "sift", "ranges", "maxima", "sums", "sums_general"}
"""Over similarities alone."""
Case = tuple[tuple[int, int], int, str, bool]


@pytest.fixture(scope="module")
def cubins(pytestconfig: pytest.Config) -> Iterator[dict[Case, "Future[Path]"]]:
    """Each case's cubin as a file, compiled two at a time; kept in pytest's cache, as everything there by content."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("cuda_cubins")

    def write(case: Case) -> Path:
        binary, _ = _core.cuda_cubin(*case)
        (major, minor), dims, dtype, tf32 = case
        file = folder / f"sm_{major}{minor}_{dims}_{'tf32' if tf32 else dtype}.bin"
        file.write_bytes(binary)
        return file

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setenv("HEX_SSL_CACHE", str(folder))
        yield {case: pool.submit(write, case) for case in CASES}
        pool.shutdown(cancel_futures=True)


def compiled(case: Case, cubins: dict[Case, "Future[Path]"]) -> Path:
    """The file of a case; skips what this NVRTC has no code for."""
    try:
        return cubins[case].result()
    except RuntimeError as error:
        if WRITTEN_WITH or "has no code for compute capability" not in str(error):
            raise
        pytest.skip(str(error))


# Bytes of the stack that a variant's kernel may take, for registers that are spilled; 0 where nothing is said.
# Split rows of more than 128 dimensions take registers for their halves and the fresh sums besides those for the rows.
SPILLS: dict[tuple[str, str], dict[int, int]] = {
    ("BF16", "gradient"): {480: 24},
    ("F16", "gradient"): {480: 24},
    ("SPLIT_TF32", "survivors"): {224: 40},
    ("SPLIT_TF32", "sift"): {224: 32, 256: 24},
    ("SPLIT_TF32", "ranges"): {224: 24, 256: 32},
    ("SPLIT_TF32", "maxima"): {224: 24, 256: 40},
    ("SPLIT_TF32", "sums"): {224: 48, 256: 32},
    ("SPLIT_TF32", "sums_general"): {192: 8, 224: 32, 256: 24},
    ("SPLIT_TF32", "gradient"): {160: 8, 192: 16, 224: 32, 256: 24},
    ("SPLIT_TF32", "gradient_general"): {160: 8, 192: 24, 224: 32, 256: 32},
}


def test_the_budget_of_spills() -> None:
    table = json.loads(TABLE.read_text())
    assert table["sources"] == digest(), f"{TABLE.name} is of other sources: run `python -m tests.cubins`"
    assert table["variants"].keys() == {f"{operand}_{dims}" for operand, dims in variants()}
    over = {}
    for operand, dims in variants():
        found = table["variants"][f"{operand}_{dims}"]
        assert found.keys() == KERNELS
        for kernel, taken in found.items():
            if taken["STACK"] > SPILLS.get((operand, kernel), {}).get(dims, 0):
                over[operand, dims, kernel] = taken["STACK"]
    assert not over


@pytest.mark.skipif(not WRITTEN_WITH, reason="the table is of NVRTC 13.0")
@pytest.mark.usefixtures("cubins")
def test_the_table_of_spills() -> None:
    # Others with each change of the sources, the same for everybody.
    for operand, dims in random.Random(digest()).sample(list(variants()), 2):
        expected = json.loads(TABLE.read_text())["variants"][f"{operand}_{dims}"]
        assert compile_variant(operand, dims) == expected, f"{operand}, {dims} dimensions"


# The kernels for sm_90a, and the bytes of the stack that each may take, by its variant. A few numbers of a loop, which
# are stored and read once in each of its rounds.
HOPPER_KERNELS = (
    "note_coefficients", "sums_wgmma", "survivors_wgmma", "sift_wgmma", "select_wgmma", "gradient_wgmma",
)  # fmt: skip
HAND_ON = {"sums_wgmma": 96, "survivors_wgmma": 96, "sift_wgmma": 96, "gradient_wgmma": 168}
"""Whose warps give registers back and take them (`setmaxnreg`), and the registers of each thread at the launch: of 640
threads 128 go down to 24 and 512 up to 112, of 384 threads 128 go down to 24 and 256 up to 240. With fewer, these would
wait for ever."""
HOPPER_VARIANTS = [("bfloat16", 64), ("bfloat16", 128), ("bfloat16", 192), ("bfloat16", 256), ("float16", 128)]


@pytest.mark.skipif(not WRITTEN_WITH, reason="written with NVRTC 13.0")
def test_products_of_warpgroups_are_not_serialised() -> None:
    only = without(_core.cuda_sources(), KERNELS)

    def remarks(variant: tuple[str, int]) -> str:
        dtype, dims = variant
        return _core.cuda_remarks((9, 0), dims, dtype, False, only, True)

    with ThreadPoolExecutor(2) as pool:
        said = dict(zip(HOPPER_VARIANTS, pool.map(remarks, HOPPER_VARIANTS), strict=True))
    for (dtype, dims), text in said.items():
        # C7510 to C7520: what keeps wgmma from running beside other instructions. Results are right all the same.
        assert not re.search(r"C75\d\d", text), f"{dtype}, {dims} dimensions: {text}"
        found = re.findall(r"entry function '(\w+)'.*?(\d+) bytes stack frame.*?Used (\d+) registers", text, re.DOTALL)
        assert {name for name, _, _ in found} == set(HOPPER_KERNELS)
        for name, stack, registers in found:
            assert int(stack) == 0, f"{name} of {dtype}, {dims} dimensions"
            assert int(registers) == HAND_ON.get(name, int(registers)), f"{name} of {dtype}, {dims} dimensions"


def test_a_cubin_for_sm_90a(pytestconfig: pytest.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The whole module, as a GPU gets it: the other kernels beside those of this architecture.
    assert pytestconfig.cache is not None
    monkeypatch.setenv("HEX_SSL_CACHE", str(pytestconfig.cache.mkdir("cuda_cubins")))
    (tmp_path / "kernels.cubin").write_bytes(_core.cuda_cubin((9, 0), 64, "float16", False, True)[0])
    found = resources(tmp_path / "kernels.cubin")
    assert found.keys() == KERNELS | set(HOPPER_KERNELS)
    assert not WRITTEN_WITH or not any(taken["STACK"] for taken in found.values())
    code = run_tool("cuobjdump", "-sass", tmp_path / "kernels.cubin")
    of_kernels = [function.split() for function in code.split("Function :")[1:]]
    assert {name for name, *words in of_kernels if any("USETMAXREG" in word for word in words)} == HAND_ON.keys()
    for instruction in (
        "HGMMA.64x128x16.F32 R", "HGMMA.64x64x16.F32 R", "UBLKCP.S.G", "USETMAXREG.TRY_ALLOC", "USETMAXREG.DEALLOC",
        "SYNCS.PHASECHK.TRANS64.TRYWAIT", "WARPGROUP.DEPBAR",
    ):  # fmt: skip
        assert instruction in code, instruction


@pytest.mark.skipif(not WRITTEN_WITH, reason="written with NVRTC 13.0")
def test_a_serialised_product_is_told() -> None:
    # That there is a remark to look for, where an accumulator is touched while its product runs.
    text, wait = _core.cuda_sources(), "wait_for_products<1>(c);\n        hand_turn_on(consumer);"
    assert text.count(wait) == 1
    only = without(text.replace(wait, f"sum[0] += 1.0f; {wait}"), {*KERNELS, *HOPPER_KERNELS} - {"gradient_wgmma"})
    assert "C7514" in _core.cuda_remarks((9, 0), 64, "bfloat16", False, only, True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_resources(case: Case, cubins: dict[Case, "Future[Path]"]) -> None:
    found = resources(compiled(case, cubins))
    assert found.keys() == KERNELS
    (capability, dims, dtype, tf32) = case
    row_bytes = dims * (4 if dtype == "float32" else 2)
    operand = next(name for name, of in OPERANDS.items() if of == (getattr(torch, dtype), tf32))
    is_split = operand == "SPLIT_TF32"
    # A warp of the passes has 32 rows, so that a block has half the threads, where registers last for that.
    has_two = row_bytes <= (256 if is_split else 512)
    for name, taken in found.items():
        # A frame on the stack, or local memory, is where spilled registers go. Split rows spill some on other chips.
        spilled = SPILLS.get((operand, name), {}).get(dims, 0)
        if is_split and dims >= 128 and capability != (9, 0):
            spilled = max(spilled, SPILLS_ELSEWHERE)
        assert (taken["STACK"] <= spilled and taken["LOCAL"] == 0) or not WRITTEN_WITH, name
        # Blocks that a multiprocessor is to hold at once.
        threads = THREADS // 2 if name in PASSES and has_two else THREADS
        together = (3 if row_bytes <= 256 and not is_split else 2) if threads < THREADS and WRITTEN_WITH else 1
        if name not in ("maxima", "sums_general"):
            assert together * threads * taken["REG"] <= REGISTERS, f"{name} takes {taken['REG']} registers"
        tiles = 2 * (32 if name in PASSES or is_split or row_bytes > 512 else 64) * (row_bytes + 64)
        assert taken["SHARED"] + tiles <= SHARED_BYTES[capability] * 1024, name


def test_instructions(cubins: dict[Case, "Future[Path]"]) -> None:
    half = run_tool("cuobjdump", "-sass", compiled(((9, 0), 128, "bfloat16", False), cubins))
    single = run_tool("cuobjdump", "-sass", compiled(((8, 0), 128, "float32", False), cubins))
    for instruction in ("HMMA.16816.F32.BF16", "LDSM.16.M88.4", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS.128", "MUFU.EX2"):
        assert instruction in half, instruction
    for instruction in ("HMMA.1688.F32.TF32", "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128", "MUFU.EX2"):
        assert instruction in single, instruction
    # Nothing goes by way of local memory.
    assert not re.search(r"\b(LDL|STL)\b", half) or not WRITTEN_WITH
