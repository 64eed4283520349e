"""Evaluation of frozen representations: k-NN and the linear probe. Every result carries its protocol."""

from hex_ssl.extras import train_extra

with train_extra():
    from hex_ssl.evaluate.features import Features as Features
    from hex_ssl.evaluate.features import extract_features as extract_features
    from hex_ssl.evaluate.knn import knn_accuracy as knn_accuracy
    from hex_ssl.evaluate.knn import knn_predict as knn_predict
    from hex_ssl.evaluate.linear import linear_probe_accuracy as linear_probe_accuracy
    from hex_ssl.evaluate.report import Protocol as Protocol
    from hex_ssl.evaluate.report import evaluate_backbone as evaluate_backbone
