"""Exports a backbone for other code: a folder with its weights, timm's configuration and a model card."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hex_ssl.train.command_settings import ExportConfig
from hex_ssl.train.config import Config
from hex_ssl.train.extras import train_extra
from hex_ssl.train.whole_file import write_whole

with train_extra():
    from hex_ssl.train.backbones import RESNETS, describe_backbone, feature_dim, has_small_stem, timm_name
    from hex_ssl.train.callbacks.export import save_backbone
    from hex_ssl.train.callbacks.metrics import accuracies, read_metrics
    from hex_ssl.train.data.cards_table import dataset_card
    from hex_ssl.train.evaluate.source import Source, choose_epochs, load_subject, open_source

WEIGHTS = "model.safetensors"
"""Name of the file of weights that timm and hubs expect."""
TIMM_CONFIG = "config.json"
CARD = "README.md"


class Exported(NamedTuple):
    """The content of a model card.

    Attributes:
        source: Source of the network.
        name: Name of the model on a hub.
        features: F, the width of its representations.
        epoch: Number of epochs done. None if the file does not say.
        timm: timm's name and arguments. None if timm has no such network.
    """

    source: Source
    name: str
    features: int
    epoch: int | None
    timm: tuple[str, dict[str, Any]] | None


def export(config: ExportConfig) -> str:
    """Writes a backbone to a folder that timm can load and that can be uploaded to a hub.

    `model.safetensors` has the weights with torchvision's or timm's names. `README.md` is the model card, with the code
    that loads the backbone. `config.json` is timm's configuration, if timm has such a network. No file contains a path
    of this machine.

    Args:
        config: The source and the folder to write.

    Returns:
        A text that lists the files and the command to upload them.

    Raises:
        FileExistsError: The folder is not empty.
        FileNotFoundError, ValueError: See `hex_ssl.train.evaluate.source.open_source`.
    """
    source = open_source(config.source)
    folder = Path(config.output) if config.output is not None else source.folder / "hub"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"expected `output` to be a new or empty folder, but got {folder}")
    subject = load_subject(source, choose_epochs(source, "last")[0])
    run = None if source.config is None else without_paths(source.config)
    name = config.name or f"USER/{run.run.name if run else source.path.stem}"
    features = feature_dim(subject.network, *source.shape)
    exported = Exported(source, name, features, subject.epoch, _timm(source))
    metadata = {"format": "pt", **describe_backbone(source.backbone, *source.shape)}
    if run is not None:
        metadata["run"] = json.dumps(run.as_dict())
    folder.mkdir(parents=True, exist_ok=True)
    save_backbone(subject.network, folder / WEIGHTS, metadata)
    written = [WEIGHTS]
    if exported.timm is not None:
        write_whole(folder / TIMM_CONFIG, json.dumps(timm_config(exported), indent=2) + "\n")
        written.append(f"{TIMM_CONFIG} (timm's)")
    write_whole(folder / CARD, model_card(exported, run))
    files = ", ".join([*written, f"{CARD} (the model card)"])
    return f"{folder}: {files}\nto push it: hf upload {name} {folder}"


def without_paths(config: Config) -> Config:
    """A run's configuration without the paths of the machine on which it ran."""
    weights = None if config.run.weights is None else Path(config.run.weights).name
    data = replace(config.data, root=None)
    return replace(config, data=data, run=replace(config.run, root="runs", weights=weights))


def _timm(source: Source) -> tuple[str, dict[str, Any]] | None:
    if source.backbone.name in RESNETS:  # timm has torchvision's names of the weights
        small = has_small_stem(source.backbone, source.shape.size)
        return None if small else (source.backbone.name, {})
    return timm_name(source.backbone, source.shape.size)


def timm_config(exported: Exported) -> dict[str, Any]:
    """The content of `config.json`: how timm builds the network and normalises its images.

    Args:
        exported: A network that timm has.
    """
    assert exported.timm is not None
    with train_extra():
        import timm  # here: it takes over a second to import
    name, arguments = exported.timm
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    kept = {} if known is None else {each: getattr(known, each) for each in ("first_conv", "classifier")}
    channels, size = exported.source.shape
    fixed = bool(known is not None and known.fixed_input_size)
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": exported.features,
        "model_args": {**({"img_size": size} if fixed else {}), **arguments},
        "pretrained_cfg": {
            "input_size": [channels, size, size],
            "fixed_input_size": fixed,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": 0,
            **{name: list(numbers) for name, numbers in _statistics(exported.source).items()},
            **kept,
        },
    }


def _statistics(source: Source) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of each channel that the images are normalised with. Empty if the run is unknown."""
    if source.config is None:
        return {}
    card = dataset_card(source.config.data.name).with_channels(source.shape.channels)
    return {"mean": card.mean, "std": card.std}


def model_card(exported: Exported, run: Config | None) -> str:
    """The text of the model card: the network, its training and evaluation, and the code that loads it.

    Args:
        exported: The network.
        run: Configuration of its run, without paths. None if the file does not hold it.
    """
    tags = ["image-feature-extraction", "self-supervised-learning", "hex-ssl"]
    library = "timm" if exported.timm is not None else "hex-ssl"
    front = yaml.safe_dump({"library_name": library, "pipeline_tag": tags[0], "tags": tags}, sort_keys=False)
    title = exported.name.rpartition("/")[2]
    parts = [f"---\n{front}---\n\n# {title}", _about(exported, run), "## Use", *_use(exported)]
    if run is not None:
        settings = yaml.safe_dump(run.as_dict(), sort_keys=False)
        parts += ["## Training", "The whole configuration of the run, a recipe of hex-ssl:", f"```yaml\n{settings}```"]
    parts.append("The author of these weights can state their licence as `license:` at the top of this file.")
    return "\n\n".join(parts) + "\n"


def _about(exported: Exported, run: Config | None) -> str:
    source = exported.source
    shape = f"{source.shape.channels} x {source.shape.size} x {source.shape.size}"
    texts = {name: ", ".join(f"{each:.4g}" for each in numbers) for name, numbers in _statistics(source).items()}
    normalised = "minus the mean ({mean}), divided by the standard deviation ({std})".format(**texts) if texts else ""
    rows = {
        "backbone": _network(exported),
        "images": f"{shape}, in [0, 1], then {normalised or 'normalised as for the training'}",
        "representation": f"{exported.features} numbers for each image",
    }
    if run is not None:
        hex_ = "without HEX" if run.loss.hex == "off" else f"with HEX ({run.loss.hex} threshold)"
        rows["pretraining"] = f"{run.method.name} {hex_}, without labels, on the training images of {run.data.name}"
        rows["epochs"] = f"{exported.epoch} of {run.run.epochs}"
        rows |= _figures(exported, run)
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])


def _network(exported: Exported) -> str:
    source = exported.source
    if source.backbone.name in RESNETS and exported.timm is None:
        return f"{source.backbone.name} with a small stem: a 3x3 convolution of stride 1, and no pooling"
    return source.backbone.name


def _figures(exported: Exported, run: Config) -> dict[str, str]:
    """The accuracies that were measured at this epoch of the run, by name."""
    rows = [row for row in read_metrics(exported.source.folder) if row.get("epoch") == exported.epoch]
    told = accuracies(rows[-1]) if rows else {}
    return {name: f"{value} on the test images of {run.data.name}, while it trained" for name, value in told.items()}


def _use(exported: Exported) -> list[str]:
    source, blocks = exported.source, []
    if exported.timm is not None:
        blocks += [
            "In timm (for a local folder, use `local-dir:` and its path as the name):",
            f'```python\nimport timm\n\nbackbone = timm.create_model("hf-hub:{exported.name}", pretrained=True)\n```',
        ]
    if source.backbone.name in RESNETS:
        blocks += ["In torchvision:", f"```python\n{_torchvision(source)}\n```"]
        if exported.timm is None:
            create = f'timm.create_model("{source.backbone.name}", num_classes=0)'
            blocks.append(f"The same lines change `backbone = {create}`, whose weights have the same names.")
    own = ", own_code=True" if ":" in source.backbone.name else ""
    load = f'backbone = load_backbone("{WEIGHTS}"{own})'
    return [
        *blocks,
        'In hex-ssl (`pip install "hex-ssl[train]"`):',
        f"```python\nfrom hex_ssl.train.backbones import load_backbone\n\n{load}\n```",
        "Then, after `backbone.eval()`, `backbone(images)` is [N, F] for images [N, C, H, W].",
    ]


def _torchvision(source: Source) -> str:
    """Code that builds a ResNet with torchvision and loads its weights."""
    name, channels = source.backbone.name, source.shape.channels
    changes = []
    if has_small_stem(source.backbone, source.shape.size):
        changes = [
            f"backbone.conv1 = nn.Conv2d({channels}, 64, 3, padding={source.backbone.stem_padding}, bias=False)",
            "backbone.maxpool = nn.Identity()",
        ]
    elif channels != 3:
        changes = [f"backbone.conv1 = nn.Conv2d({channels}, 64, 7, stride=2, padding=3, bias=False)"]
    imports = [
        "from safetensors.torch import load_file",
        "from torch import nn",
        f"from torchvision.models import {name}",
    ]
    load = f'backbone.load_state_dict(load_file("{WEIGHTS}"))'
    return "\n".join([*imports, "", f"backbone = {name}()", *changes, "backbone.fc = nn.Identity()", load])
