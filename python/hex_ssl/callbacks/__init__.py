"""What happens beside the training: metrics files, online k-NN, export of the backbone."""

from hex_ssl.extras import train_extra

with train_extra():
    from hex_ssl.callbacks.export import BackboneExport as BackboneExport
    from hex_ssl.callbacks.knn import OnlineKNN as OnlineKNN
    from hex_ssl.callbacks.metrics import MetricsFiles as MetricsFiles
