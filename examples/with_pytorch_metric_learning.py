"""HexLoss where pytorch-metric-learning's SelfSupervisedLoss stands, and SupConLoss where its SupConLoss stands.

Its AccuracyCalculator looks at the embeddings after each training.

python examples/with_pytorch_metric_learning.py [--quick]
"""

import argparse
from collections.abc import Callable

import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hex_ssl import HexLoss, SupConLoss

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a few steps")
quick = parser.parse_args().quick
torch.manual_seed(0)

pixels, targets = load_digits(return_X_y=True)
data, classes = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(targets)
train, test = slice(0, 1400), slice(1400, None)
calculator = AccuracyCalculator(include=("precision_at_1",), k=1, knn_func=CustomKNN(CosineSimilarity()))


def augment(pixels: Tensor) -> Tensor:
    """Drops pixels and adds noise."""
    kept = torch.rand_like(pixels) > 0.3
    return pixels * kept + 0.1 * torch.randn_like(pixels)


def training(name: str, loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
    """Trains a new trunk with a loss of the images and their labels."""
    trunk = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))
    optimizer = torch.optim.Adam(trunk.parameters(), lr=1e-3)
    for _ in range(10 if quick else 300):
        chosen = torch.randint(1400, (256,))
        loss = loss_of(trunk, data[chosen], classes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trunk.eval()
    with torch.no_grad():
        embeddings = trunk(data)
    found = calculator.get_accuracy(embeddings[test], classes[test], embeddings[train], classes[train])
    print(f"{name}: loss {loss.item():.3f}, precision at 1: {found['precision_at_1']:.1%}")


self_supervised = HexLoss(temperature=0.2)  # was: losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=0.2))
training("HexLoss", lambda trunk, images, _: self_supervised(trunk(augment(images)), trunk(augment(images))))

supervised = SupConLoss(temperature=0.1)  # was: losses.SupConLoss(temperature=0.1)
training("SupConLoss", lambda trunk, images, labels: supervised(trunk(augment(images)), labels=labels))

embeddings, labels = data[:256], classes[:256]
ours, theirs = supervised(embeddings, labels=labels), losses.SupConLoss(temperature=0.1)(embeddings, labels)
print(f"on the same embeddings: SupConLoss {ours:.4f}, pytorch-metric-learning's {theirs:.4f}")
