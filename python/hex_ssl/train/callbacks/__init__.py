"""Callbacks and helpers of a run: metrics, online evaluation, checkpoints, export of the backbone."""

from hex_ssl.train.extras import train_extra

with train_extra():
    from hex_ssl.train.callbacks.checkpoints import AtomicCheckpoints as AtomicCheckpoints
    from hex_ssl.train.callbacks.checkpoints import Checkpoints as Checkpoints
    from hex_ssl.train.callbacks.classifier import OnlineClassifier as OnlineClassifier
    from hex_ssl.train.callbacks.epochs import EpochMetrics as EpochMetrics
    from hex_ssl.train.callbacks.evaluation import OnlineEvaluation as OnlineEvaluation
    from hex_ssl.train.callbacks.export import save_backbone as save_backbone
    from hex_ssl.train.callbacks.lines import EpochBar as EpochBar
    from hex_ssl.train.callbacks.lines import EpochLines as EpochLines
    from hex_ssl.train.callbacks.metrics import MetricsFiles as MetricsFiles
    from hex_ssl.train.callbacks.seeds import SeededSteps as SeededSteps
