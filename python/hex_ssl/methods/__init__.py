"""Self-supervised methods as LightningModules, one file each, on one base."""

from hex_ssl.extras import train_extra

with train_extra():
    from hex_ssl.methods.all4one import All4One as All4One
    from hex_ssl.methods.barlow_twins import BarlowTwins as BarlowTwins
    from hex_ssl.methods.base import Method as Method
    from hex_ssl.methods.build import METHODS as METHODS
    from hex_ssl.methods.build import build_hex_loss as build_hex_loss
    from hex_ssl.methods.build import build_loss as build_loss
    from hex_ssl.methods.build import build_method as build_method
    from hex_ssl.methods.build import build_threshold as build_threshold
    from hex_ssl.methods.byol import BYOL as BYOL
    from hex_ssl.methods.mocov2 import MoCoV2 as MoCoV2
    from hex_ssl.methods.momentum import MomentumEncoder as MomentumEncoder
    from hex_ssl.methods.nnclr import NNCLR as NNCLR
    from hex_ssl.methods.queue import Queue as Queue
    from hex_ssl.methods.simclr import SimCLR as SimCLR
    from hex_ssl.methods.simsiam import SimSiam as SimSiam
    from hex_ssl.methods.vicreg import VICReg as VICReg
