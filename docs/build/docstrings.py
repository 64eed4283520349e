"""Docstrings as Markdown: their references, tables and literal blocks are reStructuredText's."""

import re
from typing import Any

from griffe import Extension, Object

REFERENCE = re.compile(r":\w+:`~?([^`]+)`")
LINK = r'<autoref identifier="\1" optional><code>\1</code></autoref>'
LITERAL = re.compile(r"::$", re.MULTILINE)
EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)
TABLE = re.compile(r"^=+ [= ]+\n(.+)\n=+ [= ]+\n((?:.+\n)+?)=+ [= ]+$", re.MULTILINE)


class Docstrings(Extension):
    """Rewrites every docstring before it is read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """A module, class, function or attribute was found."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """A docstring's text in Markdown."""
    text = LITERAL.sub(":", REFERENCE.sub(LINK, text))
    return TABLE.sub(_table, EXAMPLE.sub(r"\1Examples:", text))


def _table(found: re.Match[str]) -> str:
    heading, *rows = (re.split(r"\s{2,}", line.strip()) for line in [found[1], *found[2].splitlines()])
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
