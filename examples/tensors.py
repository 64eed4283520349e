"""The loss on tensors, with its threshold and statistics.

python examples/tensors.py
"""

import torch

from hex_ssl import HexLoss

torch.manual_seed(0)
superclasses = torch.randn(4, 32)[torch.arange(128) % 4]  # four groups of images that look alike
images = superclasses + 0.7 * torch.randn(128, 32)
z1 = (images + 0.3 * torch.randn(128, 32)).requires_grad_()  # two views of each
z2 = (images + 0.3 * torch.randn(128, 32)).requires_grad_()

criterion = HexLoss(temperature=0.1, threshold="adaptive")
loss = criterion(z1, z2)
loss.backward()

print(f"loss {loss.item():.3f}, gradient {z1.grad.shape}")
for name, value in criterion.statistics._asdict().items():
    print(f"{name}: {value.item():.3f}")
