"""Notebooks without Jupyter: runs one, stores its outputs in it, and writes it as Markdown.

python docs/build/notebook.py examples/quickstart.ipynb

runs the notebook and stores what its cells printed and drew.
"""

import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

RESOLUTION = 90
"""Dots per inch of the pictures: small enough to keep in a repository."""

Cells = list[dict[str, Any]]


def read(path: Path) -> dict[str, Any]:
    """The notebook as it is stored."""
    return json.loads(path.read_text(encoding="utf-8"))


def run(cells: Cells) -> Cells:
    """Runs the code cells in order, as one program.

    Returns:
        The cells with their outputs: the text that a cell printed, and the figures that it left open, which are closed.
    """
    from matplotlib import pyplot as plt

    plt.switch_backend("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    done: Cells = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile("".join(cell["source"]), f"<cell {number}>", "exec"), names)
            cell = cell | {"outputs": [*_text(printed.getvalue()), *map(_picture, map(plt.figure, plt.get_fignums()))]}
            plt.close("all")
        done.append(cell)
    return done


def _text(printed: str) -> Cells:
    return [{"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)}] if printed else []


def _picture(figure: Any) -> dict[str, Any]:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=RESOLUTION, metadata={"Software": None})
    image = base64.b64encode(file.getvalue()).decode()
    return {"data": {"image/png": image}, "metadata": {}, "output_type": "display_data"}


def markdown(notebook: dict[str, Any]) -> str:
    """The notebook as a page: its text, its code, and its stored outputs."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _parts(cell))


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [f"```python\n{source}\n```", *map(_output, cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    return f"![Output of the cell above](data:image/png;base64,{output['data']['image/png']})"


def store(path: Path) -> None:
    """Runs a notebook and stores its outputs in it."""
    notebook = read(path)
    notebook["cells"] = run(notebook["cells"])
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    store(Path(sys.argv[1]))
