"""Generates the page `docs/datasets.md` from the cards and the policies."""

from collections.abc import Iterable

from hex_ssl.train.data.card import Card, card_names, load_card
from hex_ssl.train.data.cards_table import HEADINGS, card_row
from hex_ssl.train.data.policies import POLICIES, PhotoView

INTRODUCTION = """\
# Datasets

`hex-ssl datasets` prints the table, and `hex-ssl datasets NAME` prints a card. ROOT is the folder given as `data.root`.
Nothing is downloaded for you. If a dataset is missing, the error message says which files to put where.
(`hex_ssl.train.data.cards_page.cards_markdown` generates this page.)

`?` depends on the files. A size of `-` means that images vary in size. The default size of their views is then the
median of the shorter sides of 64 images, but at most 224 pixels. If a split does not have the numbers of images and
classes that its card states, a warning shows both. `hex-ssl pretrain` and the evaluations first print what they found:
the number of images, how many have a label, and the number of classes."""

SUPERCLASSES = """\
## Superclasses

`loss.hex: supervised` and the superclass evaluations use superclasses. If a card names several levels, `data.level`
chooses one, such as `--data.level family`.

A file `superclasses.csv` in ROOT sets the superclasses of any dataset and replaces its own. It is UTF-8, with a line
`class,superclass` for each class. A semicolon or a tab may replace the comma. A class is identified by the name of its
folder, by its own name if no other class has that name, or by its number if classes have no names. Lines for classes
that the dataset lacks, such as a heading, are ignored. A class with no line or with two lines is an error."""

IMAGES = """\
## Images

A single function, `hex_ssl.train.data.images.decode_image`, decodes all images, whatever their source, for training and
for evaluation. It returns colour images with 8 bits per channel, as a viewer shows them:

- Images are turned upright, according to their EXIF orientation. (torchvision's `ImageFolder` ignores it.)
- Transparent pixels are shown on white. (`convert("RGB")` shows the colour that transparency hides.)
- Images with more than 8 bits are scaled. White is 65,535 in 16-bit images, the file's own maximum in PGM, and 1.0 in
  floating-point images. Images without a known white are refused: signed or 32-bit integers, or floats outside
  [0, 1]."""

VIEWS = """\
## Views

`data.augmentation` names a policy. `auto` is the dataset's own policy. `asymmetric` and `vicreg` stand for their
`_cifar` variants for views of up to 64 pixels, and for their `_imagenet` variants otherwise. A view is as large as the
images, but at most 224 pixels, unless `data.image_size` is set. The steps are crop (bicubic), jitter, grey, blur,
solarise and flip, in this order. Cells are probabilities unless the heading says otherwise. Two values mean that the
two views differ. All policies are solo-learn's except `hierarchy` and `digits` (affine maps, contrast, noise and an
erased square, for grey images).

With `data.augment_on: device`, the training device augments a whole batch at a time, with separate random numbers for
each image, and the CPU never waits for it. Images in memory (digits, hierarchy, CIFAR, STL-10, and parquet files or
your own Dataset with small images) are copied to the device once. For other images, the DataLoader workers decode and
crop, and send uint8 tensors. With `workers`, the DataLoader workers augment one image at a time with torchvision's
transforms. The default, `auto`, is `device` for images in memory and on machines with a GPU, and `workers` otherwise.
With the same seed the two give different views from the same distribution, so choose one of them explicitly if a run is
to be resumed on another machine. In both cases, order and views depend only on `run.seed`, the epoch, the image and the
number of the view.

`data.views` defines your own views in place of a policy: see [pretraining.md](pretraining.md#views-of-your-own)."""

OWN = """\
## Images of your own

Folders and parquet files need no code: see `folder` and `parquet` below. For anything else, write a function and set
`data.name: module:function`. It is called with the split, `train` or `test` (for which it may return None), with `root`
if `data.root` is set, and with `data.arguments`. It returns a torch Dataset with a length. An item is an image or a
tuple that begins with an image: a PIL image, or a tensor [C, H, W], uint8 or floating point in [0, 1]. Do not normalise
the images or apply random transforms: hex-ssl draws the views, and decodes small images only once. The Dataset's
attribute `targets` or `labels` holds the labels, and `classes` the class names. A `Subset`, such as those of
`random_split`, has those of the whole Dataset. In a `TensorDataset`, a second tensor with a whole number for each image
holds the labels.

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

If this is in a file `stripes.py` in the current folder, train on these images with

    hex-ssl pretrain --data.name stripes:make --data.arguments.count 500

An evaluation of a run folder calls the function that the folder's configuration names. A single backbone file may come
from someone else, so an evaluation of such a file calls the function only if you name it, too
(`--dataset stripes:make`).

More than 1 GiB of encoded images in parquet files are copied once to a file in `~/.cache/hex-ssl`, or in
`$HEX_SSL_CACHE` if it is set, and memory-mapped. The copy takes as much disk space as the images. You may delete it."""

POLICY_HEADINGS = (
    "policy",
    "crop, fraction of the area",
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
