"""What MkDocs does besides (`docs/build/hooks.py`): formulas, pages of examples, links out of the site."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def hooks() -> Iterator[Any]:
    """The hooks as a module."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "build"))
        import hooks

        yield hooks
        for name in ("hooks", "notebook"):
            sys.modules.pop(name, None)


def page(uri: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=uri))


def test_formulas_in_text_become_mathml(hooks: Any) -> None:
    from markdown import Markdown

    found = Markdown(extensions=["tables", hooks.InlineFormulas()]).convert("a $`x_i * y_j * z`$ and `$x$`")
    assert "<msub><mi>x</mi><mi>i</mi></msub>" in found
    assert "<em>" not in found
    assert "<code>$x$</code>" in found
    assert "$`" not in found


@pytest.mark.parametrize(
    ("uri", "link", "expected"),
    [
        ("index.md", "[this](../examples/simclr.py)", "[this](examples/simclr.md)"),
        ("examples/quickstart.md", "[this](../speed.md)", "[this](../speed.md)"),
        ("api/losses.md", "[this](../methods.md#simclr)", "[this](../methods.md#simclr)"),
        ("speed.md", "[this](../benches/results/loss.md)", "this"),
        ("speed.md", "![this](pictures/speed.svg)", "![this](pictures/speed.svg)"),
        ("results.md", "| 15.18 +- 0.62 |", "| 15.18\u00a0\u00b1\u00a00.62 |"),
        ("results.md", "```text\n15.18 +- 0.62\n```", "```text\n15.18 +- 0.62\n```"),
    ],
)
def test_links_stay_in_the_site(hooks: Any, uri: str, link: str, expected: str) -> None:
    assert hooks.on_page_markdown(link, page(uri)) == expected


def test_examples_become_pages(hooks: Any) -> None:
    examples = DOCS.parent / "examples"
    text = hooks.example(examples / "simclr.py")
    assert text.startswith("# simclr.py\n\nSimCLR in plain PyTorch on the handwritten digits")
    assert "```bash\npython examples/simclr.py [--epochs 20] [--quick]\n```" in text
    assert "criterion = HexLoss(temperature=0.2)" in text
    text = hooks.example(examples / "quickstart.ipynb")
    assert text.startswith("# hex-ssl in a minute")
    assert "](../speed.md)" in text
    assert text.count("](data:image/png;base64,") == 3


def test_the_site_has_a_font_for_formulas() -> None:
    from fontTools.ttLib import TTFont

    (font,) = (DOCS / "fonts").glob("*.otf")
    assert font.stat().st_size < 2**20
    assert "MATH" in TTFont(font)
    assert f'url("fonts/{font.name}")' in (DOCS / "style.css").read_text(encoding="utf-8")
    assert "SIL OPEN FONT LICENSE" in (DOCS / "fonts/STIXMath-LICENSE.txt").read_text(encoding="utf-8")
