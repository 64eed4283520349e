"""hex_ssl's CLIP loss behind the interface of open_clip's ClipLoss: digits and their captions, without a download.

python examples/with_open_clip.py [--quick]
"""

import argparse

import numpy as np
import open_clip
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hex_ssl.functional import clip_loss


class ClipLoss(nn.Module):
    """open_clip's ClipLoss without an N x N matrix. `logit_scale` gets its gradient, too.

    With several processes, each row is compared with the rows of all processes, and gradients reach all of them. The
    options that choose among ways to gather therefore change nothing.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__()
        self.gather_distributed = world_size > 1

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,  # softmax does not see it
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        loss = clip_loss(
            image_features, text_features, temperature=1 / logit_scale, gather_distributed=self.gather_distributed
        )
        return {"contrastive_loss": loss} if output_dict else loss


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a few steps")
quick = parser.parse_args().quick
torch.manual_seed(0)

names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
captions = open_clip.SimpleTokenizer(context_length=8)([f"the digit {name}" for name in names])
vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
text = {"context_length": 8, "width": 64, "heads": 2, "layers": 2}
model = open_clip.CLIP(64, vision, text, output_dict=True)
preprocess = open_clip.image_transform(32, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3)

digits = load_digits()
pictures = (digits.images * 15).astype(np.uint8)[: 300 if quick else None]
images = torch.stack([preprocess(Image.fromarray(picture).convert("RGB")) for picture in pictures])
labels = torch.tensor(digits.target[: len(images)])
train = len(images) * 4 // 5
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
criterion = ClipLoss()  # was: open_clip.ClipLoss()

with torch.no_grad():
    outputs = model(images[:64], captions[labels[:64]])
    print(f"loss {criterion(**outputs):.4f}, open_clip's {open_clip.ClipLoss()(**outputs):.4f}")

for _ in range(5 if quick else 300):
    chosen = torch.randint(train, (64,))
    loss = criterion(**model(images[chosen], captions[labels[chosen]]), output_dict=True)["contrastive_loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, np.log(100))

model.eval()
with torch.no_grad():
    similarities = model.encode_image(images[train:], normalize=True) @ model.encode_text(captions, normalize=True).T
accuracy = (similarities.argmax(1) == labels[train:]).float().mean().item()
print(f"loss {loss.item():.3f}, scale {model.logit_scale.exp().item():.2f}, zero-shot accuracy {accuracy:.1%}")
