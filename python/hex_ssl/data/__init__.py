"""Images for pretraining: the datasets, their views, and the Lightning data module that joins them.

`list_datasets`, `dataset_card` and `build_dataset` are the catalogue. `POLICIES` are solo-learn's augmentation
policies; views are drawn an image at a time by the processes that load the images, or a batch at a time on the device.
"""

from typing import TYPE_CHECKING

from hex_ssl._on_demand import on_demand

if TYPE_CHECKING:
    from hex_ssl.data._names import *  # noqa: F403  # that module lists them
else:
    __getattr__ = on_demand(__name__)
