"""Export of the backbone as safetensors."""

from pathlib import Path

from safetensors.torch import save
from torch import nn

from hex_ssl.train.whole_file import whole_file


def save_backbone(backbone: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes the weights of a backbone. The file is written atomically.

    Args:
        backbone: The network.
        path: The file.
        metadata: Metadata stored with the weights, from `hex_ssl.train.backbones.describe_backbone`.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    with whole_file(path) as file:
        file.write(save(weights, metadata))
