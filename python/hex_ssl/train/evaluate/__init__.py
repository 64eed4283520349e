"""Evaluation of representations: k-NN, linear probe, fine-tuning, transfer. Every result carries its protocol.

`run_knn`, `run_probe`, `run_finetune` and `run_transfer` are the commands: they take a run folder and return a table.
The functions that they use need only features and labels.
"""

# ruff: noqa: F403, F405  # `__all__` lists the names of the module `_names`

from typing import TYPE_CHECKING

from hex_ssl._on_demand import on_demand
from hex_ssl.train.evaluate.settings import FinetuneConfig as FinetuneConfig
from hex_ssl.train.evaluate.settings import KNNConfig as KNNConfig
from hex_ssl.train.evaluate.settings import ProbeConfig as ProbeConfig
from hex_ssl.train.evaluate.settings import TransferConfig as TransferConfig

__all__ = [
    "Evaluation",
    "Features",
    "FinetuneConfig",
    "KNNConfig",
    "ProbeConfig",
    "Protocol",
    "Results",
    "TransferConfig",
    "class_accuracies",
    "evaluate_backbone",
    "extract_features",
    "knn_accuracies",
    "knn_accuracy",
    "knn_predict",
    "knn_scores",
    "linear_probe_accuracy",
    "nearest_neighbours",
    "prepare",
    "read_results",
    "run_finetune",
    "run_knn",
    "run_probe",
    "run_transfer",
]

if TYPE_CHECKING:
    from hex_ssl.train.evaluate._names import *
else:
    __getattr__ = on_demand(__name__, __all__)
