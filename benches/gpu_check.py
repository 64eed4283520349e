"""Everything that only a GPU can tell, in two calls of 12 minutes together. How to: GPU.md beside this file.

    python benches/gpu_check.py prepare                # without a GPU: compiles kernels and variants
    python benches/gpu_check.py knowledge              # call 1: right? how fast? beside whom?
    python benches/gpu_check.py speed                  # call 2: variants of the kernels, and a training
    python benches/gpu_check.py knowledge --rehearse   # without a GPU: every step, tiny, on the CPU

A call writes `results.jsonl` (a line for each result, at once), `report.md` (a page of it, anew after each step),
`clocks.csv` and `log.txt`. A step that crashes or hangs costs itself alone.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

BENCHES = Path(__file__).resolve().parent
ROOT = BENCHES.parent
sys.path[:0] = [str(BENCHES), str(ROOT / "python"), str(ROOT)]

from gpu import clocks, plan, prepared, records, table, variants  # noqa: E402
from gpu.runner import Runner, Step  # noqa: E402

PREPARED = ROOT / "runs" / "gpu"
WORK = ROOT / "runs" / "gpu-build"


def device() -> str:
    """The card's name for a folder."""
    if shutil.which("nvidia-smi") is None:
        return "none"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    name = done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else "unknown"
    return "-".join(name.lower().replace("nvidia", "").split()) or "unknown"


def folder(asked: argparse.Namespace) -> Path:
    """Where the results go: a new folder, or an empty one.

    Raises:
        SystemExit: There are results in it.
    """
    chosen: Path = asked.out or BENCHES / "results" / f"gpu-{device()}-{date.today()}" / asked.call
    if (chosen / "results.jsonl").exists():
        raise SystemExit(f"expected `--out` to be a folder without results, but {chosen} has some")
    chosen.mkdir(parents=True, exist_ok=True)
    return chosen


def chosen_of(steps: list[Step], names: list[str]) -> list[Step]:
    """The steps of these names; all without any.

    Raises:
        SystemExit: There is no step of a name.
    """
    known = [step.name for step in steps]
    for name in names:
        if name not in known:
            raise SystemExit(f'expected `--only` to name steps ({", ".join(known)}), but got "{name}"')
    return [step for step in steps if not names or step.name in names]


def capability(text: str) -> str:
    """A compute capability such as 9.0."""
    if not re.fullmatch(r"\d+\.\d", text):
        raise argparse.ArgumentTypeError(f'expected a compute capability such as 9.0, but got "{text}"')
    return text


def existing(text: str) -> str:
    """A folder that there is, whole: the steps work in the checkout."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, but there is no {text}")
    return str(Path(text).resolve())


def environment(asked: argparse.Namespace) -> dict[str, str]:
    """Of every step."""
    prepared = asked.prepared.resolve()
    found = {"HEX_SSL_CACHE": str(prepared / "cubins"), "GPU_CHECK_PREPARED": str(prepared)}
    found["HEX_SSL_BACKEND"] = "cuda"  # nothing falls back unseen
    if asked.rehearse:
        found |= {"HEX_SSL_BACKEND": "cpu", "HEX_SSL_GPU_REHEARSAL": "cpu", "TRITON_INTERPRET": "1"}
        found |= {records.REHEARSE: "1", "CUDA_VISIBLE_DEVICES": ""}
    return found


def call(asked: argparse.Namespace) -> int:
    """Runs the steps of a call; 0 where all were done."""
    end = time.monotonic() + asked.seconds
    steps = plan.knowledge(asked.rehearse) if asked.call == "knowledge" else plan.speed(asked.rehearse, asked.data)
    chosen, results = chosen_of(steps, asked.only), folder(asked)
    command = " ".join(["python", "benches/gpu_check.py", *sys.argv[1:]]).replace(str(ROOT), ".")

    def after() -> Path:
        return table.write(results, asked.call, command)

    prepared.unpack(asked.prepared)
    if asked.rehearse and asked.call == "speed":
        asked.prepared = results / "pretended"
        variants.pretend(asked.prepared, plan.REHEARSED_VARIANTS)
    runner = Runner(results, end - time.monotonic(), environment(asked), after)
    if asked.rehearse:  # on however slow and busy a machine
        chosen = [replace(step, limit=asked.seconds) for step in chosen]

    def interrupted(number: int, _: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, interrupted)
    done = False
    try:
        with clocks.logged(results):
            done = runner.run(chosen)
    except KeyboardInterrupt as error:
        text = f"interrupted{f' by {error}' if str(error) else ''}"
        records.append(runner.results, {"step": "call", "kind": "note", "text": text})
    late = prepared.compiled_since(asked.prepared / prepared.CUBINS)
    if late:
        text = f"{len(late)} kernel files were compiled here, which takes time: `prepare` can do so before"
        records.append(runner.results, {"step": "call", "kind": "note", "text": text})
    print(f"\n{after().read_text()}\nwritten: {results}")
    return 0 if done else 1


def prepare(asked: argparse.Namespace) -> int:
    """Compiles all kernels that the calls need, and builds the variants; 1 where something is left out."""
    prepared.clear(asked.prepared / prepared.CUBINS)
    prepared.compile_all(asked.prepared / prepared.CUBINS, asked.capabilities, prepared.KERNELS)
    failed = [] if asked.no_variants else variants.prepare_all(asked.prepared, WORK, asked.capabilities[:1])
    prepared.pack(asked.prepared, (prepared.CUBINS, variants.VARIANTS_FOLDER))
    print("\n".join([*failed, f"prepared: {asked.prepared}, and all of it in {prepared.ARCHIVE}"]))
    return int(bool(failed))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    commands = made.add_subparsers(dest="call", required=True)
    for name, seconds in plan.CALLS.items():
        each = commands.add_parser(name)
        each.add_argument("--out", type=Path, help="folder for the results; default: benches/results/gpu-DEVICE-DATE")
        each.add_argument("--seconds", type=float, default=seconds, help="for all of it; default: %(default)s")
        each.add_argument("--only", nargs="+", default=[], metavar="STEP", help="these steps alone")
        each.add_argument("--rehearse", action="store_true", help="on the CPU, tiny: no figure means anything")
        each.add_argument("--prepared", type=Path, default=PREPARED, help="the folder that `prepare` filled")
        each.add_argument("--data", type=existing, help="folder with CIFAR-100, for the training of call 2")
    each = commands.add_parser("prepare")
    each.add_argument(
        "--capabilities",
        type=capability,
        nargs="+",
        default=["9.0", "8.0"],
        help="of the GPUs; variants are for the first alone",
    )
    each.add_argument("--no-variants", action="store_true", help="the shipped kernels alone")
    each.add_argument("--prepared", type=Path, default=PREPARED)
    return made


def main() -> int:
    """The exit status."""
    asked = parser().parse_args()
    return prepare(asked) if asked.call == "prepare" else call(asked)


if __name__ == "__main__":
    sys.exit(main())
