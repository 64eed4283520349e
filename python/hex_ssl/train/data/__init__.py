"""Images for pretraining: the datasets, their views, and the Lightning data module that combines them.

`list_datasets`, `dataset_card` and `build_dataset` are the catalogue. `POLICIES` holds the augmentation policies, most
of them solo-learn's. Views are drawn one image at a time by the DataLoader workers, or one batch at a time on the
device.
"""

# ruff: noqa: F403, F405  # `__all__` lists the names of the module `_names`

from typing import TYPE_CHECKING

from hex_ssl._on_demand import on_demand

__all__ = [
    "POLICIES",
    "ArrayImages",
    "Batch",
    "BatchedView",
    "Card",
    "CardWarning",
    "DigitView",
    "Digits",
    "EvaluationImages",
    "FileImages",
    "Folder",
    "Hierarchy",
    "ImageDataset",
    "PhotoView",
    "PretrainData",
    "WorkerView",
    "build_dataset",
    "dataset_card",
    "find_policy",
    "list_datasets",
    "print_cards",
]

if TYPE_CHECKING:
    from hex_ssl.train.data._names import *
else:
    __getattr__ = on_demand(__name__, __all__)
