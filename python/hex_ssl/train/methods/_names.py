"""The public names of `hex_ssl.train.methods`."""

from hex_ssl.train.extras import train_extra

with train_extra():
    from hex_ssl.train.methods.base import Method as Method
    from hex_ssl.train.methods.build import build_method as build_method
    from hex_ssl.train.methods.build import method_class as method_class
    from hex_ssl.train.methods.losses import build_hex_loss as build_hex_loss
    from hex_ssl.train.methods.losses import build_loss as build_loss
    from hex_ssl.train.methods.losses import build_threshold as build_threshold
