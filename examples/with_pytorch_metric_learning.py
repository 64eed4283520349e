"""HexLoss where pytorch-metric-learning's SelfSupervisedLoss stands, with its AccuracyCalculator after training.

python examples/with_pytorch_metric_learning.py [--quick]
"""

import argparse

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.datasets import load_digits
from torch import nn

from hex_ssl import HexLoss

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a few steps")
quick = parser.parse_args().quick
torch.manual_seed(0)

pixels, labels = load_digits(return_X_y=True)
data = torch.tensor(pixels, dtype=torch.float32) / 16
classes = torch.tensor(labels)
train, test = data[:1400], data[1400:]

trunk = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))
optimizer = torch.optim.Adam(trunk.parameters(), lr=1e-3)
loss_func = HexLoss(temperature=0.2)  # was: SelfSupervisedLoss(NTXentLoss(temperature=0.2))


def augment(pixels: torch.Tensor) -> torch.Tensor:
    """Drops pixels and adds noise."""
    kept = torch.rand_like(pixels) > 0.3
    return pixels * kept + 0.1 * torch.randn_like(pixels)


for _ in range(10 if quick else 300):
    batch = train[torch.randint(len(train), (256,))]
    embeddings, ref_emb = trunk(augment(batch)), trunk(augment(batch))
    loss = loss_func(embeddings, ref_emb)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

trunk.eval()
calculator = AccuracyCalculator(include=("precision_at_1",), k=1, knn_func=CustomKNN(CosineSimilarity()))
with torch.no_grad():
    accuracies = calculator.get_accuracy(trunk(test), classes[1400:], trunk(train), classes[:1400])
print(f"loss {loss.item():.3f}, precision at 1: {accuracies['precision_at_1']:.1%}")
