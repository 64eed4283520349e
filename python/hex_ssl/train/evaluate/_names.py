"""The public names of `hex_ssl.train.evaluate`."""

from hex_ssl.train.extras import train_extra

with train_extra():
    from hex_ssl.train.evaluate.accuracy import class_accuracies as class_accuracies
    from hex_ssl.train.evaluate.commands import Evaluation as Evaluation
    from hex_ssl.train.evaluate.commands import prepare as prepare
    from hex_ssl.train.evaluate.commands import run_finetune as run_finetune
    from hex_ssl.train.evaluate.commands import run_knn as run_knn
    from hex_ssl.train.evaluate.commands import run_probe as run_probe
    from hex_ssl.train.evaluate.commands import run_transfer as run_transfer
    from hex_ssl.train.evaluate.features import Features as Features
    from hex_ssl.train.evaluate.features import extract_features as extract_features
    from hex_ssl.train.evaluate.knn import knn_accuracies as knn_accuracies
    from hex_ssl.train.evaluate.knn import knn_accuracy as knn_accuracy
    from hex_ssl.train.evaluate.knn import knn_predict as knn_predict
    from hex_ssl.train.evaluate.knn import knn_scores as knn_scores
    from hex_ssl.train.evaluate.knn import nearest_neighbours as nearest_neighbours
    from hex_ssl.train.evaluate.linear import linear_probe_accuracy as linear_probe_accuracy
    from hex_ssl.train.evaluate.report import Protocol as Protocol
    from hex_ssl.train.evaluate.report import evaluate_backbone as evaluate_backbone
    from hex_ssl.train.evaluate.results import Results as Results
    from hex_ssl.train.evaluate.results import read_results as read_results
    from hex_ssl.train.evaluate.settings import FinetuneConfig as FinetuneConfig
    from hex_ssl.train.evaluate.settings import KNNConfig as KNNConfig
    from hex_ssl.train.evaluate.settings import ProbeConfig as ProbeConfig
    from hex_ssl.train.evaluate.settings import TransferConfig as TransferConfig
