"""Errors name invalid settings, and each protocol has a description."""

import re
from typing import Any

import pytest

from hex_ssl.train.evaluate import FinetuneConfig, KNNConfig, ProbeConfig, TransferConfig


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (KNNConfig, {"k": [5, 0]}, r"expected `k` to be above 0, but got [5, 0]"),
        (KNNConfig, {"k": []}, r"expected `k` to be above 0, but got []"),
        (KNNConfig, {"temperature": [-1.0]}, "expected `temperature` to be above 0, but got [-1.0]"),
        (KNNConfig, {"fractions": [0.1, 1.5]}, "expected `fractions` to be in (0, 1], but got [0.1, 1.5]"),
        (KNNConfig, {"holdout": 1.0}, "expected `holdout` to be in [0, 1), but got 1.0"),
        (KNNConfig, {"draws": 0}, "expected `draws` to be at least 1, but got 0"),
        (KNNConfig, {"num_workers": -1}, "expected `num_workers` to be at least 0, but got -1"),
        (ProbeConfig, {"learning_rate": 0.0}, "expected `learning_rate` to be above 0, but got 0.0"),
        (ProbeConfig, {"augment": True}, 'expected `solver` to be "sgd" with `augment`, but got "logistic"'),
        (FinetuneConfig, {"finetune_batch_size": 1}, "expected `finetune_batch_size` to be at least 2, but got 1"),
        (FinetuneConfig, {"layer_decay": 0.0}, "expected `layer_decay` to be in (0, 1], but got 0.0"),
        (FinetuneConfig, {"label_smoothing": 1.0}, "expected `label_smoothing` to be in [0, 1), but got 1.0"),
        (TransferConfig, {}, "expected `datasets` to name at least one, each once, but got []"),
        (TransferConfig, {"datasets": ["digits"] * 2}, "to name at least one, each once, but got ['digits', 'digits']"),
    ],
)
def test_a_bad_setting_is_named(config: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        config("runs/x", **settings)


def test_protocols_describe_themselves() -> None:
    assert (
        KNNConfig("r", k=[5, 20], temperature=[0.1]).describe()
        == "k-NN: cosine, k = 5, 20, votes exp(cos / T), T = 0.1"
    )
    assert "Euclidean distance, k = 20" in KNNConfig("r", distance="euclidean").describe()
    assert "standardised features, C = 0.5" in ProbeConfig("r", regularisation=0.5).describe()
    sgd = ProbeConfig("r", solver="sgd", learning_rate=0.3, augment=True).describe()
    assert "random crops and flips, learning rate 0.3" in sgd
    assert "100 epochs, momentum 0.9, weight decay 0, batches of 256" in sgd
    assert "adamw on" in FinetuneConfig("r", optimizer="adamw").describe()
    assert "mixup 0.2" in FinetuneConfig("r", mixup=0.2).describe()
