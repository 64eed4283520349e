"""Checks whether a run may be resumed: which settings and images may differ, and which may not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAY_CHANGE = {
    "run.existing",
    "run.progress",
    "run.root",
    "run.name",
    "run.accelerator",
    "run.compile",
    "run.loggers",
    "run.profiler",
    "run.checkpoint_minutes",
    "run.checkpoint_epochs",
    "run.keep_every",
    "data.root",
    "data.num_workers",
}
"""Settings that may differ when a run is resumed, because they do not change its results."""

LENGTH = {"run.epochs"}
"""Settings that may differ when a run is resumed, because changing them is a reason to resume."""

PROCESSES = ("run.devices", "run.nodes")
SHARES = {*PROCESSES, "run.strategy", "run.virtual_batch_size", "data.batch_size"}
"""Settings that may differ together with the number of processes, if each loss keeps its number of images."""

SPLITS = ("train", "test")
SHOWN = 5
"""Maximum number of class names that an error shows."""

Settings = Mapping[str, Any]
"""Values of a configuration by dotted names."""


def check_settings(was: Settings, wanted: Settings) -> None:
    """Compares the settings of a run with those to resume it with.

    Args:
        was: Settings of the run, read from its folder. They may come from an earlier version, or be damaged.
        wanted: Settings to resume with.

    Raises:
        ValueError: A setting differs that may not. The message lists each of these with both values.

    Example:
        >>> check_settings({"run.devices": 1, "data.batch_size": 256}, {"run.devices": 4, "data.batch_size": 64})
        >>> check_settings({"loss.temperature": 0.1}, {"loss.temperature": 0.2})
        Traceback (most recent call last):
        ValueError: expected the configuration of the run to resume, but these differ: loss.temperature: 0.1 -> 0.2
    """
    before, now = (_images_per_loss(settings) for settings in (was, wanted))
    other_processes = any(was.get(name) != wanted.get(name) for name in PROCESSES)
    free = MAY_CHANGE | LENGTH | (SHARES if other_processes and before is not None and before == now else set())
    changed = [
        f"{key}: {was.get(key)} -> {wanted.get(key)}"
        for key in sorted(was.keys() | wanted.keys())
        if key not in free and was.get(key) != wanted.get(key)
    ]
    if not changed:
        return
    text = f"expected the configuration of the run to resume, but these differ: {'; '.join(changed)}"
    if other_processes and before != now:
        text += f" (another number of devices needs as many images in each loss as before, {before}, but got {now})"
    raise ValueError(text)


def check_images(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compares the images of a run with those to resume it with.

    Args:
        was: Fingerprint of the run's images, see `hex_ssl.train.data.fingerprint`.
        now: Fingerprint of the images to resume with.

    Raises:
        ValueError: The images differ. The message lists each difference with both values.

    Example:
        >>> train = {"images": 20, "classes": ["cat", "dog"], "labels": "a"}
        >>> check_images({"train": train}, {"train": {**train, "images": 21, "classes": ["cat", "cow"]}})
        Traceback (most recent call last):
        ValueError: expected the images of the run to resume, but these differ: train.images: 20 -> 21; train.classes: \
without dog, with cow
    """
    found = _changes(was, now, ("channels", "image_size"))
    for split in SPLITS:
        old, new = was.get(split), now.get(split)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [f"{split}.{difference}" for difference in _in_split(old, new)]
        elif old != new:
            found.append(f"{split}: {_counted(old)} -> {_counted(new)}")
    if found:
        raise ValueError(f"expected the images of the run to resume, but these differ: {'; '.join(found)}")


def check_epochs(checkpoint: Mapping[str, Any], file: Path, epochs: int) -> None:
    """Checks that a resumed run has at least as many epochs as it has begun.

    Args:
        checkpoint: The checkpoint to resume from.
        file: File of the checkpoint.
        epochs: Number of epochs to train.

    Raises:
        ValueError: More epochs have begun.
    """
    begun = int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["started"])
    if epochs < begun:
        raise ValueError(
            f"expected `run.epochs` to be at least {begun}, as many as have begun by {file}, but got {epochs}"
        )


def _images_per_loss(settings: Settings) -> int | None:
    """Number of images of one loss over all processes. None if the settings do not say."""
    images = settings.get("run.virtual_batch_size") or settings.get("data.batch_size")
    factors = (settings.get("run.devices", 1), settings.get("run.nodes", 1), images)
    if not all(isinstance(each, int) for each in factors):
        return None
    devices, nodes, images = factors
    return int(devices * nodes * images)


def _in_split(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = _changes(old, new, ("images", "labelled"))
    if old.get("classes") != new.get("classes"):
        found.append(f"classes: {_names(old.get('classes'), new.get('classes'))}")
    if found:  # other differences follow from these
        return found
    texts = {
        "superclasses": "other superclasses of the classes",
        "labels": "other labels, or in another order",
        "files": "files of other names, or in another order",
    }
    return [f"{name}: {text}" for name, text in texts.items() if old.get(name) != new.get(name)]


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def _names(old: Any, new: Any) -> str:
    if not (isinstance(old, list) and isinstance(new, list)):
        return " -> ".join(str(len(each)) if isinstance(each, list) else str(each) for each in (old, new))
    old, new = ([str(each) for each in names] for names in (old, new))
    gone, added = ([each for each in one if each not in other] for one, other in ((old, {*new}), (new, {*old})))
    parts = [f"{word} {_some(names)}" for word, names in (("without", gone), ("with", added)) if names]
    return ", ".join(parts) or "in another order"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _counted(split: Any) -> str:
    return f"{split.get('images')} images" if isinstance(split, Mapping) else "no images"
