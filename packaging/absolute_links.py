"""Makes a checkout ready for a package index: absolute links in README.md, and the project's URLs in pyproject.toml.

    python packaging/absolute_links.py https://forge.example/owner/hex-ssl v1.2.3

An index shows the README outside the repository, where a relative link leads nowhere. Both files are changed in place.
The release workflow runs this before it builds.
"""

import re
import sys
from pathlib import Path

LINK = re.compile(r"\]\((?!https?://|#)([^)\s]+)\)")
PICTURES = (".png", ".svg")


def absolute(readme: str, root: Path, repository: str, tag: str) -> str:
    """The README with every relative link replaced by one to the repository at a tag.

    Args:
        readme: Its text.
        root: The checkout, in which the files must exist.
        repository: URL of the repository.
        tag: The release's tag.

    Raises:
        FileNotFoundError: A link leads nowhere.
    """

    def replace(found: re.Match[str]) -> str:
        path, hash_, heading = found[1].partition("#")
        if not (root / path).exists():
            raise FileNotFoundError(f"expected the README's links to lead to files, but there is no {path}")
        kind = "tree" if (root / path).is_dir() else "raw" if path.endswith(PICTURES) else "blob"
        return f"]({repository}/{kind}/{tag}/{path}{hash_}{heading})"

    return LINK.sub(replace, readme)


def urls(repository: str, tag: str) -> str:
    """The table of the project's URLs for pyproject.toml."""
    pages = {
        "Repository": repository,
        "Documentation": f"{repository}/blob/{tag}/docs/index.md",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    return "".join(["\n[project.urls]\n", *(f'{name} = "{url}"\n' for name, url in pages.items())])


def main(root: Path, repository: str, tag: str) -> None:
    """Changes both files of a checkout.

    Raises:
        ValueError: The files are changed already, or `repository` is no URL.
    """
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    if "[project.urls]" in project or not repository.startswith("https://"):
        raise ValueError(f"expected a URL and a checkout without URLs of the project, but got {repository} and {root}")
    readme = root / "README.md"
    readme.write_text(absolute(readme.read_text(encoding="utf-8"), root, repository, tag), encoding="utf-8")
    (root / "pyproject.toml").write_text(project + urls(repository, tag), encoding="utf-8")


if __name__ == "__main__":
    main(Path(__file__).parents[1], sys.argv[1].rstrip("/"), sys.argv[2])
