"""Lists the datasets and prints their cards."""

from hex_ssl.train.data.card import Card, card_names, load_card
from hex_ssl.train.suggestions import nearest


def list_datasets() -> list[str]:
    """The names of all datasets, sorted.

    Example:
        >>> "cifar100" in list_datasets()
        True
    """
    return card_names()


def dataset_card(name: str) -> Card:
    """The card of a dataset. The files of the dataset are not needed.

    Args:
        name: One of `list_datasets()`, or "module:function" for your own dataset. The function is not called.

    Raises:
        ValueError: No dataset has this name.

    Example:
        >>> dataset_card("cifar100").superclasses
        20
    """
    if ":" in name:
        from hex_ssl.train.data.own_dataset import own_card  # imports torch

        return own_card(name)
    if name not in card_names():
        near = nearest(name, card_names())
        meant = f' (did you mean "{near[0]}"?)' if near else ""
        raise ValueError(
            f'expected `data.name` to be one of {", ".join(card_names())}, or "module:function", '
            f'but got "{name}"{meant}'
        )
    return load_card(name)


def print_cards(name: str | None = None) -> None:
    """Prints the card of a dataset, or a table of all datasets.

    Args:
        name: One of `list_datasets()`, or None for the table.

    Raises:
        ValueError: No dataset has this name.

    Example:
        >>> print_cards("hierarchy")
        hierarchy: Generated hierarchy
          images         Patterns of coloured waves, generated from a known tree of classes.
          size           32x32 pixels
          classes        20
          superclasses   5 of 4 classes each, exact
          splits         train 2,000, test 500
          mean, std      (0.5, 0.5, 0.5), (0.178, 0.178, 0.163) (of the training images)
          augmentation   hierarchy
          source         generated, `hex_ssl.train.data.Hierarchy`, also in other numbers and sizes
          where to put   nothing to do
          licence        MIT or Apache-2.0
          cite           this package
    """
    if name is None:
        print(_table())
        return
    card = dataset_card(name)
    print(f"{card.name}: {card.title}")
    for heading, text in card.lines():
        print(f"  {heading:14} {text}")


HEADINGS = ("name", "classes", "superclasses", "train", "test", "size", "title")
"""Columns of the table of all datasets."""


def card_row(card: Card) -> tuple[str, ...]:
    """The row of a dataset in the table with the columns `HEADINGS`."""
    numbers = (card.classes, card.superclasses, card.splits.get("train"), card.splits.get("test"), card.image_size)
    # "?" depends on the files, "-" means that the dataset has none.
    unknown = "-" if card.splits else "?"
    return (card.name, *(unknown if number is None else f"{number:,}" for number in numbers), card.title)


def _table() -> str:
    rows = [HEADINGS, *(card_row(load_card(name)) for name in card_names())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = []
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers, row[-1]]))
    return "\n".join(lines)
