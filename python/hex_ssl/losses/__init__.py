"""The losses as modules. They hold the settings, the epoch and the statistics of the last forward.

The formulas of HEX and of the contrastive losses are in :mod:`hex_ssl.functional`. Each other module has a function
with the formula beside it.
"""

from hex_ssl.losses.barlow_twins import BarlowTwinsLoss as BarlowTwinsLoss
from hex_ssl.losses.barlow_twins import barlow_twins_loss as barlow_twins_loss
from hex_ssl.losses.byol import BYOLLoss as BYOLLoss
from hex_ssl.losses.byol import byol_loss as byol_loss
from hex_ssl.losses.clip import CLIPLoss as CLIPLoss
from hex_ssl.losses.dcl import DCLLoss as DCLLoss
from hex_ssl.losses.dcl import DCLWLoss as DCLWLoss
from hex_ssl.losses.dcl import negative_mises_fisher_weights as negative_mises_fisher_weights
from hex_ssl.losses.feature_contrast import FeatureContrastLoss as FeatureContrastLoss
from hex_ssl.losses.feature_contrast import feature_contrast_loss as feature_contrast_loss
from hex_ssl.losses.hcl import HCLLoss as HCLLoss
from hex_ssl.losses.hex import HexLoss as HexLoss
from hex_ssl.losses.infonce import InfoNCELoss as InfoNCELoss
from hex_ssl.losses.moco import MoCoLoss as MoCoLoss
from hex_ssl.losses.moco import moco_loss as moco_loss
from hex_ssl.losses.nnclr import NNCLRLoss as NNCLRLoss
from hex_ssl.losses.nnclr import nnclr_loss as nnclr_loss
from hex_ssl.losses.ntxent import NTXentLoss as NTXentLoss
from hex_ssl.losses.simsiam import SimSiamLoss as SimSiamLoss
from hex_ssl.losses.simsiam import simsiam_loss as simsiam_loss
from hex_ssl.losses.supcon import SupConLoss as SupConLoss
from hex_ssl.losses.vicreg import VICRegLoss as VICRegLoss
from hex_ssl.losses.vicreg import vicreg_loss as vicreg_loss

__all__ = [
    "BYOLLoss",
    "BarlowTwinsLoss",
    "CLIPLoss",
    "DCLLoss",
    "DCLWLoss",
    "FeatureContrastLoss",
    "HCLLoss",
    "HexLoss",
    "InfoNCELoss",
    "MoCoLoss",
    "NNCLRLoss",
    "NTXentLoss",
    "SimSiamLoss",
    "SupConLoss",
    "VICRegLoss",
    "barlow_twins_loss",
    "byol_loss",
    "feature_contrast_loss",
    "moco_loss",
    "negative_mises_fisher_weights",
    "nnclr_loss",
    "simsiam_loss",
    "vicreg_loss",
]
