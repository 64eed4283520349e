"""`benches/gpu_check.py` without a GPU: both calls rehearsed, and what a call does with a step that fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

ROOT = Path(__file__).parents[1]
BENCHES = ROOT / "benches"
sys.path.append(str(BENCHES))

import gpu_peers  # noqa: E402
import peers  # noqa: E402
from gpu import bare, clocks, plan, predictions, prepared, records, reproduce, table, variants  # noqa: E402
from gpu.reproduce import PROGRAM, take_over  # noqa: E402
from gpu.runner import GRACE, LOGGED, Runner, Step  # noqa: E402

from .conftest import Emulate  # noqa: E402
from .ptx.kernels import OPERANDS, WGMMA  # noqa: E402

Record = dict[str, Any]


def environment() -> dict[str, str]:
    """With pretended tools of NVIDIA's on the path."""
    path = os.pathsep.join([str(ROOT / "tests" / "nvidia_tools"), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}


class Rehearsal(NamedTuple):
    """What a rehearsed call left."""

    status: int
    output: str
    results: list[Record]
    report: str
    folder: Path

    def of(self, kind: str, **wanted: object) -> list[Record]:
        """The results of a kind."""
        return list(records.of(self.results, kind, **wanted))


@pytest.fixture(scope="module")
def rehearsals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rehearsal]:
    """Both calls, side by side."""
    folder = tmp_path_factory.mktemp("gpu_check")
    # What was prepared comes in an archive.
    cubins = folder / "prepared" / prepared.CUBINS
    cubins.mkdir(parents=True)
    (cubins / prepared.MANIFEST).write_text(json.dumps({**prepared.ingredients(), "files": []}))
    prepared.pack(cubins.parent, [prepared.CUBINS, "variants"])
    shutil.rmtree(cubins)
    running = {}
    for call in plan.CALLS:
        command = [sys.executable, BENCHES / "gpu_check.py", call, "--rehearse", "--seconds", "1500"]
        command += ["--out", folder / call, "--prepared", folder / "prepared"]
        running[call] = subprocess.Popen(
            command, env=environment(), cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    found = {}
    for call, process in running.items():
        output = process.communicate()[0]
        results, report = records.read(folder / call / "results.jsonl"), (folder / call / "report.md").read_text()
        found[call] = Rehearsal(process.returncode, output, results, report, folder / call)
    return found


@pytest.mark.parametrize("call", plan.CALLS)
def test_a_call_is_rehearsed(call: str, rehearsals: dict[str, Rehearsal]) -> None:
    found = rehearsals[call]
    steps = plan.knowledge(True) if call == "knowledge" else plan.speed(True, None)
    ended = {record["step"]: record["status"] for record in found.of("step")}
    assert ended == {step.name: "done" for step in steps}, found.output
    assert found.status == 0
    assert {path.name for path in found.folder.iterdir()} - {"pretended"} == {
        "results.jsonl", "report.md", "clocks.csv", "log.txt"
    }  # fmt: skip
    assert "no GPU: a rehearsal on the CPU" in found.report
    assert f"torch {torch.__version__.partition('+')[0]}" in found.report
    assert found.of("machine")[0]["versions"]["torch"] in torch.__version__
    assert {record["what"] for record in found.of("rate")} == {"bfloat16", "float16", "tf32", "float32", "copy"}
    # The clock was logged while steps ran.
    assert "1755 MHz, 612 W" in found.report


def test_what_the_first_call_finds(rehearsals: dict[str, Rehearsal]) -> None:
    found = rehearsals["knowledge"]
    assert "- prepared kernels: this extension's" in found.report
    agreement = found.of("agreement")
    assert {(r["dtype"], r["rows"]) for r in agreement} == {
        (dtype, rows) for dtype in ("bfloat16", "float32", "tf32") for rows in (64, 254)
    }
    assert all(record["agrees"] and record["bits_equal"] for record in agreement)
    assert [record["data"] for record in found.of("own")] == ["shuffled", "periodic"]
    assert all(record["eager_ms"] > 0 and record["graph_ms"] > 0 and record["kernels"] for record in found.of("own"))
    losses = found.of("loss")
    assert {(record["name"], record["dtype"]) for record in losses} == {
        (name, dtype)
        for name in ("clip_loss", "supcon_loss", "hex_loss", "elimination", "margin", "lists", "own negatives")
        for dtype in ("bfloat16", "float32")
    }
    assert all(record["agrees"] for record in losses), losses
    assert all(record["eager_ms"] > 0 and record["graph_ms"] > 0 for record in found.of("loss time"))
    timed = [(record["name"], record["dtype"]) for record in found.of("loss time")]
    names = ("clip_loss", "supcon_loss", "hex_loss")
    assert timed == [(record["name"], record["dtype"]) for record in losses if record["name"] in names]
    peers = found.of("peer")
    assert [record["name"] for record in peers if record["step"] == "peers 8192"] == [
        "HexLoss", "HexLoss, in a graph", "NTXentLoss", "Triton tiled InfoNCE", "eager, topk, where",
        "compiled, topk, where", "compiled in a graph, topk, where", "chunked torch ops", "eager, topk",
        "lightly NTXentLoss (restated)", "compiled, topk", "eager, torch.quantile",
    ]  # fmt: skip
    without_triton = [record for record in peers if "Triton" not in record["name"]]
    assert all(record.get("agrees") for record in without_triton), without_triton
    assert {"hex", "ntxent", "hcl", "moco"} == {record["group"] for record in without_triton}
    hosts = found.of("host")
    assert {record["part"].partition(":")[0] for record in hosts} == {
        "HexLoss", "a function that does nothing", "an operator that does nothing", "one kernel of torch's",
        "compiled, topk, where",
    }  # fmt: skip
    assert len(hosts) == 3 * 4 + 2
    assert all(record["host_us"] > 0 and record["whole_us"] > 0 for record in hosts)
    assert "| 64 | HexLoss: step, autograd in the calling thread |" in found.report
    tests = found.of("test")
    assert len(tests) >= 3
    assert {record["outcome"] for record in tests} == {"passed"}
    assert [record["clean"] for record in found.of("sanitizer", tool="memcheck")] == [True]
    assert len(found.of("coverage")[0]["missing"]) == found.of("coverage")[0]["kernels"]  # the CPU launches none
    counters = found.of("counters")
    assert [record["kernel"] for record in counters] == ["rows", "sample", "sift", "gather", "gradient"]
    assert all(record["ns"] == 1234.5 and "memory %" not in record for record in counters)
    parts = [record["part"] for record in found.of("training")]
    assert len(set(parts)) >= 5
    assert parts.count("bare step") == 2, "at once, and in the table"
    assert all(record["ms"] > 0 and record["images_per_second"] > 0 for record in found.of("training"))
    assert found.report.count("not measured | - |") >= 10
    assert "NOT MET" not in found.report


def test_what_the_second_call_finds(rehearsals: dict[str, Rehearsal]) -> None:
    found = rehearsals["speed"]
    variants_found = found.of("variant")
    assert [(record["name"], record["agrees"]) for record in variants_found] == [
        ("columns-32", True),
        ("no-products", None),
        ("mma", True),
    ]
    assert all(record["ratio"] > 0 and record["kernels"] and record["shipped_kernels"] for record in variants_found)
    (winner,) = {record["variant"] for record in found.of("counters")}
    assert winner in ("columns-32", "mma")
    assert "hex-ssl reproduce cifar100 --scale smoke: exit 0" in found.report


def test_the_training_needs_no_parser_of_options(tmp_path: Path) -> None:
    program = f"import sys\nsys.modules['jsonargparse'] = None\n{PROGRAM}"
    arguments = [sys.executable, "-c", program, "smoke", str(tmp_path), "0"]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the time limit is reached: 0 stopped" in done.stdout


def test_runs_of_earlier_calls_are_not_run_again(tmp_path: Path) -> None:
    earlier, folder = tmp_path / "results", tmp_path / "reproduce"
    for name, call in (("gpu-one", "speed"), ("gpu-two", "again")):
        (earlier / name / call).mkdir(parents=True)
        for file in ("results.jsonl", "run/metrics.jsonl"):
            record = {"step": "reproduce", "kind": "run", "file": file, "content": {"key": f"{name} {file}"}}
            records.append(earlier / name / call / "results.jsonl", record)
    take_over(earlier, folder)
    found = [json.loads(line)["key"] for line in (folder / "results.jsonl").read_text().splitlines()]
    assert found == ["gpu-one results.jsonl", "gpu-two results.jsonl"]
    (folder / "results.jsonl").write_text("{}\n")
    take_over(earlier, folder)
    assert (folder / "results.jsonl").read_text() == "{}\n", "what is there stays"


# A training that finishes one run, and does not end when it is interrupted.
STUBBORN = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[2])
signal.signal(signal.SIGINT, lambda *_: (folder / "interrupted").touch())
(folder / "run").mkdir()
(folder / "run" / "metrics.jsonl").write_text('{"epoch": 1}\\n{"epoch": 2}\\n{"epo')
(folder / "results.jsonl").write_text('{"key": "finished"}\\n')
while True:
    time.sleep(1000)
"""


def test_a_training_that_does_not_end_leaves_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, folder = tmp_path / "found.jsonl", tmp_path / "runs"
    folder.mkdir()

    def left() -> float:
        """Much until a run is finished, then little, and none once it has been interrupted."""
        if not (folder / "results.jsonl").exists():
            return 1000.0
        return 0.0 if (folder / "interrupted").exists() else reproduce.MARGIN - 1

    monkeypatch.setenv(records.RESULTS, str(results))
    monkeypatch.setattr(reproduce, "PROGRAM", STUBBORN)
    monkeypatch.setattr(reproduce, "left", left)
    reproduce.train("gpu", folder, 1.0)
    finished, note, metrics = records.read(results)
    assert (finished["file"], finished["content"]) == ("results.jsonl", {"key": "finished"})
    assert note["text"] == "hex-ssl reproduce cifar100 --scale gpu: exit -9: "
    assert (metrics["file"], metrics["content"]) == ("run/metrics.jsonl", {"epoch": 2})


# Steps that do what a step must not.
FAULTY = """
import os, signal, subprocess, sys, time
from gpu.records import emit
what = sys.argv[1]
if what == "crash":
    emit("before", text="written before the crash")
    os.kill(os.getpid(), signal.SIGSEGV)
elif what == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    emit("child", pid=child.pid)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
elif what == "fail":
    raise RuntimeError("its last words")
elif what == "work":
    emit("work", text="done")
elif what == "much":
    print("the first words", "x" * 1_000_000, "the last words")
elif what == "half":
    emit("work", text="done")
    with open(os.environ["GPU_CHECK_RESULTS"], "a") as results:
        results.write('{"step": "half", "ki')
        results.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of results; `faulty` is a module of steps."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def step(what: str, limit: float = 600.0, least: float = 1.0) -> Step:
    """A step of that module."""
    return Step(what, ("faulty", what), limit, least)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_a_step_that_fails_costs_itself_alone(faulty: Path) -> None:
    steps = [step("crash"), step("hang", 4), step("nothing"), step("fail"), step("work")]
    assert not Runner(faulty, 1000, {}).run(steps)
    results = records.read(faulty / "results.jsonl")
    ended = {record["step"]: record["status"] for record in records.of(results, "step")}
    assert ended == {
        "crash": "SIGSEGV", "hang": "time limit", "nothing": "nothing written", "fail": "failed", "work": "done"
    }  # fmt: skip
    assert [record["text"] for record in records.of(results, "before")] == ["written before the crash"]
    (failed,) = records.of(results, "step", step="fail")
    assert failed["reason"].endswith("RuntimeError: its last words")
    assert not any(is_running(record["pid"]) for record in records.of(results, "child"))
    # The table is written of whatever there is.
    page = table.write(faulty, "knowledge", "command").read_text()
    for words in ("| crash | SIGSEGV |", "| hang | time limit |", "its last words", "The machine was not described."):
        assert words in page


def test_steps_that_run_together(faulty: Path) -> None:
    steps = [step("work"), *(replace(step(what), together="all") for what in ("crash", "fail", "work")), step("work")]
    assert not Runner(faulty, 1000, {}).run(steps)
    results = [
        (record["step"], record["status"]) for record in records.of(records.read(faulty / "results.jsonl"), "step")
    ]
    assert (results[0], results[-1]) == (("work", "done"), ("work", "done"))
    assert sorted(results[1:-1]) == [("crash", "SIGSEGV"), ("fail", "failed"), ("work", "done")]
    log = (faulty / "log.txt").read_text()
    assert log.count("===== work\n") == 3
    assert "===== fail\nTraceback" in log


def test_much_that_is_printed_is_cut(faulty: Path) -> None:
    Runner(faulty, 1000, {}).run([step("much"), step("much")])
    log = (faulty / "log.txt").read_text()
    assert 2 * LOGGED < len(log) < 2 * LOGGED + 1000
    assert log.count("the first words xx") == log.count("xx the last words") == 2
    assert f"\n[{1_000_000 + 32 - LOGGED} bytes are left out]\n" in log


def test_half_a_line_and_a_page_that_cannot_be_written(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def after() -> None:
        raise ValueError("no page")

    assert not Runner(faulty, 1000, {}, after).run([step("work"), step("half"), step("work")])
    results = records.read(faulty / "results.jsonl")
    assert [(record["step"], record["kind"]) for record in results][:3] == [
        ("work", "work"), ("work", "step"), ("half", "work")
    ]  # fmt: skip
    assert [record["status"] for record in records.of(results, "step", step="work")] == ["done", "done"]
    assert "ValueError: no page" in capsys.readouterr().err


def test_the_budget_holds(faulty: Path) -> None:
    Runner(faulty, GRACE + 3, {}).run([step("work", 2), step("hang"), step("work"), step("hang", 2)])
    results = list(records.of(records.read(faulty / "results.jsonl"), "step"))
    # How many seconds are left for which step is the machine's; that none gets more than there are, and that what has
    # no time left is told, is not.
    assert results[1]["limit"] <= 3
    assert results[1]["status"] in ("time limit", "skipped")
    assert [record["status"] for record in results[2:]] == ["skipped", "skipped"]
    assert results[2]["reason"].endswith("seconds left")
    assert sum(record["seconds"] for record in results) >= 0


def test_an_interrupted_call_leaves_its_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, BENCHES / "gpu_check.py", "knowledge", "--rehearse", "--seconds", "1500"]
    process = subprocess.Popen(
        [*command, "--out", out, "--only", "machine", "training"],
        env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    while not any(records.of(records.read(out / "results.jsonl"), "step", step="machine")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 1, output
    report = (out / "report.md").read_text()
    assert "- call: interrupted by SIGTERM" in report
    assert "| machine | done |" in report
    again = subprocess.run([*command, "--out", out], capture_output=True, text=True, check=False)
    assert again.stderr == f"expected `--out` to be a folder without results, but {out} has some\n"
    assert again.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["knowledge", "--only", "peer"], "expected `--only` to name steps (machine, agreement bfloat16, "),
        (["speed", "--data", "no/folder"], "argument --data: expected a folder, but there is no no/folder"),
        (["prepare", "--capabilities", "90"], 'expected a compute capability such as 9.0, but got "90"'),
    ],
)
def test_what_is_asked_for_must_be_there(arguments: list[str], text: str, tmp_path: Path) -> None:
    command = [sys.executable, BENCHES / "gpu_check.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert text in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_not_in_agreement() -> None:
    from gpu import agreement
    from tests.gpu.on_device import Step as Found

    expected = Found(torch.tensor(2.0), torch.tensor(0.5), torch.randn(20, 8, dtype=torch.float64))
    assert agreement.agrees(agreement.errors(expected, expected), "float32")
    worse = [
        expected._replace(loss=expected.loss * 1.001),
        expected._replace(threshold=expected.threshold + 1e-4),
        expected._replace(gradient=expected.gradient * 1.02),
        expected._replace(gradient=expected.gradient.index_fill(0, torch.tensor([3]), float("nan"))),
    ]
    for found in worse:
        for dtype in ("float32", "bfloat16"):
            assert not agreement.agrees(agreement.errors(found, expected), dtype)


def test_memory_is_poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import agreement

    monkeypatch.setattr(agreement, "DEVICE", torch.device("cpu"))
    with agreement.poisoned():
        assert torch.empty(100).isnan().all()
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    with pytest.raises(RuntimeError, match="to be filled with NaN"), agreement.poisoned():
        pass
    assert not torch.are_deterministic_algorithms_enabled()


# In place of an interpreter of the kernels: it notes their names and variants and computes nothing.
NOTED = """
#include <cstdio>
#include <cstdlib>
extern "C" int hex_emulate(const char* operand, unsigned dims, const char* kernel, const unsigned*, unsigned, unsigned,
                           void**, char*, std::size_t) {
    std::FILE* file = std::fopen(std::getenv("NOTED"), "a");
    std::fprintf(file, "%s %s %u\\n", kernel, operand, dims);
    return std::fclose(file);
}
"""


@pytest.fixture(scope="module")
def noting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that notes which kernels of which variant are launched, in the file that the variable NOTED names."""
    folder = tmp_path_factory.mktemp("noting")
    (folder / "noting.cpp").write_text(NOTED)
    command = [os.environ.get("CXX", "g++"), "-shared", "-fPIC", "noting.cpp", "-o", "noting.so"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "noting.so"


@pytest.mark.parametrize("with_wgmma", [False, True])
def test_the_sanitizers_script_launches_every_kernel(with_wgmma: bool, noting: Path, tmp_path: Path) -> None:
    from gpu import sanitizer

    name = "sm_90a coverage" if with_wgmma else "coverage"
    (step,) = [step for step in plan.knowledge(False) if step.name == name]
    _, what, *sizes = step.command
    assert what == "coverage"
    told = {"HEX_SSL_BACKEND": "emulated", "HEX_SSL_CUDA_EMULATOR": str(noting), "NOTED": str(tmp_path / "noted")}
    paths = os.pathsep.join([str(BENCHES), str(ROOT / "python"), str(ROOT)])
    run = environment() | step.environment | told | {"PYTHONPATH": paths, records.REHEARSE: "1"}
    done = subprocess.run(
        [sys.executable, "-m", "gpu.bare", "--every", *sizes], env=run, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    launched = {line.split()[0] for line in (tmp_path / "noted").read_text().splitlines()}
    for_wgmma = {kernel for kernel in sanitizer.kernels() if kernel.endswith("_wgmma")} | {"note_coefficients"}
    assert sanitizer.kernels() - launched == (set() if with_wgmma else for_wgmma)


@pytest.mark.parametrize("with_wgmma", [False, True])
def test_the_sanitizers_script_gives_work_to_every_kernel(
    with_wgmma: bool, emulate: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu import missed, workload

    for module in (bare, workload):
        monkeypatch.setattr(module, "DEVICE", torch.device("cpu"))
    emulate(torch.bfloat16, workload.DIMS, wgmma=with_wgmma)
    assert missed.ever(lambda: bare.repeated(1026)) == (True, True)


def test_the_kernels_of_the_tests_on_a_gpu_are_prepared(noting: Path, tmp_path: Path) -> None:
    # Those that can be rehearsed. They fail, as nothing is computed.
    told = {"HEX_SSL_GPU_REHEARSAL": "emulated", "HEX_SSL_CUDA_EMULATOR": str(noting), "NOTED": str(tmp_path / "noted")}
    run = environment() | told | {"PYTHONPATH": str(ROOT / "python")}
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-k", "not compile", "-q", "--tb=no"]
    subprocess.run([*command, "-p", "no:cacheprovider"], env=run, cwd=ROOT, capture_output=True, check=False)
    lines = (tmp_path / "noted").read_text().splitlines()
    # The kernels for sm_90a are prepared beside the others.
    used = {(operand.removesuffix(WGMMA), dims) for _, operand, dims in map(str.split, lines)}
    names = {(dtype, tf32): operand for operand, (dtype, tf32) in OPERANDS.items()}
    there = {(names[getattr(torch, dtype), tf32], str(dims)) for dtype, tf32, dims in prepared.KERNELS}
    assert {("BF16", "256"), ("F16", "256"), ("SPLIT_TF32", "32")} < used
    assert used <= there


def test_what_a_script_gives_no_work_is_not_covered() -> None:
    from gpu import sanitizer

    assert sanitizer.idle(missed_any=True, reran_any=True) == set()
    assert sanitizer.idle(missed_any=False, reran_any=True) == {"select_failed", "select_wgmma"}
    assert sanitizer.idle(missed_any=True, reran_any=False) == {"sums", "sums_wgmma"}
    assert sanitizer.kernels() >= sanitizer.SEARCH_ALL | sanitizer.SUM_AGAIN


def test_racecheck_leaves_the_cpu_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import sanitizer

    commands: list[list[str]] = []

    def run(command: list[str], *_: object, **__: object) -> tuple[int, str]:
        commands.append(command)
        return 1, ""

    monkeypatch.setattr(sanitizer.toolbox, "find", lambda name: name)
    monkeypatch.setattr(sanitizer.toolbox, "run", run)
    for tool in ("memcheck", "racecheck"):
        sanitizer.check(tool, ["64"])
    option = "--racecheck-num-workers"
    assert [command[command.index(option) + 1] if option in command else None for command in commands] == [None, "2"]


def test_what_is_worth_most_fits_into_a_call() -> None:
    # A quarter of an hour has both calls, two minutes of a start, and copies.
    assert sum(plan.CALLS.values()) <= 900 - 120 - 60
    left, last = plan.CALLS["knowledge"] - GRACE, "own times, mma.sync"
    steps = plan.knowledge(rehearse=False)
    names = [step.name for step in steps]
    for together, group in groupby(steps[: names.index(last) + 1], lambda step: step.together):
        limits = [step.limit for step in group]
        left -= max(limits) if together else sum(limits)
    assert left > 0, "even if each of these takes as long as it may"


def test_the_tests_that_need_a_gpu_come_first() -> None:
    first, *_ = plan.TESTS
    assert first == "tests/gpu/test_runtime.py"
    assert sorted(plan.TESTS) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/gpu").glob("test_*.py"))


HEAD = "========= COMPUTE-SANITIZER\n"
RACE = "========= Error: Race reported between Write access at sums+0x70\n"


@pytest.mark.parametrize(
    ("code", "output", "clean"),
    [
        (0, HEAD + bare.ENDED + "\n========= ERROR SUMMARY: 0 errors\n", True),
        (0, HEAD + bare.ENDED + "\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", True),
        (
            9,
            HEAD + RACE + bare.ENDED + "\n========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n",
            False,
        ),
        # Warnings are no errors to the tool.
        (0, HEAD + bare.ENDED + "\n========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)\n", False),
        (9, HEAD + "========= Invalid __global__ read\n========= ERROR SUMMARY: 20 errors\n", False),
        # The tool has not seen the script, or the card refuses it.
        (0, HEAD + "========= ERROR SUMMARY: 0 errors\n", None),
        (1, HEAD + "RuntimeError: CUDA error 999\n========= ERROR SUMMARY: 0 errors\n", None),
        (0, HEAD + bare.ENDED, None),
        (124, HEAD, None),
        (124, HEAD + RACE, False),
    ],
)
def test_what_a_sanitizer_says(code: int, output: str, clean: bool | None) -> None:
    from gpu import sanitizer

    assert sanitizer.verdict(code, output) is clean


def test_tools_are_found_where_the_toolkit_puts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import toolbox

    for version in ("2024.1", "2025.3.1"):
        tool = tmp_path / version / "ncu"
        tool.parent.mkdir()
        tool.touch(mode=0o755)
    monkeypatch.setattr(toolbox, "FOLDERS", (str(tmp_path / "none"), str(tmp_path / "*")))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert toolbox.find("ncu") == str(tool)
    assert toolbox.find("nsys") is None


def test_a_failed_test_is_told_with_its_step() -> None:
    told = {"kind": "test", "test": "test_one", "said": "words"}
    lines = table.suite([{**told, "step": name, "outcome": outcome} for name, outcome in
                         (("tests", "passed"), ("sm_90a tests", "failed"))])  # fmt: skip
    assert lines == ["1 passed, 1 failed, 0 skipped.", "- sm_90a tests: test_one: failed: 'words'"]


def test_a_compiled_peer_tells_of_graphs_that_were_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import beside, workload

    def compiled() -> peers.Loss:
        beside.counters["inductor"]["cudagraph_skips"] += 2
        return lambda z1, z2: (z1 * z2).sum()

    for name, value in (("REHEARSAL", True), ("DEVICE", torch.device("cpu"))):
        monkeypatch.setattr(workload, name, value)
    told = {"kind": "peer", "rows": 8, "dtype": "float32", "shape": "", "group": "", "agrees": True}
    found = beside.measure(beside.Peer("compiled", "", compiled), workload.views(8, "float32"))
    assert found["skipped_graphs"] == 2
    assert "| compiled (but not captured) |" in table.peers([{**told, **found, "name": "compiled"}])[2]
    found = beside.measure(beside.Peer("plain", "", lambda: torch.dot), (torch.ones(3), torch.ones(3)))
    assert found["skipped_graphs"] == 0
    assert "| plain |" in table.peers([{**told, **found, "name": "plain"}])[2]


@pytest.mark.parametrize(("precision", "tuned"), [("tf32", 3), (gpu_peers.EXACT, 1)])
def test_the_triton_peer_compiles_what_fits(precision: str, tuned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(gpu_peers, "INTERPRETED", False)
    kernels = gpu_peers._Kernels()
    for kernel in (kernels.sums, kernels.pulls):
        kernel.nargs = {}
        assert len(kernel.prune_configs({"rows": 8192, "dims": 128, "splits": 1, "precision": precision})) == tuned


def judged(results: list[Record], text: str, card: str = "NVIDIA H200") -> bool | None:
    """Whether the one target whose text begins so is met on a card."""
    machine = {"kind": "machine", "card": {"name": card}}
    (met,) = [met for target, _, met in predictions.judged([machine, *results]) if target.startswith(text)]
    return met


def own(rows: int, ms: float, **told: object) -> Record:
    """A result of the step for HexLoss's own times."""
    record = {"kind": "own", "step": "own times", "rows": rows, "dims": 128, "dtype": "bfloat16", "data": "shuffled"}
    return {**record, "eager_ms": ms, "graph_ms": ms, "bytes": 90_000_000, "kernels": {}, "missed": 3, **told}


def peer(name: str, rows: int, ms: float) -> Record:
    """A result of a step for peers."""
    return {"kind": "peer", "name": name, "rows": rows, "dtype": "bfloat16", "shape": "", "group": "hex", "ms": ms}


def test_targets() -> None:
    assert all(met is None for _, _, met in predictions.judged([]))
    well, badly = (own(8192, ms, step=predictions.MMA_STEP) for ms in (0.58, 0.59))
    assert judged([well], "8192 rows, mma.sync") is True
    assert judged([badly], "8192 rows, mma.sync") is False
    rate = {"kind": "rate", "what": "bfloat16", "per_second": 800e12}  # the floor is 4.12 ms
    fast, slow = (own(65536, ms, step=predictions.WGMMA_STEP) for ms in (8.2, 8.3))
    assert judged([rate, fast], "65536 rows, wgmma") is True
    assert judged([rate, slow], "65536 rows, wgmma") is False
    assert judged([fast], "65536 rows, wgmma") is None
    assert judged([own(65536, 9.0)], "65536 rows: under 100 MB") is True
    assert judged([own(65536, 9.0, bytes=123_000_000)], "65536 rows: under 100 MB") is False
    ours = peer("HexLoss", 8192, 0.5)
    eager = [peer("eager, topk", 8192, 8.0), peer("eager, topk, where", 8192, 7.4)]
    assert judged([ours, eager[0]], "8192 rows: at least 15 x the best eager") is True
    assert judged([ours, *eager], "8192 rows: at least 15 x the best eager") is False
    assert judged([ours, peer("compiled, topk", 8192, 2.0)], "8192 rows: at least 4 x torch.compile") is True
    assert judged([ours, peer("Triton tiled InfoNCE", 8192, 0.4)], "8192 rows: faster than the Triton") is False
    assert judged([own(512, 0.04)], "512 rows, in a graph: at most") is True
    assert judged([own(512, 0.05)], "512 rows, in a graph: at most") is False
    assert judged([own(512, 0.2)], "512 rows, without a graph") is False
    clean = [{"kind": "sanitizer", "tool": name, "clean": True} for name in ("memcheck", "racecheck")]
    assert judged([*clean, {"kind": "coverage", "missing": []}], "compute-sanitizer") is True
    assert judged([*clean, {"kind": "coverage", "missing": ["maxima"]}], "compute-sanitizer") is False
    parts = [{"kind": "coverage", "missing": ["wgmma_sums"]}, {"kind": "coverage", "missing": ["sums"]}]
    assert judged([*clean, *parts], "compute-sanitizer") is True
    assert judged(clean[:1], "compute-sanitizer") is None
    assert judged([clean[0], {**clean[1], "clean": None}, parts[0]], "compute-sanitizer") is None
    right = {"kind": "agreement", "dtype": "bfloat16", "rows": 512, "agrees": True, "bits_equal": True}
    assert judged([right], "agreement") is None
    assert judged([right, {**right, "bits_equal": False}], "agreement") is False
    # Speeds are those of two cards, the rest is for all.
    for card, expected in (("NVIDIA H100 80GB HBM3", False), ("NVIDIA A100-SXM4-80GB", None)):
        assert judged([own(512, 0.2)], "512 rows, without a graph", card) is expected
        assert judged([{**right, "agrees": False}], "agreement", card) is False


def test_clocks_of_a_step(tmp_path: Path) -> None:
    lines = ["2026/11/26 19:00:00.000, 345, 2619, 80.5, 30, 0"]
    lines += [f"2026/11/26 19:00:0{second}.000, {1700 + second}, 2619, 60{second}.5, 50, 98" for second in (1, 2, 3)]
    (tmp_path / "clocks.csv").write_text("\n".join([*lines, "No devices were found", "2026/11/26 19:0"]))
    rows = clocks.read(tmp_path)
    assert len(rows) == 4
    start = rows[0][0]
    assert clocks.during(rows, start, 10) == "1702 MHz, 604 W"
    assert clocks.during(rows, start, 0.5) == "-"


def test_every_variant_is_of_these_sources(tmp_path: Path) -> None:
    for variant in variants.VARIANTS:
        shutil.copytree(ROOT / "src" / "cuda", tmp_path / "src" / "cuda", dirs_exist_ok=True)
        variants.apply(variant, tmp_path)
        changed = [
            path
            for path in (ROOT / "src" / "cuda").rglob("*.*")
            if path.read_text() != (tmp_path / path.relative_to(ROOT)).read_text()
        ]
        assert len(changed) == len({change.files for change in variant.changes})
    unknown = variants.Variant("unknown", "nothing", (variants.size("COLUMN", 3),))
    with pytest.raises(ValueError, match=r"unknown: expected .* once in kernels/parameters.cu, but found 0"):
        variants.apply(unknown, tmp_path)


CHANGED = [variant for variant in variants.VARIANTS if variant.changes]
UNCHANGED = [variant for variant in variants.VARIANTS if not variant.changes]


@pytest.mark.parametrize("variant", [CHANGED[0], UNCHANGED[0]], ids=lambda variant: variant.name)
def test_a_variant_and_the_shipped_kernels_are_timed_alike(
    variant: variants.Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu import speed, workload
    from gpu.extension import Watched
    from hex_ssl import _core, direct

    loaded: list[Path] = []
    watched = []

    def load(path: Path) -> object:
        loaded.append(path)
        return _core

    def sample(run: workload.Run, calls: int) -> float:
        watched.append(isinstance(direct._core, Watched))
        run()
        return 1.0

    monkeypatch.setenv("HEX_SSL_BACKEND", "cpu")
    monkeypatch.setenv(speed.PREPARED, "")
    for name, value in (("REHEARSAL", True), ("DEVICE", torch.device("cpu"))):
        monkeypatch.setattr(workload, name, value)
    monkeypatch.setattr(speed, "load", load)
    monkeypatch.setattr(speed, "kernel_times", lambda run: {"loss": run()})
    monkeypatch.setattr(speed, "sample", sample)
    found = speed.measure(variant, 64)
    assert loaded == ([speed.extension(variant)] if variant.changes else []), "the installed one is there already"
    assert watched == 2 * speed.TURNS * [True]
    assert (found["ratio"], found["agrees"]) == (1.0, True)


def test_a_variant_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def extension(variant: variants.Variant, work: Path) -> Path:
        built.append(variant.name)
        return variants.INSTALLED

    monkeypatch.setattr(variants, "extension", extension)
    monkeypatch.setattr(prepared, "compile_all", lambda *arguments: None)
    monkeypatch.setattr(variants, "INSTALLED", Path(shutil.copy(variants.INSTALLED, tmp_path)))
    one, other = (variant for variant in CHANGED if variant.name in ("columns-32", "chunk-64"))
    assert variants.problem(one, tmp_path) == "not prepared"
    for variant in (one, other, one, replace(one, changes=other.changes), UNCHANGED[0]):
        variants.prepare(variant, tmp_path, tmp_path / "work", ["9.0"])
        assert variants.problem(variant, tmp_path) == ""
        with variants.INSTALLED.open("ab") as installed:  # as another build of the same sources may be
            installed.write(b" ")
    assert built == [one.name, other.name, one.name]
    assert variants.problem(one, tmp_path).endswith("in another form: prepare it again")

    # What was interrupted is built again.
    (tmp_path / variants.VARIANTS_FOLDER / other.name / variants.MADE_FROM).unlink()
    variants.prepare(other, tmp_path, tmp_path / "work", ["9.0"])
    assert built[-1] == other.name


def test_what_a_variant_is_built_from(tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    variants.copy_sources(root)
    variant = CHANGED[0]
    expected = variants.made_from(variant)
    assert variants.made_from(variant, root) == expected
    (root / "README.md").touch()
    assert variants.made_from(variant, root) == expected
    for name in ("src/lib.rs", "src/cuda/kernels/sums.cu", "Cargo.lock", ".cargo/config.toml"):
        with (root / name).open("a") as source:
            source.write(" ")
        found = variants.made_from(variant, root)
        assert found != expected, name
        expected = found
    (root / "src" / "more.rs").touch()
    assert variants.made_from(variant, root) != expected


@pytest.mark.parametrize("name", ["sources", "nvrtc", None])
def test_kernels_of_other_sources_are_removed(name: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "cubins"
    prepared.clear(folder)
    folder.mkdir()
    (folder / "a.cubin").touch()
    prepared.clear(folder)  # an interrupted preparation
    manifest = {**prepared.ingredients(), "files": ["a.cubin"]}
    (folder / prepared.MANIFEST).write_text(json.dumps(manifest if name is None else {**manifest, name: "another"}))
    assert (folder / "a.cubin").exists()
    prepared.clear(folder)
    assert (folder / "a.cubin").exists() == (name is None)


def test_other_variants_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = []
    monkeypatch.setattr(variants, "prepare", lambda variant, *others: ready.append(variant.name))
    for name in (CHANGED[0].name, UNCHANGED[0].name, "renamed"):
        (tmp_path / variants.VARIANTS_FOLDER / name).mkdir(parents=True)
    assert variants.prepare_all(tmp_path, tmp_path / "work", ["9.0"]) == []
    assert ready == [variant.name for variant in variants.VARIANTS]
    assert [path.name for path in (tmp_path / variants.VARIANTS_FOLDER).iterdir()] == [CHANGED[0].name]


def test_an_archive_is_unpacked_once(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("cubins/a.cubin", "variants/one/extension", "reproduce/results.jsonl"):
        (here / name).parent.mkdir(parents=True)
        (here / name).write_text(name)
    prepared.unpack(here)
    prepared.pack(here, ["cubins", "variants", "none"])
    there.mkdir()
    shutil.copy(here / prepared.ARCHIVE, there)
    prepared.unpack(there)
    files = {str(path.relative_to(there)): path for path in there.rglob("*") if path.is_file()}
    assert files.keys() == {prepared.ARCHIVE, "cubins/a.cubin", "variants/one/extension"}
    files["cubins/a.cubin"].write_text("newer")
    prepared.unpack(there)
    assert files["cubins/a.cubin"].read_text() == "newer"


@pytest.mark.parametrize("core", [False, True])
def test_kernels_for_sm_90a_are_compiled_once(core: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    class Extension:
        """One that compiles nothing."""

        def cuda_cubin(self, *arguments: object, wgmma: bool = False) -> tuple[bytes, bool]:
            compiled.append(wgmma)
            return b"", False

    monkeypatch.setenv("HEX_SSL_CACHE", "")
    monkeypatch.setattr(prepared, "installed", Extension)
    monkeypatch.setattr(prepared, "ingredients", dict)
    prepared.compile_all(tmp_path, ["9.0"], prepared.KERNELS[:1], Extension() if core else None)
    assert compiled == ([False] if core else [False, True])


@pytest.mark.parametrize(("part", "text"), [("sources", "an extension of other sources"), ("nvrtc", "another NVRTC")])
def test_kernels_of_something_else_are_told(
    part: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEX_SSL_CACHE", str(tmp_path))
    assert prepared.state() == {
        "matches": False, "reason": "nothing was prepared: kernels are compiled when first used"
    }  # fmt: skip
    (tmp_path / "other.cubin").write_bytes(b"compiled by a call")
    manifest = {**prepared.ingredients(), "files": []}
    (tmp_path / prepared.MANIFEST).write_text(json.dumps({**manifest, part: "12.9"}))
    state = prepared.state()
    assert not state["matches"]
    assert str(state["reason"]).startswith(f"prepared by {text}: 12.9, not ")
    assert prepared.compiled_since(tmp_path) == ["other.cubin"]
