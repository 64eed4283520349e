"""SimCLR in plain PyTorch on the handwritten digits of scikit-learn, with HexLoss.

python examples/simclr.py [--epochs 20] [--quick]
"""

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torchvision.transforms import v2

from hex_ssl import HexLoss

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--quick", action="store_true", help="one epoch on few images")
arguments = parser.parse_args()
torch.manual_seed(0)

pixels, labels = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
train, test = images[:1400], images[1400:]
if arguments.quick:
    train, arguments.epochs = train[:256], 1

augment = v2.Compose(
    [v2.RandomAffine(degrees=20, translate=(0.15, 0.15), scale=(0.8, 1.2)), v2.GaussianNoise(sigma=0.15)]
)
backbone = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
)
projector = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
model = nn.Sequential(backbone, projector)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
criterion = HexLoss(temperature=0.2)

for epoch in range(arguments.epochs):
    for batch in train[torch.randperm(len(train))].split(256):
        # One draw for each image: transforms of a batch would share theirs.
        z1, z2 = (model(torch.stack([augment(image) for image in batch])) for _ in range(2))
        loss = criterion(z1, z2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    threshold = criterion.statistics.threshold.item()
    print(f"epoch {epoch}: loss {loss.item():.3f}, threshold {threshold:.3f}")

backbone.eval()
with torch.no_grad():
    train_features, test_features = backbone(train), backbone(test)
knn = KNeighborsClassifier(20, metric="cosine").fit(train_features, labels[: len(train)])
print(f"k-NN accuracy: {knn.score(test_features, labels[1400:]):.1%}")
