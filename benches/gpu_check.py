"""Everything that only a GPU can tell, in two calls of at most 9 minutes each. How to: GPU.md beside this file.

    python benches/gpu_check.py prepare                # without a GPU: compiles kernels and variants
    python benches/gpu_check.py knowledge              # call 1: right? how fast? beside whom?
    python benches/gpu_check.py speed                  # call 2: variants of the kernels, and a training
    python benches/gpu_check.py knowledge --rehearse   # without a GPU: every step, tiny, on the CPU

A call writes `results.jsonl` (a line for each result, at once), `report.md` (a page of it, anew after each step),
`clocks.csv` and `log.txt`. A step that crashes or hangs costs itself alone.
"""

import argparse
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

from gpu import clocks, plan, records, table  # noqa: E402
from gpu.runner import Runner  # noqa: E402

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
    start, results = time.monotonic(), folder(asked)
    command = " ".join(["python", "benches/gpu_check.py", *sys.argv[1:]])
    after = lambda: table.write(results, asked.call, command)  # noqa: E731
    if asked.rehearse and asked.call == "speed":
        from gpu import variants

        asked.prepared = results / "pretended"
        variants.pretend(asked.prepared, plan.REHEARSED_VARIANTS)
    runner = Runner(results, asked.seconds - (time.monotonic() - start), environment(asked), after)
    steps = plan.knowledge(asked.rehearse) if asked.call == "knowledge" else plan.speed(asked.rehearse, asked.data)
    chosen = [step for step in steps if not asked.only or step.name in asked.only]
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
    print(f"\n{after().read_text()}\nwritten: {results}")
    return 0 if done else 1


def prepare(asked: argparse.Namespace) -> int:
    """Compiles all kernels that the calls need, and builds the variants; 1 where something is left out."""
    from gpu import prepared, variants

    prepared.compile_all(asked.prepared / prepared.CUBINS, asked.capabilities, prepared.KERNELS)
    failed = [] if asked.no_variants else variants.prepare_all(asked.prepared, WORK, asked.capabilities[:1])
    print("\n".join([*failed, f"prepared: {asked.prepared}"]))
    return int(bool(failed))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    commands = made.add_subparsers(dest="call", required=True)
    for name in plan.CALLS:
        each = commands.add_parser(name)
        each.add_argument("--out", type=Path, help="folder for the results; default: benches/results/gpu-DEVICE-DATE")
        each.add_argument("--seconds", type=float, default=540.0, help="for all of it")
        each.add_argument("--only", nargs="+", default=[], metavar="STEP", help="these steps alone")
        each.add_argument("--rehearse", action="store_true", help="on the CPU, tiny: no figure means anything")
        each.add_argument("--prepared", type=Path, default=PREPARED, help="the folder that `prepare` filled")
        each.add_argument("--data", help="folder with CIFAR-100, for the training of call 2")
    each = commands.add_parser("prepare")
    each.add_argument(
        "--capabilities", nargs="+", default=["9.0", "8.0"], help="of the GPUs; variants are for the first alone"
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
