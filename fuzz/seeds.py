"""Writes the seeds that are made by programs: `python -m fuzz.seeds`. Those in text are kept as they are."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from scipy.io import savemat

from fuzz.targets import SEEDS
from hex_ssl.train.backbones import build_backbone, describe_backbone
from hex_ssl.train.callbacks import save_backbone
from hex_ssl.train.config import BackboneConfig, Config


class Code:
    """What makes a folder where it is unpickled by Python's own reader."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("code-has-run",)


def main() -> None:
    """Writes them all."""
    progress = {"epoch_progress": {"current": {"processed": 2}}}
    torch.save(
        {"state_dict": {"w": torch.zeros(2)}, "loops": {"fit_loop": progress}, "global_step": 4},
        _place("checkpoint", "last.ckpt"),
    )
    torch.save(
        {"other": [1, 2.5, "text", None, (True,)]},
        _place("checkpoint", "old.ckpt"),
        _use_new_zipfile_serialization=False,
    )
    for name, zipped in (("code.ckpt", True), ("old_code.ckpt", False)):
        hostile = {"state_dict": {}, "loops": {"fit_loop": progress}, "global_step": Code()}
        torch.save(hostile, _place("checkpoint", name), _use_new_zipfile_serialization=zipped)
    small = BackboneConfig(width=1)
    description = {**describe_backbone(small, 1, 8), "run": json.dumps(Config().as_dict())}
    save_backbone(build_backbone(small, 1, 8), _place("backbone", "backbone.safetensors"), description)
    for name, array in {
        "features": np.eye(4, dtype=np.float32),
        "epochs": np.ones((2, 3, 2)),
        "half": np.ones((3, 2), np.float16),
        "empty": np.ones((0, 3, 2)),
    }.items():
        np.save(_place("features", f"{name}.npy"), array)
    np.save(_place("labels", "labels.npy"), np.arange(4))
    np.save(_place("labels", "large.npy"), np.full(4, 2**64 - 1, np.uint64))
    savemat(_place("matlab", "list.mat"), {"file_list": np.array(["n01-Chihuahua/a.jpg"], object), "labels": [[1]]})
    savemat(_place("matlab", "packed.mat"), {"file_list": "a", "labels": [1]}, do_compression=True)
    savemat(_place("matlab", "old.mat"), {"file_list": "a", "labels": [1]}, format="4")
    encoded = io.BytesIO()
    Image.new("RGB", (3, 2), (9, 99, 199)).save(encoded, format="png")
    images = pa.array(
        [{"bytes": encoded.getvalue(), "path": None}] * 2, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    names = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": images, "label": pa.array([0, 1])}).replace_schema_metadata(
        {"huggingface": json.dumps(names)}
    )
    pq.write_table(table, _place("parquet", "train.parquet"))
    pq.write_table(table, _place("parquet", "plain.parquet"), compression="none", use_dictionary=False)
    outside = pa.array([{"bytes": None, "path": "../outside.png"}], images.type)
    pq.write_table(pa.table({"image": outside}), _place("parquet", "outside.parquet"))
    above = {"image": images[:1], "label": pa.array([0]), "coarse_label": pa.array([2**40])}
    pq.write_table(pa.table(above), _place("parquet", "above.parquet"))
    for kind in ("png", "jpeg", "bmp", "tiff", "webp", "ppm", "gif"):
        Image.new("RGB", (3, 2), (9, 99, 199)).save(_place("image", f"image.{kind}"))


def _place(target: str, name: str) -> Path:
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    main()
