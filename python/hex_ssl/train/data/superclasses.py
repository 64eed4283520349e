"""The superclass of each class, read from the user's file."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hex_ssl.train.data.images import ImageDataset
from hex_ssl.train.reading import reading

SUPERCLASSES = "superclasses.csv"
"""Name of a file in a dataset's folder with lines `class,superclass`."""

DELIMITERS = (",", ";", "\t")
"""Excel writes semicolons in countries that use a decimal comma."""


def read_superclasses(file: Path, dataset: ImageDataset) -> tuple[Tensor, list[str]]:
    """The superclass of each class of a dataset and the names of the superclasses, from lines `class,superclass`.

    A class is identified by the name of its folder, by its own name if no other class has that name, or by its number
    if classes have no names. Lines for other classes, such as a heading, are ignored.

    Args:
        file: UTF-8, with a comma, semicolon or tab between class and superclass. Quote names that contain it.
        dataset: The dataset that has the classes.

    Returns:
        int64 [classes], the number of each class's superclass; and the superclasses' names, sorted.

    Raises:
        ValueError: A line is not such a pair, or a class has no line or two lines.
    """
    with reading(file, "to be a table in UTF-8 with lines `class,superclass`"):
        pairs = _pairs(file)
    parents = {name: parent for _, name, parent in pairs}
    lines: dict[str, int] = {}
    for line, name, _ in pairs:
        if lines.setdefault(name, line) != line:
            raise ValueError(
                f'expected {file} to list each class once, but got "{name}" in lines {lines[name]} and {line}'
            )
    names_of = _names_of(dataset)
    found = [[parents[name] for name in names if name in parents] for names in names_of]
    missing = [names[0] for names, each in zip(names_of, found, strict=True) if not each]
    if missing:
        raise ValueError(f"expected {file} to have a line for each class, but it has none for {', '.join(missing[:5])}")
    twice = [names for names, each in zip(names_of, found, strict=True) if len(each) > 1]
    if twice:
        raise ValueError(f'expected {file} to list each class once, but got "{twice[0][0]}" and "{twice[0][1]}"')
    return number_parents([each[0] for each in found])


def number_parents(parents: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Numbers superclasses in the alphabetical order of their names.

    Args:
        parents: The name of each class's superclass.

    Returns:
        int64 [classes], the number of each class's superclass; and the names, sorted.

    Example:
        >>> number_parents(["dog", "cat", "dog"])
        (tensor([1, 0, 1]), ['cat', 'dog'])
    """
    names = sorted(set(parents))
    numbers = {name: number for number, name in enumerate(names)}
    return torch.tensor([numbers[parent] for parent in parents]), names


def _names_of(dataset: ImageDataset) -> list[list[str]]:
    """The names by which the file may call each class. Errors use the first one."""
    names = dataset.class_names or [str(number) for number in range(dataset.classes)]
    folders = dataset.class_folders or names
    times = Counter([*names, *folders])
    return [[folder] if times[name] > 1 else [folder, name] for folder, name in zip(folders, names, strict=True)]


def _pairs(file: Path) -> list[tuple[int, str, str]]:
    """The number, the class and the superclass of each line."""
    text = file.read_text(encoding="utf-8-sig")  # Excel begins a file with a byte order mark
    tables = [_rows(text, delimiter) for delimiter in DELIMITERS]
    whole = [rows for rows in tables if all(len(row) == 2 and all(row) for _, row in rows)]
    if whole:
        return [(line, name, parent) for line, (name, parent) in whole[0]]
    line, row = next((line, row) for line, row in tables[0] if len(row) != 2 or not all(row))
    raise ValueError(f"expected {file} to have lines `class,superclass`, but line {line} is {','.join(row)[:100]!r}")


def _rows(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """The number and the cells of each non-empty line, without empty cells at its end."""
    reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    rows = []
    for row in reader:
        cells = [cell.strip() for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            rows.append((reader.line_num, cells))
    return rows
