"""The handwritten digits that scikit-learn ships: 1,797 grey images of 8x8 pixels in 10 classes, no download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
(the test part, as in `sklearn.datasets.load_digits`).
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

from hex_ssl.train.data.images import ArrayImages

TEST_SHARE = 0.2
SPLIT_SEED = 0
WHITE = 16.0
"""scikit-learn's grey values range from 0 to 16."""


class Digits(ArrayImages):
    """The digits as (image, label): float32 [1, S, S] in [0, 1], and 0 to 9.

    The split is stratified by class and always the same: 1,437 training images and 360 test images.

    Args:
        split: "train" or "test".
        image_size: S, the side in pixels. Sizes other than 8 use bilinear interpolation.

    Raises:
        ValueError: `split` is unknown.

    Example:
        >>> image, label = Digits("train")[0]
        >>> image.shape, len(Digits("train")), len(Digits("test"))
        (torch.Size([1, 8, 8]), 1437, 360)
    """

    def __init__(self, split: str, image_size: int = 8) -> None:
        if split not in ("train", "test"):
            raise ValueError(f'expected `split` to be one of "train", "test", but got "{split}"')
        pixels, labels = load_digits(return_X_y=True)
        train, test = train_test_split(
            np.arange(len(labels)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=labels
        )
        chosen = train if split == "train" else test
        images = torch.from_numpy(pixels[chosen] / WHITE).float().view(-1, 1, 8, 8)
        if image_size != 8:
            images = F.interpolate(images, size=image_size, mode="bilinear", antialias=True).clamp(0.0, 1.0)
        super().__init__(images, labels[chosen], classes=10, class_names=[str(digit) for digit in range(10)])
