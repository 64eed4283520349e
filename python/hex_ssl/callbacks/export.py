"""Export of the backbone as safetensors."""

import os
from pathlib import Path

from safetensors.torch import save_file
from torch import nn


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
