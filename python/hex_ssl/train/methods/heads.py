"""Projectors and predictors."""

import itertools
from typing import Literal

from torch import nn


def mlp(
    *dims: int,
    batch_norm: bool = True,
    bias: bool = True,
    output_norm: Literal["none", "affine", "plain"] = "none",
) -> nn.Sequential:
    """Linear layers with ReLU between them.

    Unlike torchvision's MLP, it has no dropout layers, which would change the names of the weights, and it may have a
    norm at its output.

    Args:
        *dims: Width of the input, of the hidden layers, of the output.
        batch_norm: Whether each hidden layer has batch norm before its ReLU.
        bias: Whether the linear layers have a bias. A layer before batch norm does not need one.
        output_norm: Batch norm of the output: "none", "affine" (with weights), or "plain" (without).

    Example:
        >>> mlp(512, 2048, 128, batch_norm=False)
        Sequential(
          (0): Linear(in_features=512, out_features=2048, bias=True)
          (1): ReLU(inplace=True)
          (2): Linear(in_features=2048, out_features=128, bias=True)
        )
    """
    layers: list[nn.Module] = []
    *hidden, output = itertools.pairwise(dims)
    for inputs, outputs in hidden:
        layers.append(nn.Linear(inputs, outputs, bias=bias))
        if batch_norm:
            layers.append(nn.BatchNorm1d(outputs))
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(*output, bias=bias))
    if output_norm != "none":
        layers.append(nn.BatchNorm1d(output[1], affine=output_norm == "affine"))
    return nn.Sequential(*layers)
