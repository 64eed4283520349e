"""Export of the backbone as safetensors."""

import os
from pathlib import Path

import lightning as L
from safetensors.torch import save_file
from torch import nn

from hex_ssl.methods.base import Method


def save_backbone(backbone: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes a backbone's weights beside `path` and renames them, so that a file of that name is always whole.

    Args:
        backbone: The network.
        path: The file.
        metadata: Text kept with the weights, as `hex_ssl.backbones.describe_backbone` gives it.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    beside = path.with_name(path.name + ".part")
    save_file(weights, str(beside), metadata=metadata)
    os.replace(beside, path)


class BackboneExport(L.Callback):
    """Saves the backbone when the training ends.

    Args:
        path: The file.
        metadata: See `save_backbone`.
    """

    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        self.path = path
        self.metadata = metadata

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Method)
        if trainer.is_global_zero:
            save_backbone(pl_module.backbone, self.path, self.metadata)
