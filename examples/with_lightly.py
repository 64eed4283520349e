"""HexLoss in lightly's SimCLR: its transform and its head, the loss in one line.

python examples/with_lightly.py [--quick]
"""

import argparse

import numpy as np
import torch
import torchvision
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from hex_ssl import HexLoss

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a few steps on few images")
quick = parser.parse_args().quick
torch.manual_seed(0)


class SimCLR(nn.Module):
    """A backbone and lightly's projection head."""

    def __init__(self) -> None:
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = SimCLRProjectionHead(512, 512, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection_head(self.backbone(x).flatten(start_dim=1))


digits = (load_digits().images[: 64 if quick else 1400] * 15).astype(np.uint8)
images = [Image.fromarray(digit).convert("RGB") for digit in digits]
transform = SimCLRTransform(input_size=32, hf_prob=0.0, gaussian_blur=0.0)


def two_views(batch: list[tuple[Image.Image]]) -> list[torch.Tensor]:
    """Two views of each image, stacked."""
    return [torch.stack(view) for view in zip(*(transform(image) for (image,) in batch), strict=True)]


loader = torch.utils.data.DataLoader(
    [(image,) for image in images],
    batch_size=32 if quick else 128,
    shuffle=True,
    drop_last=True,
    collate_fn=two_views,
)
model = SimCLR()
criterion = HexLoss(temperature=0.1)  # was: lightly.loss.NTXentLoss(temperature=0.1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

for epoch in range(1 if quick else 5):
    for x0, x1 in loader:
        z0, z1 = model(x0), model(x1)
        loss = criterion(z0, z1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
