"""The page `docs/datasets.md`, written from the cards and the policies, so that it says what they say."""

from collections.abc import Iterable

from hex_ssl.train.data.card import Card, card_names, load_card
from hex_ssl.train.data.cards_table import HEADINGS, card_row
from hex_ssl.train.data.policies import POLICIES, PhotoView

INTRODUCTION = """\
# Datasets

`hex-ssl datasets` prints the table, and `hex-ssl datasets NAME` prints a card. ROOT is the folder given as `data.root`.
Nothing is downloaded for you. If a dataset is missing, the error message says which files to put where.
(`hex_ssl.train.data.cards_page.cards_markdown` generates this page.)

`?` depends on the files. A size of `-` means that images vary in size. Their views are then as large as the median of
the images' shorter sides (of 64 images), but at most 224 pixels. If a split holds other numbers of images or classes
than its card says, a warning names both. `hex-ssl pretrain` and the evaluations first print what they found: the number
of images, how many have a label, and the number of classes."""

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
  floating-point images. Images without a known white are refused: signed or
  32-bit values, or floats outside [0, 1]."""

VIEWS = """\
## Views

`data.augmentation` names a policy. `auto` is the dataset's own policy. `asymmetric` and `vicreg` stand for their
`_cifar` variants for views of up to 64 pixels, and for their `_imagenet` variants otherwise. A view is as large as the
images, but at most 224 pixels, unless `data.image_size` is set. The steps are crop (bicubic), jitter, grey, blur,
solarise and flip, in this order. Cells are probabilities unless the heading says otherwise. Two values mean that the
two views differ. All policies are solo-learn's except `hierarchy` and `digits` (affine maps, contrast, noise and an
erased square, for grey images).

With `data.augment_on: device`, the device that trains augments a whole batch at a time, with separate random numbers
for each image, and never waits for the device. Images in memory (digits, hierarchy, CIFAR, STL-10, small sets in
parquet) are copied to the device once, as bytes. For other images the DataLoader workers decode and crop, and send
bytes. With `workers`, the DataLoader workers augment one image at a time with torchvision's transforms. The default,
`auto`, is `device` for images in memory and on machines with a GPU. With the same seed the two give different views,
but from the same distribution, so name one of them if a run is to be resumed on another machine. In both cases, order
and views depend only on `run.seed`, the epoch, the image and the number of the view.

`data.views` defines your own views in place of a policy: see [pretraining.md](pretraining.md#views-of-your-own)."""

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
