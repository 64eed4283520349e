"""What `hex_ssl.data` offers."""

from hex_ssl.extras import train_extra

with train_extra():
    from hex_ssl.data.batch import Batch as Batch
    from hex_ssl.data.batched_views import BatchedView as BatchedView
    from hex_ssl.data.card import Card as Card
    from hex_ssl.data.cards_table import dataset_card as dataset_card
    from hex_ssl.data.cards_table import list_datasets as list_datasets
    from hex_ssl.data.cards_table import print_cards as print_cards
    from hex_ssl.data.catalogue import CardWarning as CardWarning
    from hex_ssl.data.catalogue import build_dataset as build_dataset
    from hex_ssl.data.digit_views import DigitView as DigitView
    from hex_ssl.data.digits import Digits as Digits
    from hex_ssl.data.evaluation_images import EvaluationImages as EvaluationImages
    from hex_ssl.data.folder import Folder as Folder
    from hex_ssl.data.hierarchy import Hierarchy as Hierarchy
    from hex_ssl.data.images import ArrayImages as ArrayImages
    from hex_ssl.data.images import FileImages as FileImages
    from hex_ssl.data.images import ImageDataset as ImageDataset
    from hex_ssl.data.module import PretrainData as PretrainData
    from hex_ssl.data.policies import POLICIES as POLICIES
    from hex_ssl.data.policies import PhotoView as PhotoView
    from hex_ssl.data.policies import find_policy as find_policy
    from hex_ssl.data.worker_views import WorkerView as WorkerView
