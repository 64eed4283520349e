"""What happens beside the training: metrics, online evaluation, checkpoints, export of the backbone."""

from hex_ssl.extras import train_extra

with train_extra():
    from hex_ssl.callbacks.checkpoints import AtomicCheckpoints as AtomicCheckpoints
    from hex_ssl.callbacks.checkpoints import Checkpoints as Checkpoints
    from hex_ssl.callbacks.classifier import OnlineClassifier as OnlineClassifier
    from hex_ssl.callbacks.epochs import EpochMetrics as EpochMetrics
    from hex_ssl.callbacks.evaluation import OnlineEvaluation as OnlineEvaluation
    from hex_ssl.callbacks.export import save_backbone as save_backbone
    from hex_ssl.callbacks.lines import EpochLines as EpochLines
    from hex_ssl.callbacks.lines import shows_progress_bar as shows_progress_bar
    from hex_ssl.callbacks.metrics import MetricsFiles as MetricsFiles
    from hex_ssl.callbacks.seeds import SeededSteps as SeededSteps
