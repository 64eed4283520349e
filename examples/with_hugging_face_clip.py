"""CLIPLoss with Hugging Face's CLIPModel, in chunks: a small model with random weights, without a download.

python examples/with_hugging_face_clip.py [--quick]
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import BatchEncoding, CLIPConfig, CLIPModel

from hex_ssl import CLIPLoss
from hex_ssl.gradient_cache import GradientCache

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a few steps")
quick = parser.parse_args().quick
torch.manual_seed(0)


class Towers(nn.Module):
    """CLIPModel with the method `embed` that gradient caching calls."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model

    def embed(self, batch: BatchEncoding) -> tuple[Tensor, Tensor]:
        outputs = self.model(**batch)
        return outputs.image_embeds, outputs.text_embeds


shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
start, end = 10, 11  # the digits are the words
text = {**shape, "vocab_size": 12, "max_position_embeddings": 3, "bos_token_id": start, "eos_token_id": end}
vision = {**shape, "image_size": 8, "patch_size": 2, "num_channels": 1}
model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
model.eval()  # no dropout, so that the two losses below agree

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
labels = torch.tensor(digits.target)
train = 1400


def batch_of(chosen: Tensor) -> BatchEncoding:
    """Images and captions, as a processor gives them."""
    captions = torch.tensor([start, 0, end]).repeat(len(chosen), 1)
    captions[:, 1] = labels[chosen]
    return BatchEncoding(
        {"input_ids": captions, "attention_mask": torch.ones_like(captions), "pixel_values": images[chosen]}
    )


towers, cache, criterion = Towers(model), GradientCache(chunk=64), CLIPLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def loss_of(batch: BatchEncoding) -> Tensor:
    """The loss of the whole batch. The model sees 64 pairs at a time."""
    return criterion(*cache.embed(towers, batch), temperature=1 / model.logit_scale.exp())


with torch.no_grad():
    batch = batch_of(torch.arange(256))
    print(f"loss {loss_of(batch):.4f}, CLIPModel's {model(**batch, return_loss=True).loss:.4f}")

for _ in range(3 if quick else 100):
    loss = loss_of(batch_of(torch.randint(train, (256,))))
    optimizer.zero_grad()
    loss.backward()
    cache.backward(towers)
    optimizer.step()

with torch.no_grad():
    one_of_each = torch.stack([(labels == digit).nonzero()[0, 0] for digit in range(10)])
    captions = towers.embed(batch_of(one_of_each))[1]
    pictures = towers.embed(batch_of(torch.arange(train, len(images))))[0]
accuracy = ((pictures @ captions.T).argmax(1) == labels[train:]).float().mean().item()
print(f"loss {loss.item():.3f}, zero-shot accuracy {accuracy:.1%}")
