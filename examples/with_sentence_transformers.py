"""InfoNCELoss behind the interface of sentence-transformers' MultipleNegativesRankingLoss, and of its cached form.

python examples/with_sentence_transformers.py [--quick]
"""

import argparse
from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from torch import Tensor, nn

from hex_ssl import InfoNCELoss
from hex_ssl.gradient_cache import GradientCache


class MultipleNegativesRankingLoss(nn.Module):
    """sentence-transformers' loss without an N x N matrix. With `mini_batch_size`, its cached form.

    The columns are the anchors, the positives, and any number of hard negatives.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        scale: float = 20.0,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = InfoNCELoss(temperature=1 / scale, gather_distributed=gather_across_devices)
        self.cache = None if mini_batch_size is None else GradientCache(mini_batch_size, automatic=True)

    def embed(self, columns: list[dict[str, Any]]) -> tuple[Tensor, ...]:
        """The embeddings of each column. The model writes into the dictionaries that it gets."""
        return tuple(self.model(dict(column))["sentence_embedding"] for column in columns)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        columns = list(sentence_features)
        anchors, *candidates = self.embed(columns) if self.cache is None else self.cache.embed(self, columns)
        return self.loss(anchors, torch.cat(candidates))


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a few steps")
quick = parser.parse_args().quick
torch.manual_seed(0)

# Topics of six words each. A question has three of a topic's words, its answer the other three. A hard negative has the
# words of the question, and none of the answer.
topics, words_of_each = 200, 6
words = [f"w{number}" for number in range(topics * words_of_each)]


def draw() -> list[list[str]]:
    """A question, an answer and a hard negative of each topic."""
    columns: list[list[str]] = [[], [], []]
    for topic in range(topics):
        order = (topic * words_of_each + torch.randperm(words_of_each)).tolist()
        picked = [words[number] for number in order]
        for column, chosen in zip(columns, (picked[:3], picked[3:], [*picked[:2], "other"]), strict=True):
            column.append(" ".join(chosen))
    return columns


tokenizer = WhitespaceTokenizer(vocab=[*words, "other"], stop_words=[])
embeddings = WordEmbeddings(tokenizer, torch.randn(len(words) + 1, 64), update_embeddings=True)
model = SentenceTransformer(modules=[embeddings, Pooling(64), Dense(64, 64)], device="cpu")
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
train_loss = MultipleNegativesRankingLoss(model, mini_batch_size=64)  # was: losses.CachedMultiple...(model, ...)

features = [model.preprocess(column) for column in draw()]
with torch.no_grad():
    ours, theirs = (each(features, None) for each in (train_loss, losses.MultipleNegativesRankingLoss(model)))
print(f"loss {ours:.4f}, sentence-transformers' {theirs:.4f}")

for _ in range(3 if quick else 100):
    loss = train_loss([model.preprocess(column) for column in draw()])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

questions, answers, _ = draw()
found = model.similarity(*(model.encode(each, convert_to_tensor=True) for each in (questions, answers)))
accuracy = (found.argmax(1) == torch.arange(topics)).float().mean().item()
print(f"loss {loss.item():.3f}, answers found {accuracy:.1%}")
