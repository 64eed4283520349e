"""Other forms of the kernels, as small changes of `src/cuda`, each with what it is expected to bring.

They are built on a machine with Rust and without a GPU, an extension each; its cubins come into the cache. Sizes have
the names of `kernels/parameters.cu` and `plan.rs`.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpu import prepared, wgmma
from gpu.extension import load
from gpu.records import ROOT
from gpu.wgmma import MMA, OVERLAPPING, WGMMA

EXTENSION, MADE_FROM, VARIANTS_FOLDER = "_core.abi3.so", "made_from.json", "variants"
INSTALLED = ROOT / "python" / "hex_ssl" / EXTENSION
SOURCES = ("src", "Cargo.toml", "Cargo.lock", ".cargo/config.toml")
"""What an extension is built from."""


@dataclass(frozen=True)
class Change:
    """A pattern that is found exactly once in the files of a kind under `src/cuda`, and what takes its place."""

    pattern: str
    replacement: str
    files: str


def size(name: str, number: int) -> Change:
    """Another number for a size that launches and kernels share."""
    return Change(rf"(?m)^#define {name} \d+", f"#define {name} {number}", "kernels/parameters.cu")


def constant(name: str, value: str) -> Change:
    """Another value for a constant of the host."""
    return Change(rf"const {name}: usize = [^;]+;", f"const {name}: usize = {value};", "**/*.rs")


def empty(function: str, body: str = "") -> Change:
    """A function of `device.cu` that does nothing: what is left out is told by the time that is left."""
    pattern = rf"(?m)^(DEVICE \w+ {function}\(.*\)) \{{\n(?:.*\n)*?\}}"
    return Change(pattern, rf"\1 {{ {body} }}", "kernels/device.cu")


@dataclass(frozen=True)
class Variant:
    """One form.

    Attributes:
        name: Of its folder.
        expected: What it should bring, written before it was measured.
        changes: Of the sources. Without any, it is the installed extension that runs.
        same: Whether it computes the same; else it leaves a stage out and is timed alone.
        environment: Variables while it runs, and while the shipped kernels run beside one that has changes.
        rows: At which it is measured.
    """

    name: str
    expected: str
    changes: tuple[Change, ...] = ()
    same: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[int, ...] = (8192, 65536)


NOTHING = "return;"
TWO_PASSES = (constant("LEAST_SHARE", "1 << 40"),)
# In the order in which they are measured: other defaults, then what bounds the kernels, then what is expected to lose.
VARIANTS = [
    Variant("overlap", "0.85 at 512 rows, 0.96 at 8,192, 0.98 at 32,768, 0.99 at 65,536", environment=OVERLAPPING,
            rows=(8192, 65536, 512, 32768)),
    Variant("mma", "1.8 times the time at 65,536 rows, 1.4 at 8,192", environment=MMA),
    Variant("wgmma-apart", "1.8 times at 65,536 rows, as it was measured", TWO_PASSES, environment=WGMMA),
    Variant("apart", "1.47 times at 65,536 rows, as it was measured", TWO_PASSES, environment=MMA),
    Variant("few-columns-64", "1.05 times, as it was measured", (size("FEW_COLUMNS", 64),), environment=MMA),
    Variant("sample-1024", "0.95 at 32,768 rows", (constant("SAMPLE", "1024"),), environment=WGMMA,
            rows=(32768, 65536)),
    Variant("sample-512", "equal at 8,192 rows: lists are longer", (constant("SAMPLE", "512"),), environment=WGMMA,
            rows=(8192, 32768, 65536)),
    # With 32 MiB, the lists of 32,768 rows would be put into the 16 MiB of the gradient.
    Variant("survivors-33mb", "1.03 times at 32,768 rows: twice the launches", (constant("SURVIVORS", "33 << 20"),),
            environment=WGMMA, rows=(32768, 16384)),
    Variant("survivors-72mb", "0.97 at 65,536 rows: half the launches, for 56 MB", (constant("SURVIVORS", "72 << 20"),),
            environment=WGMMA, rows=(65536,)),
    Variant("derived-meanwhile", "gradient slower by 3 %: registers spill",
            (Change(r"(?m)^(#define PAIRS_MEANWHILE) .*", r"\1 PAIRS", "kernels/hopper_gradient.cu"),),
            environment=WGMMA),
    Variant("sample-resident-2", "sample up to a fifth slower or faster",
            (Change(r"<= SHORT_ROW \? 3 :", "<= SHORT_ROW ? 2 :", "kernels/select.cu"),), environment=WGMMA),
    Variant("splits-16", "equal from 8,192 rows on, slower at 512", (constant("SPLITS", "16"),), environment=MMA,
            rows=(8192, 65536, 512)),
    Variant("no-fragments", "sums 0.6 of its time: bounded by loads of fragments",
            (empty("load_matrices", "r[0] = r[1] = r[2] = r[3] = shared_address(row);"),), same=False,
            environment=MMA),
    Variant("no-products", "little: shared memory bounds", (empty("multiply_bf16", NOTHING),), same=False,
            environment=MMA),
    Variant("no-exponentials", "sums 0.9 of its time", (empty("exp2_approximate", "return x;"),), same=False,
            environment=MMA),
    Variant("no-copies", "sums 0.9 of its time", (empty("copy_async", NOTHING),), same=False, environment=MMA),
    Variant("columns-32", "gradient slower by a tenth: twice the barriers", (size("COLUMNS", 32),), environment=MMA),
    Variant("resident-1", "sums slower by a third: nothing hides a barrier", (size("SHORT_ROW_RESIDENT", 1),),
            environment=MMA),
    Variant("chunk-64", "gradient 1.5 of its time: similarities twice", (size("MAX_CHUNK", 64),), environment=MMA),
]  # fmt: skip


def apply(variant: Variant, root: Path) -> None:
    """Changes the sources under `root`.

    Raises:
        ValueError: A pattern is not found exactly once: the sources have changed, and the variant must follow.
    """
    for change in variant.changes:
        found = 0
        for path in sorted((root / "src" / "cuda").glob(change.files)):
            text, count = re.subn(change.pattern, change.replacement, path.read_text())
            found += count
            if count:
                path.write_text(text)
        if found != 1:
            raise ValueError(f"{variant.name}: expected {change.pattern!r} once in {change.files}, but found {found}")


def copy_sources(root: Path) -> None:
    """Copies what an extension is built from to another root."""
    for name in SOURCES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)


def extension(variant: Variant, work: Path) -> Path:
    """Builds its extension.

    Raises:
        ValueError: The sources have changed.
        subprocess.CalledProcessError: It does not compile.
    """
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    copy_sources(tree)
    apply(variant, tree)
    # Quick to build: only kernels and launches matter here.
    profile = {"LTO": "off", "OPT_LEVEL": "1", "CODEGEN_UNITS": "8", "STRIP": "symbols"}
    environment = os.environ | {f"CARGO_PROFILE_RELEASE_{key}": value for key, value in profile.items()}
    environment["CARGO_TARGET_DIR"] = str(work / "target")
    subprocess.run(["cargo", "build", "--release", "--lib", "--quiet"], cwd=tree, env=environment, check=True)
    return work / "target" / "release" / "libhex_ssl.so"


def made_from(variant: Variant, root: Path = ROOT) -> dict[str, str]:
    """What a variant is built from: the sources, the same in every copy of a checkout, and its changes."""
    found = hashlib.sha256()
    given = [root / name for name in SOURCES]
    for path in sorted(path for each in given for path in (each, *each.rglob("*")) if path.is_file()):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return {"sources": found.hexdigest(), "changes": repr(variant.changes)}


def prepare(variant: Variant, folder: Path, work: Path, capabilities: Sequence[str]) -> None:
    """Builds its extension where `speed` looks for it, unless it is there, and compiles its kernels."""
    if not variant.changes:
        return
    to = folder / VARIANTS_FOLDER / variant.name
    if problem(variant, folder):
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir(parents=True)
        shutil.copy(extension(variant, work), to / EXTENSION)
    core = load(to / EXTENSION)
    prepared.compile_all(folder / prepared.CUBINS, capabilities, prepared.KERNELS[:1], core)
    (to / MADE_FROM).write_text(json.dumps(made_from(variant)))


def pretend(folder: Path, names: Sequence[str]) -> None:
    """The installed extension in place of variants, for a rehearsal."""
    for variant in VARIANTS:
        if variant.name in names:
            to = folder / VARIANTS_FOLDER / variant.name
            to.mkdir(parents=True)
            shutil.copy(INSTALLED, to / EXTENSION)
            (to / MADE_FROM).write_text(json.dumps(made_from(variant)))


def problem(variant: Variant, folder: Path) -> str:
    """Why a variant cannot be measured; empty where it can."""
    if variant.environment and not wgmma.is_there():
        return f"this extension does not read {', '.join(variant.environment)}"
    path = folder / VARIANTS_FOLDER / variant.name / MADE_FROM
    if not variant.changes:
        return ""
    if not path.exists():
        return "not prepared"
    if json.loads(path.read_text()) != made_from(variant):
        return "prepared of other sources than the checkout's, or in another form: prepare it again"
    return ""


def prepare_all(folder: Path, work: Path, capabilities: Sequence[str]) -> list[str]:
    """Builds and compiles all, and removes others; what went wrong, of those that are left out."""
    failed = []
    for path in folder.glob(f"{VARIANTS_FOLDER}/*"):
        if path.name not in {variant.name for variant in VARIANTS if variant.changes}:
            shutil.rmtree(path)
    for variant in VARIANTS:
        if variant.environment and not wgmma.is_there():
            continue
        try:
            prepare(variant, folder, work, capabilities)
            print(f"variant {variant.name}: ready", flush=True)
        except (RuntimeError, ValueError, subprocess.CalledProcessError) as error:
            shutil.rmtree(folder / VARIANTS_FOLDER / variant.name, ignore_errors=True)
            failed.append(f"variant {variant.name}: {error}")
    return failed
