"""Pictures of runs, from their metrics files and representations."""

from hex_ssl.extras import train_extra

with train_extra():
    from hex_ssl.analysis.plots import plot_accuracy as plot_accuracy
    from hex_ssl.analysis.plots import plot_embedding as plot_embedding
    from hex_ssl.analysis.plots import plot_training as plot_training
