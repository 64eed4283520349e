"""The README shows code early, and its commands are targets of the Makefile. `tests/test_docs.py` runs the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_there_is_code_early() -> None:
    assert README[: README.index("```python")].count("\n") < 30


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = set(re.findall(r"`?make ([a-z-]+)", README))
    assert {"demo", "test"} <= mentioned <= targets
