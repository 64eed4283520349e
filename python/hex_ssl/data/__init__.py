"""Images for pretraining: datasets, two-view augmentation, and the Lightning data module that joins them."""

from hex_ssl.extras import train_extra

with train_extra():
    from hex_ssl.data.augmentation import Augmentation as Augmentation
    from hex_ssl.data.digits import Digits as Digits
    from hex_ssl.data.module import PretrainData as PretrainData
