"""Self-supervised methods as LightningModules, one file each, on one base."""

from hex_ssl.extras import train_extra

with train_extra():
    from hex_ssl.methods.base import Method as Method
    from hex_ssl.methods.build import build_loss as build_loss
    from hex_ssl.methods.build import build_method as build_method
    from hex_ssl.methods.simclr import SimCLR as SimCLR
