"""What `docs/results.md` takes from the finished runs in `results.jsonl` beside it.

    python benches/results_page.py

prints it: what leads the page, of a GPU; two sentences; and the tables of the small scale, from the page's
"## Losses of SimCLR" to before its "## What a step costs".
"""

import re
from pathlib import Path
from statistics import mean

from hex_ssl.train.reproduce.command import finished, prepare
from hex_ssl.train.reproduce.plan import Cell, Plan
from hex_ssl.train.reproduce.settings import ReproduceConfig, ScaleName
from hex_ssl.train.reproduce.table import NOTHING, Records, figures_of, mean_deviation, paired_difference, write_table

KEPT = Path(__file__).parents[1] / "docs/results.jsonl"
OURS, STEPS = "cifar100", "steps"
PAPERS = {"table7": "Table 7", "table8": "Table 8", "table10": "Table 10", "figure7": "Figure 7"}
"""Those of the paper's experiments of which there are runs at `small`."""

POOLED = ("batches", "temperatures")
"""Groups of ours that have HEX with its defaults beside SimCLR; the setting in both counts once."""


NOT_RUN = (
    "**Not run yet.** The comparison on a GPU will stand here: a ResNet-18 on the same images at 32 x 32 pixels, 100 "
    "epochs, batches of 256 and 512, three seeds ([how to run it](reproduce.md#on-a-gpu)). Nothing is known of it yet. "
    "All that follows was run on two CPU cores."
)


def plan_of(experiment: str, scale: ScaleName = "small") -> Plan:
    """An experiment's runs at a scale, finished or not."""
    return prepare(ReproduceConfig(experiment, scale, results=str(KEPT), list=True))


def lead() -> str:
    """What the page says of a GPU: the tables, and how SimCLR and HEX part over the epochs."""
    plan = plan_of(OURS, "gpu")
    records = finished(plan, KEPT)
    if not records:
        return NOT_RUN
    tables = write_table(plan, records).strip()
    deeper = re.sub("^## ", "### ", tables[tables.index("## ") :], flags=re.MULTILINE)
    return f"{deeper}\n\n### Over the epochs\n\n{over_epochs(plan, records)}"


def over_epochs(plan: Plan, records: Records) -> str:
    """k-NN accuracy of SimCLR and HEX with its defaults, and what HEX found, at each epoch that was kept; a table."""
    of = {row: plan.cells[Cell("losses", row, "cifar100")] for row in ("simclr", "hex")}
    histories = {
        row: {seed: records[key]["history"] for seed, key in keys.items() if key in records} for row, keys in of.items()
    }
    epochs = sorted({int(epoch) for each in histories.values() for one in each.values() for epoch in one["knn.top1"]})
    lines = ["| epoch | SimCLR, k-NN top-1 | HEX, k-NN top-1 | difference | threshold | hierarchical negatives |"]
    lines.append("|---|---|---|---|---|---|")
    for epoch in epochs:
        simclr, hex_ = (
            {seed: one["knn.top1"][str(epoch)] for seed, one in histories[row].items() if str(epoch) in one["knn.top1"]}
            for row in ("simclr", "hex")
        )
        found = [
            _mean_at(epoch, name, [*histories["hex"].values()]) for name in ("threshold", "hierarchical_negatives")
        ]
        cells = [mean_deviation([*simclr.values()]), mean_deviation([*hex_.values()]), paired_difference(hex_, simclr)]
        lines.append(f"| {' | '.join([str(epoch), *cells, *found])} |")
    return "\n".join(lines)


def _mean_at(epoch: int, name: str, histories: list[dict[str, list[float | None]]]) -> str:
    """The mean over runs of a figure of an epoch; a dash where HEX had not begun."""
    values = [one[name][epoch - 1] for one in histories if 0 < epoch <= len(one[name])]
    there = [value for value in values if value is not None]
    return f"{mean(there):.3g}" if there else NOTHING


def section(experiment: str) -> str:
    """An experiment's part of the page: of ours the tables and notes, of the paper's all, below a heading."""
    plan = plan_of(experiment)
    text = write_table(plan, finished(plan, KEPT)).strip()
    if plan.experiment.picture is None:
        names = iter(dict.fromkeys(f"{experiment}-{cell.group}" for cell in plan.cells))
        text = re.sub(
            "^Difference from: .*", lambda found: f"{found[0]}\n\n{shown(next(names))}", text, flags=re.MULTILINE
        )
    if experiment == OURS:
        return text[text.index("## ") :]
    title, rest = text.removeprefix("# ").split("\n\n", 1)
    deeper = re.sub("^## ", "### ", rest, flags=re.MULTILINE)
    if experiment == STEPS:
        return deeper[deeper.index("### ") :]
    return f"## The paper's {PAPERS[experiment]} at this scale\n\n{title}. {deeper}"


def shown(picture: str) -> str:
    """The picture beside a table, which `docs/pictures/differences.py` draws."""
    return f"![Differences: each seed, the mean, and one standard error](pictures/{picture}.svg)"


def seconds() -> str:
    """The sentence on what the runs of ten epochs took."""
    plans = map(plan_of, (OURS, STEPS, *PAPERS))
    records = [each for plan in plans for each in finished(plan, KEPT).values() if each["budget"]["epochs"] == 10]
    assert {record["environment"]["threads"] for record in records} == {1}
    took: dict[int, list[float]] = {}
    for record in records:
        took.setdefault(record["budget"]["training_images"], []).append(record["seconds"]["pretraining"])
    many, few = sorted(took, reverse=True)
    return (
        f"pretraining took {min(took[many])} to {max(took[many])} s on one thread with {many:,} images, and "
        f"{min(took[few])} to {max(took[few])} s with {few:,}."
    )


def pooled() -> str:
    """The sentence on HEX with its defaults, over batch sizes and temperatures."""
    plan = plan_of(OURS)
    records = finished(plan, KEPT)
    pairs = set()
    for group in (plan.experiment.groups[name] for name in POOLED):
        for row in (row for row in group.rows.values() if row.name != row.baseline):
            hex_, simclr = (plan.cells[Cell(group.name, each, *group.datasets)] for each in (row.name, row.baseline))
            pairs |= {(hex_[seed], simclr[seed]) for seed in hex_ if {hex_[seed], simclr[seed]} <= records.keys()}

    def difference(metric: str) -> str:
        of_hex, of_simclr = (
            {number: records[pair[side]]["metrics"][metric] for number, pair in enumerate(sorted(pairs))}
            for side in (0, 1)
        )
        return paired_difference(of_hex, of_simclr)

    return (
        "Over five settings (batches of 64, 128, 256 and 512; a temperature of 0.2) with their seeds, "
        f"{len(pairs)} pairs at equal seed, HEX with its defaults differs by {difference('probe.top1')} points by the "
        f"probe, {difference('knn.top1')} by k-NN and {difference('knn.superclass_top1')} by superclass k-NN "
        "(mean +- standard error)."
    )


def repeated() -> str:
    """The sentence on further seeds of the runs on 4,000 images, from the sixth on."""
    plan = plan_of(STEPS)
    records = finished(plan, KEPT)

    def figures(row: str, metric: str) -> dict[int, float]:
        found = figures_of(plan.cells[Cell("few", row, "labelled")], metric, records)
        return {seed: value for seed, value in found.items() if seed > 4}

    seeds = figures("simclr", "probe.top1").keys() & figures("hex", "probe.top1").keys()
    by = {
        metric: paired_difference(figures("hex", metric), figures("simclr", metric))
        for metric in ("probe.top1", "knn.top1")
    }
    return (
        f"With {len(seeds)} new seeds HEX differs by {by['probe.top1']} points by the probe and by {by['knn.top1']} by "
        "k-NN."
    )


def geometry() -> str:
    """A table of what the last epochs of the experiment on steps had: means over seeds."""
    plan = plan_of(STEPS)
    records = finished(plan, KEPT)
    lines = ["| images | steps | threshold | hierarchical negatives | similarity of negatives, HEX | SimCLR |"]
    lines.append("|---|---|---|---|---|---|")
    for group, dataset, rows in (("few", "labelled", ("", "_long")), ("many", "cifar100", ("_short", ""))):
        for suffix in rows:
            hex_, simclr = (
                [records[key] for key in plan.cells[Cell(group, name + suffix, dataset)].values() if key in records]
                for name in ("hex", "simclr")
            )
            names = ("threshold", "hierarchical_negatives", "negative_similarity")
            cells = [f"{mean(each['last_epoch'][name] for each in hex_):.2f}" for name in names]
            cells.append(f"{mean(each['last_epoch']['negative_similarity'] for each in simclr):.2f}")
            budget = hex_[0]["budget"]
            lines.append(f"| {budget['training_images']:,} | {budget['steps']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print("\n\n".join([lead(), seconds(), pooled(), repeated(), geometry(), *map(section, (OURS, STEPS, *PAPERS))]))
