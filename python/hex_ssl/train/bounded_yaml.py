"""Safe loading of YAML from files and command lines: plain values, bounded in size, and one kind of error.

A YAML file of a few hundred bytes can describe a tree of billions of nodes by naming lists of lists repeatedly, or a
list that contains itself. A tag can name a Python object. A mapping can give a key twice, and PyYAML silently keeps the
last value.
"""

from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.error import MarkedYAMLError

LARGEST = 1_000_000
"""Maximum number of characters of a text."""
MOST = 10_000
"""Maximum number of nodes of a tree. A node counts each time it is named."""
DEEPEST = 20
"""Maximum number of levels of a tree."""
MERGE = "tag:yaml.org,2002:merge"
"""The tag of the key `<<`."""


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's loader of plain values. It refuses repeated keys, and trees that are too large, too deep or endless."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0
        self._sizes: dict[int, int] = {}
        self._place: list[str] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Counts the nodes and levels that it composes."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        named_again = isinstance(event, yaml.AliasEvent)
        before = self._nodes
        self._depth += 1
        self._nodes += 1
        self._check(self._depth <= DEEPEST, f"a tree of more than {DEEPEST} levels", event)
        place = [index.value] if isinstance(index, yaml.ScalarNode) else []
        self._place += place
        node = super().compose_node(parent, index)
        del self._place[len(self._place) - len(place) :]
        if named_again:
            self._check(id(node) in self._sizes, "a value that contains itself", event)
            self._nodes += self._sizes[id(node)]
        self._check(self._nodes <= MOST, f"more than {MOST:,} values", event)
        self._sizes.setdefault(id(node), self._nodes - before)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuses a mapping that gives a key twice."""
        mapping = super().compose_mapping_node(anchor)
        found: dict[Any, yaml.Mark] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            # `1` and `0x1` are the same key. `<<` names what to merge, and the keys beside it override that.
            same = key.value if key.tag == MERGE else self.construct_object(key)
            first = found.setdefault((key.tag == MERGE, same), key.start_mark)
            if first is not key.start_mark:
                name = ".".join([*self._place, key.value])
                lines = f"in line {first.line + 1} and in line {key.start_mark.line + 1}"
                raise yaml.YAMLError(f"the key `{name}` twice, {lines}")
        return mapping

    @staticmethod
    def _check(holds: bool, found: str, event: yaml.Event) -> None:
        if not holds:
            raise ComposerError(None, None, f"found {found}", event.start_mark)  # type: ignore[arg-type]


def load_yaml(text: str, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """Loads a YAML text as plain values.

    Args:
        text: At most `LARGEST` characters, `MOST` values and `DEEPEST` levels.
        loader: The loader, which decides which words are numbers and truth values.

    Raises:
        yaml.YAMLError: The text is not YAML, exceeds these bounds, gives a key twice or names Python objects, or a
            value does not fit its tag. The message is one line.

    Example:
        >>> load_yaml("a: &a [1, 2]\\nb: *a")
        {'a': [1, 2], 'b': [1, 2]}
    """
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"expected at most {LARGEST:,} characters of YAML, but got {len(text):,}")
    try:
        return yaml.load(text, loader)  # a subclass of SafeLoader
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        raise yaml.YAMLError(f"{error.problem or error.context}{place}") from error
    except yaml.YAMLError as error:
        raise yaml.YAMLError(" ".join(str(error).split())) from error
    except Exception as error:  # such as KeyError for `!!bool perhaps`, AttributeError for `!!timestamp soon`
        raise yaml.YAMLError(f"a value does not fit its tag: {type(error).__name__}: {error}") from error
