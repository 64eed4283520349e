"""What `docs/results.md` takes from the finished runs in `results.jsonl` beside it: two sentences and the tables.

    python benches/results_page.py

prints them. The tables begin with the page's "## Losses of SimCLR" and end before its "## What a step costs".
"""

import re
from pathlib import Path

from hex_ssl.train.reproduce.command import finished, prepare
from hex_ssl.train.reproduce.plan import Cell, Plan
from hex_ssl.train.reproduce.settings import ReproduceConfig
from hex_ssl.train.reproduce.table import paired_difference, write_table

KEPT = Path(__file__).parents[1] / "docs/results.jsonl"
OURS = "cifar100"
PAPERS = {"table7": "Table 7", "table8": "Table 8", "table10": "Table 10", "figure7": "Figure 7"}
"""Those of the paper's experiments of which there are runs at `small`."""

POOLED = ("batches", "temperatures")
"""Groups of ours that have HEX with its defaults beside SimCLR; the setting in both counts once."""


def plan_of(experiment: str) -> Plan:
    """An experiment's runs at `small`, finished or not."""
    return prepare(ReproduceConfig(experiment, "small", results=str(KEPT), list=True))


def section(experiment: str) -> str:
    """An experiment's part of the page: of ours the tables alone, of the paper's all, below a heading."""
    plan = plan_of(experiment)
    text = write_table(plan, finished(plan, KEPT)).strip()
    if experiment == OURS:
        return text[text.index("## ") :]
    title, rest = text.removeprefix("# ").split("\n\n", 1)
    deeper = re.sub("^## ", "### ", rest, flags=re.MULTILINE)
    return f"## The paper's {PAPERS[experiment]} at this scale\n\n{title}. {deeper}"


def seconds() -> str:
    """The sentence on what the runs took."""
    records = [record for experiment in (OURS, *PAPERS) for record in finished(plan_of(experiment), KEPT).values()]
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


if __name__ == "__main__":
    print("\n\n".join([seconds(), pooled(), *map(section, (OURS, *PAPERS))]))
