"""Self-supervised methods as LightningModules, one file each, on one base."""

from hex_ssl.train.extras import train_extra

with train_extra():
    from hex_ssl.train.methods.all4one import All4One as All4One
    from hex_ssl.train.methods.barlow_twins import BarlowTwins as BarlowTwins
    from hex_ssl.train.methods.base import Method as Method
    from hex_ssl.train.methods.build import METHODS as METHODS
    from hex_ssl.train.methods.build import build_hex_loss as build_hex_loss
    from hex_ssl.train.methods.build import build_loss as build_loss
    from hex_ssl.train.methods.build import build_method as build_method
    from hex_ssl.train.methods.build import build_threshold as build_threshold
    from hex_ssl.train.methods.byol import BYOL as BYOL
    from hex_ssl.train.methods.mocov2 import MoCoV2 as MoCoV2
    from hex_ssl.train.methods.nnclr import NNCLR as NNCLR
    from hex_ssl.train.methods.simclr import SimCLR as SimCLR
    from hex_ssl.train.methods.simsiam import SimSiam as SimSiam
    from hex_ssl.train.methods.vicreg import VICReg as VICReg
