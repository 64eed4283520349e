"""The networks to evaluate, from run folders, checkpoints and exported backbones."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from hex_ssl.train.backbones import build_backbone, load_backbone, read_saved_backbone
from hex_ssl.train.config import BackboneConfig, Config
from hex_ssl.train.data import PretrainData
from hex_ssl.train.methods import build_method
from hex_ssl.train.reading import epochs_done, read_checkpoint, reading
from hex_ssl.train.run_folder import BACKBONE, CHECKPOINTS, read_config

Space = Literal["backbone", "projection"]

LAST_CHECKPOINT = "last.ckpt"
UNTRAINED = 0
"""The epoch of a network before its first step."""


class ImageShape(NamedTuple):
    """The shape of the images that a network takes.

    Attributes:
        channels: C.
        size: Side in pixels.
    """

    channels: int
    size: int


@dataclass(frozen=True)
class Source:
    """A source of networks.

    Args:
        path: The path that was given: a run folder, a checkpoint, or an exported backbone.
        config: The run's configuration. None for a backbone whose file does not contain it.
        backbone: The backbone's configuration.
        shape: The shape of the images that it takes.
        checkpoints: The files by epoch. The key of the last one, which states its own epoch, is None.
        seed: Seed of untrained weights.
    """

    path: Path
    config: Config | None
    backbone: BackboneConfig
    shape: ImageShape
    checkpoints: Mapping[int | None, Path]
    seed: int

    @property
    def folder(self) -> Path:
        """The run folder, or the folder of a single backbone file."""
        if self.path.is_dir():
            return self.path
        return self.path.parent.parent if self.path.suffix == ".ckpt" else self.path.parent


@dataclass(frozen=True)
class Subject:
    """One network to evaluate.

    Args:
        network: Network from images [N, C, H, W] to representations, or projections, [N, F], in evaluation mode, on the
            CPU.
        epoch: Number of epochs of training. None if the file does not state it.
        weights: SHA-256 of its weights, which links results to this network.
        file: File of the weights. None if they are initialised from the seed.
    """

    network: nn.Module
    epoch: int | None
    weights: str
    file: Path | None


def open_source(path: str | Path, seed: int = 0) -> Source:
    """Finds the networks of a source, without loading weights.

    Args:
        path: A run folder, a checkpoint (.ckpt) in one, or an exported backbone (.safetensors).
        seed: Seed of the untrained weights of a single backbone file. A run has its own seed.

    Raises:
        FileNotFoundError: The path does not exist, or contains no network.
        ValueError: The file is of another kind.

    Example:
        >>> open_source("runs/nowhere")
        Traceback (most recent call last):
        FileNotFoundError: expected `source` to be a run folder, .ckpt or .safetensors, but there is no runs/nowhere
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"expected `source` to be a run folder, .ckpt or .safetensors, but there is no {place}")
    if place.is_dir():
        return _open_run(place, place, _kept(place))
    if place.suffix == ".ckpt":
        return _open_run(place, place.parent.parent, {_epoch_of_name(place): place})
    if place.suffix != ".safetensors":
        raise ValueError(f"expected `source` to be a run folder, .ckpt or .safetensors, but got {place}")
    saved = read_saved_backbone(place)
    shape, run = ImageShape(saved.in_channels, saved.image_size), saved.run
    return Source(place, run, saved.config, shape, {None: place}, seed if run is None else run.run.seed)


def choose_epochs(source: Source, epochs: str) -> list[int | None]:
    """The epochs that a setting selects. None stands for the last network.

    Args:
        source: The source of the networks.
        epochs: "last", "all" (those that were kept, and the last), "untrained", or epochs separated by commas.

    Raises:
        ValueError: There is no such epoch, or `epochs` has another form.

    Example:
        >>> backbone, shape = BackboneConfig(), ImageShape(1, 8)
        >>> source = Source(Path("run"), None, backbone, shape, {0: Path("a"), 10: Path("b"), None: Path("c")}, seed=0)
        >>> choose_epochs(source, "all"), choose_epochs(source, "last"), choose_epochs(source, "0,10")
        ([0, 10, None], [None], [0, 10])
    """
    kept: list[int | None] = [*sorted(epoch for epoch in source.checkpoints if epoch is not None)]
    last: list[int | None] = [None] if None in source.checkpoints else []
    if epochs == "all":
        return kept + last
    if epochs == "last":
        return last or kept[-1:]
    if epochs == "untrained":
        return [UNTRAINED]
    numbers = [each.strip() for each in epochs.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise ValueError(
            f'expected `epochs` to be "last", "all", "untrained" or epochs such as "0,10,20", but got "{epochs}"'
        )
    chosen = sorted({int(number) for number in numbers})
    if missing := [epoch for epoch in chosen if epoch not in {*kept, UNTRAINED}]:
        there = ", ".join(str(epoch) for epoch in kept) or "none: `run.keep_every` sets how often one is kept"
        raise ValueError(f"expected `epochs` to be among those that {source.path} keeps ({there}), but got {missing}")
    return list(chosen)


def load_subject(source: Source, epoch: int | None, space: Space = "backbone") -> Subject:
    """Loads a network with its weights.

    Args:
        source: The source of the network.
        epoch: One of `choose_epochs`.
        space: "backbone" for its representations, or "projection" for the projector's output.

    Raises:
        ValueError: The file does not contain the network or its projector, or the untrained network of a run that
            started from `run.weights` was not kept.
    """
    file = source.checkpoints.get(epoch)
    if file is None:
        network = _fresh(source, space)
    elif file.suffix == ".safetensors":
        if space == "projection":
            raise ValueError(f"expected a checkpoint for the projection space, but {file} holds only the backbone")
        with torch.random.fork_rng(devices=[]):
            network = load_backbone(file, own_code=_is_of_run(file, source))
        epoch = None if source.config is None else source.config.run.epochs  # the file is written at the end of the run
    else:
        network, epoch = _from_checkpoint(source, file, epoch, space)
    return Subject(network.eval(), epoch, weights_digest(network), file)


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights and buffers, as hexadecimal digits.

    Example:
        >>> weights_digest(nn.Linear(2, 1)) == weights_digest(nn.Linear(2, 1))
        False
    """
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _open_run(path: Path, folder: Path, checkpoints: dict[int | None, Path]) -> Source:
    config = read_config(folder)
    if not checkpoints:
        raise FileNotFoundError(f"expected {folder} to hold checkpoints or {BACKBONE}, but there are none")
    exported = folder / BACKBONE
    if exported.is_file():
        saved = read_saved_backbone(exported, own_code=True)
        shape = ImageShape(saved.in_channels, saved.image_size)
    else:
        data = PretrainData(config.data, config.run.seed)
        shape = ImageShape(data.channels, data.image_size)
    return Source(path, config, config.backbone, shape, checkpoints, config.run.seed)


def _is_of_run(exported: Path, source: Source) -> bool:
    """Whether a backbone file is in a run folder, whose configuration must then describe the same backbone."""
    if source.path == exported:
        return False
    if read_saved_backbone(exported, own_code=True).config != source.backbone:
        raise ValueError(f"expected {exported} to hold the backbone of its run's configuration, but it names another")
    return True


def _kept(folder: Path) -> dict[int | None, Path]:
    kept = {_epoch_of_name(file): file for file in sorted((folder / CHECKPOINTS).glob("*.ckpt"))}
    if None not in kept and (folder / BACKBONE).is_file():
        kept[None] = folder / BACKBONE
    return kept


def _epoch_of_name(file: Path) -> int | None:
    found = re.fullmatch(r"epoch-(\d+)\.ckpt", file.name)
    return int(found[1]) if found else None


def _fresh(source: Source, space: Space) -> nn.Module:
    """The network before its first step, initialised from the run's seed."""
    if source.config is not None and source.config.run.weights is not None:
        raise ValueError(
            f"expected {source.path} to keep the checkpoint of epoch 0 (`run.keep_every`), because it started from "
            f"`run.weights` ({source.config.run.weights}) and not from its seed, but there is none"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed)
        if space == "backbone":
            return build_backbone(source.backbone, *source.shape)
        return _projecting(source)


def _from_checkpoint(source: Source, file: Path, epoch: int | None, space: Space) -> tuple[nn.Module, int]:
    checkpoint = read_checkpoint(file)
    with torch.random.fork_rng(devices=[]):  # keeps torch's generator as it was; the weights are overwritten
        network = build_backbone(source.backbone, *source.shape) if space == "backbone" else _projecting(source)
    parts: dict[str, nn.Module] = {"backbone": network}
    if isinstance(network, _Projecting):
        parts = {"backbone": network.backbone, "projector": network.projector}
    for name, part in parts.items():
        prefix = f"{name}."
        with reading(file, f"to hold the {name} of its run's configuration"):
            state: dict[str, Tensor] = checkpoint["state_dict"]
            part.load_state_dict({each.removeprefix(prefix): state[each] for each in state if each.startswith(prefix)})
    if epoch is None:
        with reading(file, "to state how long it was trained"):
            epoch = epochs_done(checkpoint)
    return network, epoch


class _Projecting(nn.Module):
    """A network from images to projections."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.projector(self.backbone(images)))


def _projecting(source: Source) -> _Projecting:
    if source.config is None:
        raise ValueError("expected a run's configuration for the projection space, but there is none")
    method = build_method(source.config, *source.shape)
    projector = getattr(method, "projector", None)
    if not isinstance(projector, nn.Module):
        raise ValueError(f"expected a method with a projector, but {type(method).__name__} has none")
    return _Projecting(method.backbone, projector)
