"""Loads the weights that a run starts from: a checkpoint, an exported backbone, or a file of another library.

Files of torchvision, timm, solo-learn, lightly and plain training scripts can be read.
"""

import argparse
import hashlib
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hex_ssl.train.extras import train_extra
from hex_ssl.train.reading import reading

with train_extra():
    from safetensors.torch import load_file

CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model")
"""Keys under which training checkpoints store the weights. The first one present is used."""

HEADS = (
    *("fc", "head", "heads", "head_dist", "aux_head", "classifier", "classif", "last_linear", "linear"),
    *("projector", "projection_head", "predictor", "prototypes"),
)
"""Modules after a backbone: classifiers, and the heads of self-supervised methods."""

FOLLOWERS = ("momentum", "target", "teacher", "encoder_k", "ema")
"""Words in the names of networks that follow the trained network, such as a momentum encoder."""

COUNTER = "num_batches_tracked"
"""A batch norm's count of batches. Old files lack it, and it does not affect the output."""


class Fit(NamedTuple):
    """How the keys of a file correspond to those of a backbone.

    Attributes:
        prefix: Prefix of the file's keys, "" or a text that ends with a dot.
        names: The backbone's names by the file's names without the prefix.
    """

    prefix: str
    names: dict[str, str]

    def own(self, key: str) -> str | None:
        """The backbone's name for a key, or else the key without the prefix. None if the key lacks the prefix."""
        name = key.removeprefix(self.prefix)
        return self.names.get(name, name) if key.startswith(self.prefix) else None


def load_weights(backbone: nn.Module, path: str | Path) -> dict[str, Any]:
    """Loads the weights of a file into a backbone.

    The backbone's keys may have a prefix, such as `backbone.` in a checkpoint of a run or of solo-learn, `module.` of
    DataParallel, or `module.encoder_q.` of MoCo. The prefix with the most of them is used. Among equals, that of a
    momentum encoder comes last. The backbone's modules may also be numbered, as in lightly's examples, whose backbone
    is `nn.Sequential(*list(resnet.children())[:-1])`. Keys without this prefix are left out, and so are heads
    (`HEADS`). All other keys must match.

    Args:
        backbone: The network. It is changed in place.
        path: A safetensors file, or a file written by `torch.save`. It holds a state dict of tensors, alone or in a
            checkpoint under one of the keys `CONTAINERS`. No code in the file is run.

    Returns:
        A record of what was loaded: `file`, its `sha256`, the `prefix`, and the keys `left_out`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read or holds no weights of this backbone. The message names every key that does
            not match.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "encoder.pth"
        >>> torch.save({"model": {"module.weight": torch.ones(1, 2), "module.fc.weight": torch.ones(5, 1)}}, file)
        >>> backbone = nn.Linear(2, 1, bias=False)
        >>> load_weights(backbone, file)["left_out"], backbone.weight.tolist()
        (['module.fc.weight'], [[1.0, 1.0]])
    """
    file = Path(path).expanduser()
    if not file.is_file():
        found = "that is a folder" if file.is_dir() else "there is none"
        raise FileNotFoundError(f"expected `run.weights` to be a file of weights, but got {file}: {found}")
    state = _read(file)
    fit = _fit(state, backbone)
    named = {key: fit.own(key) for key in state}
    below = {name: state[key] for key, name in named.items() if name is not None}
    _check(file, state, below, backbone)
    own = backbone.state_dict()
    with reading(file, "to hold the weights of the backbone"):
        backbone.load_state_dict({**own, **{name: each for name, each in below.items() if name in own}})
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    left_out = [key for key, name in named.items() if name not in own]
    return {"file": str(file), "sha256": digest, "prefix": fit.prefix, "left_out": left_out}


def _check(file: Path, state: Mapping[str, Tensor], below: Mapping[str, Tensor], backbone: nn.Module) -> None:
    """Raises an error that names every key that does not match.

    Args:
        file: The file.
        state: The file's tensors by key.
        below: The tensors whose keys have the backbone's prefix, by the backbone's names.
        backbone: The network.
    """
    own = _tensors(backbone)
    if not own.keys() & below.keys():
        some = ", ".join([*state][:5])
        raise ValueError(f"expected {file} to hold weights of the backbone, but it has none of its keys; it has {some}")
    not_saved = {name for name, _ in backbone.named_buffers()} - own.keys()
    faults = {
        "not in the file": [name for name in own if name not in below and not name.endswith(COUNTER)],
        "not in the backbone": [
            name for name in below if name not in own and name not in not_saved and not _is_head(name)
        ],
        "of another shape": [
            f"{name} {list(each.shape)} instead of {list(own[name].shape)}"
            for name, each in below.items()
            if name in own and each.shape != own[name].shape
        ],
    }
    if any(faults.values()):
        text = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
        raise ValueError(f"expected {file} to hold the weights of the backbone, but these do not match: {text}")


def _tensors(backbone: nn.Module) -> dict[str, Tensor]:
    return {name: each for name, each in backbone.state_dict().items() if isinstance(each, Tensor)}


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by key."""
    with reading(file, "to hold weights: tensors and plain values"):
        if file.suffix == ".safetensors":
            return load_file(str(file))
        found = _unpickled(file)
        if isinstance(found, Mapping):
            found = next((found[name] for name in CONTAINERS if isinstance(found.get(name), Mapping)), found)
        if not isinstance(found, Mapping):
            raise TypeError(f"a {type(found).__name__}")
        return {str(key): each for key, each in found.items() if isinstance(each, Tensor)}


def _unpickled(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(
            [argparse.Namespace]
        ):  # plain settings, which timm's training script saves
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"Unsupported (?:global|class|operand)\W+(?:GLOBAL )?([\w.]+)", str(error))
        raise ValueError(
            f"expected {file} to hold weights: tensors and plain values, but got {named[1] if named else error}; if "
            'you trust the file, write torch.save(torch.load(file, weights_only=False)["state_dict"], "weights.pth"), '
            "and use that file"
        ) from error


def _fit(state: Iterable[str], backbone: nn.Module) -> Fit:
    """How the keys of a state dict correspond to the backbone's. Other names are used only if all are present."""
    own = {name: name for name in _tensors(backbone)}
    needed = {name for name in own if not name.endswith(COUNTER)}
    for names in (own, *_other_names(backbone, own)):
        fit = Fit(_prefix(state, names), names)
        if needed <= {fit.own(key) for key in state}:
            return fit
    return Fit(_prefix(state, own), own)


def _other_names(backbone: nn.Module, own: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The backbone's names by the names of other libraries, one dictionary for each way of naming."""
    children = [name for name, _ in backbone.named_children()]
    with_weights = [name for name, child in backbone.named_children() if child.state_dict()]
    yield _with_shortcuts(own)
    for kept in (children, with_weights):
        # nn.Sequential(*backbone.children()) calls its modules "0", "1", ...
        numbers = {name: str(number) for number, name in enumerate(kept)}
        parts = {name: name.partition(".") for name in own}
        numbered = {"".join([numbers.get(first, first), *rest]): name for name, (first, *rest) in parts.items()}
        yield numbered
        yield _with_shortcuts(numbered)


def _with_shortcuts(names: Mapping[str, str]) -> dict[str, str]:
    """The names with those of the shortcuts as in lightly's own ResNet."""
    return {name.replace(".downsample.", ".shortcut."): own for name, own in names.items()}


def _prefix(state: Iterable[str], own: Iterable[str]) -> str:
    """The prefix, "" or a text that ends with a dot, with which `state` has the most keys of `own`.

    Among equals, a network that does not follow another comes first, then the shortest prefix, then the first in
    alphabetical order.
    """
    counts: dict[str, int] = {"": 0}
    names = {*own}
    for key in state:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names:
                prefix = ".".join([*parts[:start], ""])
                counts[prefix] = counts.get(prefix, 0) + 1
    return min(counts, key=lambda each: (-counts[each], any(word in each for word in FOLLOWERS), len(each), each))


def _is_head(name: str) -> bool:
    return name.partition(".")[0] in HEADS
