"""YAML from files and command lines, safe whatever is in them: plain values, bounded in size, one kind of error.

A YAML file of a few hundred bytes may stand for a tree of billions of nodes, by naming lists of lists again and again,
or for a list that contains itself; a tag may name an object of Python.
"""

from typing import Any

import yaml
from yaml.composer import ComposerError

LARGEST = 1_000_000
"""Characters of a text."""
MOST = 10_000
"""Nodes of a tree, each as often as it is named."""
DEEPEST = 20
"""Levels of a tree."""


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's loader of plain values, which refuses trees that are too large, too deep, or endless."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Counts what it composes."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        named_again = isinstance(event, yaml.AliasEvent)
        before = self._nodes
        self._depth += 1
        self._nodes += 1
        self._check(self._depth <= DEEPEST, f"a tree of more than {DEEPEST} levels", event)
        node = super().compose_node(parent, index)
        if named_again:
            self._check(id(node) in self._sizes, "a value that contains itself", event)
            self._nodes += self._sizes[id(node)]
        self._check(self._nodes <= MOST, f"more than {MOST:,} values", event)
        self._sizes.setdefault(id(node), self._nodes - before)
        self._depth -= 1
        return node

    @staticmethod
    def _check(holds: bool, found: str, event: yaml.Event) -> None:
        if not holds:
            raise ComposerError(None, None, f"found {found}", event.start_mark)  # type: ignore[arg-type]


def load_yaml(text: str, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """A YAML text as plain values.

    Args:
        text: At most `LARGEST` characters, `MOST` values and `DEEPEST` levels.
        loader: Which words are numbers and truth values.

    Raises:
        yaml.YAMLError: It is no YAML, is beyond these bounds, names objects of Python, or a value does not fit its tag.

    Example:
        >>> load_yaml("a: &a [1, 2]\\nb: *a")
        {'a': [1, 2], 'b': [1, 2]}
    """
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"expected at most {LARGEST:,} characters of YAML, but got {len(text):,}")
    try:
        return yaml.load(text, loader)  # a subclass of SafeLoader
    except yaml.YAMLError:
        raise
    except Exception as error:  # such as KeyError for `!!bool perhaps`, AttributeError for `!!timestamp soon`
        raise yaml.YAMLError(f"a value does not fit its tag: {type(error).__name__}: {error}") from error
