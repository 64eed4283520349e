"""What MkDocs does besides.

- Formulas become MathML, which browsers draw without a script, with the font in `docs/fonts`.
- Examples become pages.
- Links to other files of the repository, which the site does not hold, become their text.
- Code that the tests do not run says so on the page.
- Each page names the version that it describes.
"""

import ast
import posixpath
import re
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from mkdocs.structure.files import File, Files, InclusionLevel

sys.path.insert(0, str(Path(__file__).parent))
import notebook

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.name: f"examples/{path.stem}.md" for path in sorted((ROOT / "examples").glob("*.*"))}
"""The page of each example."""

NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)]*)\)")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
DEVIATION = re.compile(r"(?<=\d) \+- (?=\d)")


class InlineFormula(InlineProcessor):
    """LaTeX between a dollar and a backtick, which GitHub draws too."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element | str, int, int]:  # noqa: N802
        """A formula was found."""
        return self.md.htmlStash.store(mathml(m[1], "inline")), m.start(0), m.end(0)


class InlineFormulas(Extension):
    """Adds them before inline code is looked for."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Markdown was set up."""
        md.inlinePatterns.register(InlineFormula(r"\$`(.+?)`\$", md), "formula", 195)


def on_config(config: Any) -> Any:
    """Blocks marked as `math` are formulas, as other Markdown readers have them."""
    fence = {"name": "math", "class": "math", "format": formula}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    config.markdown_extensions.append(InlineFormulas())
    version = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["package"]["version"]
    config.copyright = f"Documentation of hex-ssl {version}"
    return config


def formula(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **kwargs: Any) -> str:
    """A block of LaTeX as MathML: a formula for each paragraph."""
    return "".join(f'<div class="math">{mathml(each, "block")}</div>' for each in source.split("\n\n"))


def mathml(latex: str, display: str) -> str:
    """A formula; names of functions stand apart from what follows."""
    return convert(latex, display=display).replace("<mi>ln</mi>", '<mi>ln</mi><mspace width="0.17em"/>')


def on_files(files: Files, config: Any) -> Files:
    """Adds a page for each example."""
    for name, uri in EXAMPLES.items():
        page = File.generated(config, uri, content=example(ROOT / "examples" / name))
        page.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(page)
    return files


def example(path: Path) -> str:
    """The page of an example: a notebook with its outputs, or a program below its docstring."""
    if path.suffix == ".ipynb":
        return notebook.markdown(notebook.read(path)).replace("](../docs/", "](../")
    source = path.read_text(encoding="utf-8")
    title, command = (ast.get_docstring(ast.parse(source)) or "").split("\n\n", 1)
    code = source.split('"""\n\n', 1)[1]
    return f"# {path.name}\n\n{title}\n\n```bash\n{command}\n```\n\n```python\n{code}```\n"


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """A page's own text for that of the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        place = posixpath.normpath(posixpath.join("docs", folder, target))
        if place.startswith("examples/") and (name := posixpath.basename(place)) in EXAMPLES:
            return f"[{text}]({posixpath.relpath(EXAMPLES[name], folder or '.')})"
        return found[0] if place.startswith("docs/") else text

    parts = FENCED.split(NOT_RUN.sub(r"*Not run by the tests: \1.*", markdown))
    parts[::2] = (DEVIATION.sub("\u00a0±\u00a0", LINK.sub(link, text)) for text in parts[::2])
    return "".join(parts)
