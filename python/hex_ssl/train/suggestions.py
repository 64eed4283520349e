"""Suggestions for mistyped names."""

import difflib
import re
from collections.abc import Iterable

NEAR = 0.75
"""How similar two names must be, by `difflib.SequenceMatcher.ratio`."""

ALIASES = {
    "accumulate_grad_batches": "run.accumulate",
    "amp": "run.precision",
    "arch": "backbone.name",
    "architecture": "backbone.name",
    "backbone": "backbone.name",
    "base_tau": "method.momentum",
    "bs": "batch_size",
    "checkpoint_dir": "run.root",
    "ckpt_path": "run.existing",
    "crop_size": "data.image_size",
    "data_dir": "data.root",
    "data_path": "data.root",
    "dataset": "data.name",
    "dataset_path": "data.root",
    "encoder": "backbone.name",
    "experiment_name": "run.name",
    "final_tau": "method.final_momentum",
    "fp16": "run.precision",
    "gpus": "run.devices",
    "img_size": "data.image_size",
    "input_dir": "data.root",
    "input_size": "data.image_size",
    "knn_eval": "run.knn_every",
    "log_dir": "run.root",
    "lr": "learning_rate",
    "max_epochs": "epochs",
    "method": "method.name",
    "model": "backbone.name",
    "num_epochs": "epochs",
    "num_gpus": "run.devices",
    "num_nodes": "run.nodes",
    "optim": "optimizer.name",
    "optimizer": "optimizer.name",
    "out": "run.root",
    "out_dim": "method.output_dim",
    "output_dir": "run.root",
    "pred_hidden_dim": "method.predictor_dim",
    "proj_hidden_dim": "method.hidden_dim",
    "proj_output_dim": "method.output_dim",
    "resume": "run.existing",
    "resume_from_checkpoint": "run.existing",
    "save_dir": "run.root",
    "tau": "temperature",
    "temp": "temperature",
    "train_data_path": "data.root",
    "train_path": "data.root",
    "wandb": "run.loggers",
    "wd": "weight_decay",
    "workers": "num_workers",
}
"""Our settings by the last part of their names in solo-learn, lightly, Lightning and others."""


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Finds the known names that a mistyped name may stand for.

    It tries, in this order: settings that have this name in other programs, the same name in another group, the nearest
    name, the nearest last part of a name.

    Args:
        word: The mistyped name, such as "loss.temprature"; `-` counts as `_`.
        known: The names that exist.

    Returns:
        No name, one name, or the same name in several groups, in alphabetical order.

    Example:
        >>> known = ["data.root", "optimizer.learning_rate", "run.epochs", "run.root"]
        >>> nearest("lr", known), nearest("epochs", known), nearest("root", known), nearest("foo", known)
        (['optimizer.learning_rate'], ['run.epochs'], ['data.root', 'run.root'], [])
    """
    names = {name.replace("-", "_").lower(): name for name in sorted(known)}
    whole = word.replace("-", "_").lower()
    last = _last_part(whole)
    for meant in (ALIASES.get(last, last), last):
        if same := [name for each, name in names.items() if each == meant or each.endswith(f".{meant}")]:
            return same
    for near in difflib.get_close_matches(whole, names, n=3, cutoff=NEAR):
        if difflib.SequenceMatcher(None, last, _last_part(near)).ratio() >= NEAR:  # similar beyond the group
            return [names[near]]
    parts = sorted({_last_part(each) for each in names})
    near_parts = difflib.get_close_matches(last, parts, n=1, cutoff=NEAR)
    return [name for each, name in names.items() if _last_part(each) in near_parts]


def suggest(words: Iterable[str], known: Iterable[str]) -> str:
    """Suggests what a mistyped name may stand for, as the end of an error's text.

    Args:
        words: The names. Known names are skipped.
        known: The names that exist.

    Returns:
        A question about the first of `words` that resembles a known name, or "" if there is none.

    Example:
        >>> suggest(["loss.temprature"], ["loss.hex", "loss.temperature"])
        '; did you mean "loss.temperature" for "loss.temprature"?'
    """
    known = set(known)
    for word in words:
        if word not in known and (near := nearest(word, known)):
            meant = " or ".join(f'"{each}"' for each in near)
            return f'; did you mean {meant} for "{word}"?'
    return ""


def _last_part(name: str) -> str:
    return re.split("[./]", name)[-1]
