"""A page of what was found, beside what was predicted."""

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from gpu import clocks, predictions, records
from gpu.records import Record, of

Lines = list[str]


def grid(head: Iterable[str], rows: Iterable[Iterable[object]]) -> Lines:
    """A table in Markdown."""
    titles = list(head)
    body = ["| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles), *body] if body else ["Nothing was found."]


def number(value: float | None) -> str:
    """Three digits; a dash where there is none."""
    return "-" if value is None else f"{value:.3g}"


def megabytes(value: int | None) -> str:
    """Of bytes."""
    return "-" if value is None else f"{value / 1e6:.1f}"


def machine(results: list[Record]) -> Lines:
    """The card, versions, rates."""
    found = next(of(results, "machine"), None)
    if found is None:
        return ["The machine was not described."]
    lines = [", ".join(f"{name} {value}" for name, value in found["card"].items()) + "."]
    lines += ["", ", ".join(f"{name} {value}" for name, value in found["versions"].items()) + ".", ""]
    lines += [f"- {name}: {value}" for name, value in found["config"].items()]
    prepared = next(of(results, "prepared"), {"matches": False, "reason": "not looked at"})
    state = "this extension's" if prepared["matches"] else prepared["reason"]
    lines += [f"- prepared kernels: {state}", ""]
    rates = [
        [each["what"], f"{each['per_second'] / 1e12:.4g} T/s", number(share(each))] for each in of(results, "rate")
    ]
    return lines + grid(["rate, by torch", "found", "of the model's"], rates)


def share(rate: Record) -> float | None:
    """Of a rate in what the model took for it."""
    model = predictions.MODEL_RATES.get(rate["what"])
    return None if model is None else rate["per_second"] / model


def steps(results: list[Record], folder: Path) -> Lines:
    """How each step ended, and the card's clock meanwhile."""
    log = clocks.read(folder)
    rows = [
        [r["step"], r["status"], r["seconds"], clocks.during(log, r["begun"], r["seconds"]), r["reason"][-160:]]
        for r in of(results, "step")
    ]
    notes = [f"- {record['step']}: {record['text']}" for record in of(results, "note")]
    return [*grid(["step", "", "s", "busy at, at most", "last words"], rows), "", *notes]


def targets(results: list[Record]) -> Lines:
    """Each target of the project."""
    words = {True: "met", False: "NOT MET", None: "-"}
    judged = predictions.judged(results)
    lines = grid(["target", "found", ""], ([text, found, words[met]] for text, found, met in judged))
    return [*lines, "", f"Speeds are judged on these cards alone: {', '.join(predictions.CARDS)}."]


def agreement(results: list[Record]) -> Lines:
    """Errors against float64."""
    rows = [
        [r["step"], r["dtype"], r["rows"], *(f"{value:.1e}" for value in r["errors"].values()),
         "yes" if r["agrees"] else "NO", "equal" if r["bits_equal"] else "DIFFERENT"]
        for r in of(results, "agreement")
    ]  # fmt: skip
    head = ["step", "dtype", "rows", "loss", "threshold", "gradient", "worst row", "within tolerance", "bits of 5 runs"]
    return grid(head, rows)


def own(results: list[Record]) -> Lines:
    """HexLoss beside the model."""
    rows = []
    for r in of(results, "own"):
        usual = (r["dtype"], r["dims"]) == ("bfloat16", predictions.DIMS)
        wgmma = r["step"] == predictions.WGMMA_STEP
        model = (predictions.MODEL_WGMMA_MS if wgmma else predictions.MODEL_MS).get(r["rows"]) if usual else None
        floor = predictions.floor_ms(results, r["rows"]) if usual else None
        rows.append([r["step"], r["dtype"], r["rows"], r["data"], number(r["eager_ms"]), number(r["graph_ms"]),
                     number(model), number(predictions.ratio(r["eager_ms"], model)),
                     number(predictions.ratio(floor, r["eager_ms"])), megabytes(r["bytes"]),
                     r["missed"] if r["missed"] is not None else f"- ({r['missed_reason']})"])  # fmt: skip
    head = ["step", "dtype", "rows", "data", "eager ms", "graph ms", "model ms", "x model", "of 6 N^2 D", "MB",
            "missed rows"]  # fmt: skip
    return grid(head, rows)


def kernels(results: list[Record]) -> Lines:
    """Time by kernel."""
    rows = []
    for r in of(results, "own"):
        wgmma = r["step"] == predictions.WGMMA_STEP
        models = predictions.MODEL_KERNELS_WGMMA_MS if wgmma else predictions.MODEL_KERNELS_MS
        for name, found in list(r["kernels"].items())[:8]:
            model = models.get(name) if (r["rows"], r["dtype"]) == (65536, "bfloat16") else None
            rows.append([r["step"], r["dtype"], r["rows"], r["data"], name, number(found["us"]), found["launches"],
                         number(model and 1e3 * model)])  # fmt: skip
    return grid(["step", "dtype", "rows", "data", "kernel", "us a call", "launches", "model us"], rows)


def losses(results: list[Record]) -> Lines:
    """Two towers, SupCon and a temperature that is a tensor: errors against float64, then times."""
    errors = [
        [r["name"], r["dtype"], r["rows"], *(f"{value:.1e}" for value in r["errors"].values()),
         "yes" if r["agrees"] else "NO"]
        for r in of(results, "loss")
    ]  # fmt: skip
    times = [
        [r["name"], r["dtype"], r["rows"], number(r["eager_ms"]), number(r["graph_ms"]), megabytes(r["bytes"])]
        for r in of(results, "loss time")
    ]
    head = ["loss", "dtype", "rows", "error of the loss", "of the gradient", "of the temperature's", "within tolerance"]
    return [*grid(head, errors), "", *grid([*head[:3], "eager ms", "graph ms", "MB above the inputs"], times)]


def peers(results: list[Record]) -> Lines:
    """Everything beside HexLoss, or beside the first of its kind."""
    rows, first = [], {}
    for r in of(results, "peer"):
        shape = (r["rows"], r["dtype"], r["shape"])
        if "ms" not in r:
            rows.append([*shape, r["name"], r["problem"][:120], "", "", ""])
            continue
        ours = first.setdefault((*shape, r["group"]), r["ms"])
        agrees = "yes" if r["agrees"] else "NO"
        name = r["name"] + (" (but not captured)" if r.get("skipped_graphs") else "")
        rows.append([*shape, name, number(r["ms"]), number(r["ms"] / ours), megabytes(r.get("bytes")), agrees])
    head = ["rows", "dtype", "shape", "peer", "ms", "x ours", "MB above the inputs", "the same loss"]
    return grid(head, rows)


def host(results: list[Record]) -> Lines:
    """Where the host's time goes, for few rows."""
    rows = [[r["rows"], r["part"], number(r["host_us"]), number(r["whole_us"])] for r in of(results, "host")]
    return grid(["rows", "part", "host us", "until the device is done, us"], rows)


def suite(results: list[Record]) -> Lines:
    """Tests that did not pass, and what the sanitizer said."""
    found = list(of(results, "test"))
    counts = {name: sum(r["outcome"] == name for r in found) for name in ("passed", "failed", "skipped")}
    lines = [", ".join(f"{count} {name}" for name, count in counts.items()) + "."]
    failed = [r for r in found if r["outcome"] == "failed"]
    lines += [f"- {r['step']}: {r['test']}: {r['outcome']}: {r['said'][-300:]!r}" for r in failed]
    for r in of(results, "sanitizer"):
        said = "" if r["clean"] else repr(r["said"][:600])
        word = {True: "clean", False: "NOT CLEAN", None: "not ended"}[r["clean"]]
        lines.append(f"- {r['step']}: {r['tool']} at {', '.join(r['rows'])} rows: {word} {said}")
    for r in of(results, "coverage"):
        missing = ", ".join(r["missing"]) or "none"
        lines.append(f"- kernels that the sanitizer's script does not launch, or gives no work: {missing}")
    return lines


def counters(results: list[Record]) -> Lines:
    """ncu's, a column for each launch."""
    found = list(of(results, "counters"))
    names = list(dict.fromkeys(name for r in found for name in r if name not in ("step", "kind", "rows")))
    return grid(["", *(str(at) for at in range(len(found)))], ([name, *(r.get(name, "-") for r in found)]
                                                                for name in names))  # fmt: skip


def training(results: list[Record]) -> Lines:
    """A batch through a ResNet-18, and its parts. The table of `train.py` comes after its single repeats."""
    last = {r["part"]: r for r in of(results, "training")}
    rows = [[part, number(r["ms"]), f"{r['images_per_second']:,.0f}"] for part, r in last.items()]
    return grid(["part", "ms a batch", "images/s"], rows)


def runs(results: list[Record]) -> Lines:
    """What the training of call 2 has reached."""
    return grid(["file", "figures"], ([r["file"], json.dumps(r["content"])[:400]] for r in of(results, "run")))


def variants(results: list[Record]) -> Lines:
    """Beside the shipped kernels."""
    words = {True: "yes", False: "NO", None: "leaves a stage out"}
    rows = []
    for r in of(results, "variant"):
        heavy = [f"{name} {number(found['us'])}" for name, found in list(r["kernels"].items())[:4]]
        rows.append([r["name"], r["rows"], number(r["shipped_ms"]), number(r["ms"]), number(r["ratio"]),
                     f"{r['noise']:.1%}", words[r["agrees"]], r["expected"], ", ".join(heavy)])  # fmt: skip
    head = ["variant", "rows", "shipped ms", "ms", "x shipped", "noise", "the same", "expected", "us by kernel"]
    return grid(head, rows)


SECTIONS: dict[str, tuple[str, Callable[[list[Record]], Lines]]] = {
    "agreement": ("Against float64", agreement),
    "own": ("HexLoss", own),
    "loss": ("Two towers, SupCon, a temperature that is a tensor", losses),
    "peer": ("Beside others", peers),
    "host": ("The host's part, for few rows", host),
    "variant": ("Variants", variants),
    "test": ("Tests and compute-sanitizer", suite),
    "counters": ("Counters", counters),
    "training": ("A training step", training),
    "run": ("Training", runs),
}


def write(folder: Path, call: str, command: str) -> Path:
    """The page `report.md`, from `results.jsonl` and `clocks.csv` beside it."""
    results = records.read(folder / "results.jsonl")
    started = min((record["begun"] for record in of(results, "step")), default=None)
    when = "-" if started is None else datetime.fromtimestamp(started).isoformat(" ", "seconds")
    lines = [f"# GPU check, {call}, {when}", "", f"`{command}`", "", *machine(results)]
    if call == "knowledge":
        lines += ["", "## Targets", "", *targets(results)]
    kinds = {record["kind"] for record in results}
    for kind, (title, section) in SECTIONS.items():
        if kind in kinds:
            lines += ["", f"## {title}", "", *section(results)]
    if "own" in kinds:
        lines += ["", "## By kernel", "", *kernels(results)]
    lines += ["", "## Steps", "", *steps(results, folder)]
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n")
    return path
