"""The page `docs/datasets.md`, written from the cards and the policies, so that it says what they say."""

from collections.abc import Iterable

from hex_ssl.train.data.card import Card, card_names, load_card
from hex_ssl.train.data.cards_table import HEADINGS, card_row
from hex_ssl.train.data.policies import POLICIES, PhotoView

INTRODUCTION = """\
# Datasets

`hex-ssl datasets` prints the table, `hex-ssl datasets NAME` a card. ROOT is the folder given as `data.root`; nothing is
downloaded for you, and a dataset that is missing ends with a message that says what to put where. (This page is written
by `hex_ssl.train.data.cards_page.cards_markdown`.)

`?` depends on the files; a size of `-` means images of various sizes. Their views are as large as the median of the
images' shorter sides (64 images are looked at), at most 224 pixels. Where a split holds other numbers of images or
classes than its card says, a warning names both. `hex-ssl pretrain`, and an evaluation, begin with a line on what they
found: images, how many have a label, and classes."""

SUPERCLASSES = """\
## Superclasses

Superclasses are what `loss.hex: supervised` and the superclass evaluations use. Where a card names several levels,
`data.level` chooses one, such as `--data.level family`.

A file `superclasses.csv` in ROOT says those of any dataset, in place of its own: UTF-8, a line `class,superclass` for
each class, or with a semicolon or a tab in place of the comma. A class is called as its folder is, or by its name where
no other class has that name, or by its number where classes have no names. Lines of classes that the dataset lacks,
such as a heading, say nothing; a class without a line or with two is an error."""

IMAGES = """\
## Images

Whatever an image comes from, and whether it is trained on or evaluated, it is decoded by one function,
`hex_ssl.train.data.images.decode_image`, to 8 bits a channel in colour, as a viewer shows it:

- upright: turned as its EXIF orientation says. (torchvision's `ImageFolder` leaves it as it is stored.)
- transparent pixels on white. (`convert("RGB")` shows the colour that transparency hides.)
- more than 8 bits scaled: white is 65,535 in 16-bit images, a PGM's own maximum, 1.0 in floating-point ones. Where
  white is not known, the image is refused: values with a sign or of 32 bits, or floats outside [0, 1]."""

VIEWS = """\
## Views

`data.augmentation` names a policy; `auto` is the dataset's own, and `asymmetric` and `vicreg` are their `_cifar`
variants for views of up to 64 pixels, else their `_imagenet` variants. A view is as large as the images where these are
smaller than 224 pixels, else 224, or `data.image_size`. Its steps are: crop (bicubic), jitter, grey, blur, solarise,
flip. Cells are probabilities where nothing else is said, and hold both where the two views differ. All policies are
solo-learn's but `hierarchy` and `digits` (affine maps, contrast, noise and an erased square, for grey images).

`data.augment_on: device` draws a batch at a time, each image for itself, on the device that trains, and nothing in it
waits for the device. Images in memory (digits, hierarchy, CIFAR, STL-10, small ones in parquet) are copied there once,
as bytes; the loading processes decode and crop the others, and send bytes. `workers` draws an image at a time with
torchvision's transforms, in the processes that load the images. `auto`, the default, is `device` for images in memory,
and wherever there is a GPU. The two draw differently from one seed, but alike in distribution: say which of them, if a
run is to go on on another machine. Either way order and views follow from `run.seed`, the epoch, the image and the
number of the view alone.

`data.views` says views of your own in place of a policy, see [pretraining.md](pretraining.md#views-of-your-own)."""

OWN = """\
## Images of your own

Folders and parquet files need no code: `folder` and `parquet` below. Anything else is a function of yours,
`data.name: module:function`. It is called with the split, `train` or `test` (for which it may return None), with
`root` where `data.root` is set, and with `data.arguments`. It returns a torch Dataset with a length: by number a PIL
image or a tensor [C, H, W], uint8 or in [0, 1], or a tuple that begins with one. The images are to be as they are,
without random transforms and not normalised: small ones are kept, and hex-ssl draws the views. Labels are the
Dataset's attribute `targets` or `labels`, class names its `classes`.

```python
import torch
from hex_ssl.train.data.own_dataset import OwnImages


class Stripes:
    classes = ["upright", "lying"]

    def __init__(self, count):
        self.targets = torch.arange(count) % 2

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = (torch.arange(24) // 3 % 2).expand(3, 24, 24).float()
        return image if self.targets[index] == 0 else image.mT


def make(split, count=1000):
    return Stripes(count if split == "train" else 100)


print(OwnImages(make("train"), "stripes:make").class_names)
```

```text
('upright', 'lying')
```

In a file `stripes.py`, which Python finds, these are the images of

    hex-ssl pretrain --data.name stripes:make --data.arguments.count 500

A run folder's configuration is yours, and so is the function it names. The file of a lone backbone may be anyone's: an
evaluation calls no function that it names unless you name it too (`--dataset stripes:make`).

Encoded images of parquet files beyond 1 GiB are copied once to a file in `~/.cache/hex-ssl`, or `$HEX_SSL_CACHE`, and
mapped from there, not held in memory: it takes as much room as the images, and may be deleted."""

POLICY_HEADINGS = (
    "policy",
    "crop, share of the area",
    "jitter",
    "brightness, contrast, saturation, hue",
    "grey",
    "blur",
    "solarise",
    "flip",
)


def cards_markdown() -> str:
    """All cards as a Markdown page.

    Example:
        >>> print(cards_markdown().splitlines()[0])
        # Datasets
    """
    cards = [load_card(name) for name in card_names()]
    table = _table(HEADINGS, map(card_row, cards))
    policies = _table(POLICY_HEADINGS, _policy_rows())
    return "\n\n".join([INTRODUCTION, table, SUPERCLASSES, OWN, IMAGES, VIEWS, policies, *map(_section, cards)]) + "\n"


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ("---",) * len(headings), *rows))


def _policy_rows() -> Iterable[tuple[str, ...]]:
    for name, policy in POLICIES.items():
        views = [_view_cells(view) for view in policy if isinstance(view, PhotoView)]
        if views:
            yield name, *(" / ".join(dict.fromkeys(cells)) for cells in zip(*views, strict=True))


def _view_cells(view: PhotoView) -> tuple[str, ...]:
    low, high = view.crop_scale
    strengths = ", ".join(f"{each:g}" for each in (view.brightness, view.contrast, view.saturation, view.hue))
    jitter, *others = (f"{each:g}" for each in (view.jitter, view.grey, view.blur, view.solarize, view.flip))
    return (f"{low:g} to {high:g}", jitter, strengths, *others)


def _section(card: Card) -> str:
    items = [f"- {f'**{heading}**: ' if heading else ''}{text}" for heading, text in card.lines()]
    return "\n".join([f"## {card.name}: {card.title}", "", *items])
