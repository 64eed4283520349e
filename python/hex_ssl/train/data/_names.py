"""The public names of `hex_ssl.train.data`."""

from hex_ssl.train.extras import train_extra

with train_extra():
    from hex_ssl.train.data.batch import Batch as Batch
    from hex_ssl.train.data.batched_views import BatchedView as BatchedView
    from hex_ssl.train.data.card import Card as Card
    from hex_ssl.train.data.cards_table import dataset_card as dataset_card
    from hex_ssl.train.data.cards_table import list_datasets as list_datasets
    from hex_ssl.train.data.cards_table import print_cards as print_cards
    from hex_ssl.train.data.catalogue import CardWarning as CardWarning
    from hex_ssl.train.data.catalogue import build_dataset as build_dataset
    from hex_ssl.train.data.digit_views import DigitView as DigitView
    from hex_ssl.train.data.digits import Digits as Digits
    from hex_ssl.train.data.evaluation_images import EvaluationImages as EvaluationImages
    from hex_ssl.train.data.folder import Folder as Folder
    from hex_ssl.train.data.hierarchy import Hierarchy as Hierarchy
    from hex_ssl.train.data.images import ArrayImages as ArrayImages
    from hex_ssl.train.data.images import FileImages as FileImages
    from hex_ssl.train.data.images import ImageDataset as ImageDataset
    from hex_ssl.train.data.module import PretrainData as PretrainData
    from hex_ssl.train.data.policies import POLICIES as POLICIES
    from hex_ssl.train.data.policies import PhotoView as PhotoView
    from hex_ssl.train.data.policies import find_policy as find_policy
    from hex_ssl.train.data.worker_views import WorkerView as WorkerView
