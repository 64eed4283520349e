"""Analysis of runs: tables and figures of their features, and an HTML page that compares runs."""

from hex_ssl.train.extras import train_extra

with train_extra():
    from hex_ssl.train.analysis.analyze import analyze as analyze
    from hex_ssl.train.analysis.collapse import effective_rank as effective_rank
    from hex_ssl.train.analysis.collapse import group_ranks as group_ranks
    from hex_ssl.train.analysis.neighbours import nearest_in_batches as nearest_in_batches
    from hex_ssl.train.analysis.plane import to_plane as to_plane
    from hex_ssl.train.analysis.plots import plot_accuracy as plot_accuracy
    from hex_ssl.train.analysis.plots import plot_embedding as plot_embedding
    from hex_ssl.train.analysis.plots import plot_training as plot_training
    from hex_ssl.train.analysis.report import report as report
    from hex_ssl.train.command_settings import AnalyzeConfig as AnalyzeConfig
    from hex_ssl.train.command_settings import ReportConfig as ReportConfig
