"""docs/faults.md: each row names a test, and each test has a row."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
TEXT = (HERE.parents[2] / "docs" / "faults.md").read_text()
TABLE = TEXT[TEXT.index("| fault |") :].partition("\n\n")[0]
ROWS = TABLE.splitlines()[2:]


def test_rows_and_tests_are_the_same() -> None:
    defined = {
        f"{file.name}::{each.name}"
        for file in HERE.glob("test_*.py")
        if file != Path(__file__)
        for each in ast.parse(file.read_text()).body
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
    }
    named = [re.findall(r"`(test_\w+\.py::test_\w+)`", row.split("|")[4]) for row in ROWS]
    assert all(len(each) == 1 for each in named), "a row without a test"
    assert sorted(each[0] for each in named) == sorted(defined)
