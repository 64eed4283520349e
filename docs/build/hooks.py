"""What MkDocs does besides: formulas become MathML, which browsers draw without a script; what the tests do not run
says so on the page; and links to files of the repository, which the site does not hold, become their text."""

import re
from typing import Any

from latex2mathml.converter import convert

NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$", re.MULTILINE)
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_config(config: Any) -> Any:
    """Blocks marked as `math` are formulas; other Markdown readers know this mark too."""
    fence = {"name": "math", "class": "math", "format": formula}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def formula(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **kwargs: Any) -> str:
    """A block of LaTeX as MathML: a formula for each paragraph."""
    return "".join(f'<div class="math">{convert(each, display="block")}</div>' for each in source.split("\n\n"))


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """A page's own text for that of the site."""
    return OUTSIDE.sub(r"\1", NOT_RUN.sub(r"*Not run by the tests: \1.*", markdown))
