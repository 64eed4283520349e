"""The documentation's results are those of the finished runs that are kept beside them."""

from pathlib import Path

from hex_ssl.reproduce.command import finished, prepare
from hex_ssl.reproduce.settings import ReproduceConfig
from hex_ssl.reproduce.table import write_table

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benches/results/cifar100-small"


def test_tables_are_those_of_the_kept_results() -> None:
    plan = prepare(ReproduceConfig("cifar100", "small", results=str(KEPT), list=True))
    records = finished(plan, KEPT)
    assert records.keys() == {path.stem for path in KEPT.glob("*.json")}
    text = write_table(plan, records)
    assert text[text.index("## ") :].strip() in (ROOT / "docs/results.md").read_text(encoding="utf-8")
