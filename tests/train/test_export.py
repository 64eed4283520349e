"""Exported folders: timm and torchvision load them by the code on their model cards."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from hex_ssl.train.backbones import build_backbone, describe_backbone, load_backbone
from hex_ssl.train.callbacks import save_backbone
from hex_ssl.train.cli import main
from hex_ssl.train.command_settings import ExportConfig
from hex_ssl.train.config import BackboneConfig, Config, DataConfig, RunConfig
from hex_ssl.train.export import export


def exported(tmp_path: Path, backbone: BackboneConfig, channels: int, size: int) -> tuple[Path, nn.Module]:
    """An exported folder, and the network that was exported."""
    torch.manual_seed(3)
    network = build_backbone(backbone, channels, size)
    network(torch.rand(4, channels, size, size))  # moves batch norm's statistics
    data, run = (
        DataConfig("cifar100", root="/home/me/data"),
        RunConfig("mine", root="/home/me/runs", weights="/home/a.pth"),
    )
    described = describe_backbone(backbone, channels, size)
    settings = json.dumps(Config(backbone=backbone, data=data, run=run).as_dict())
    save_backbone(network, tmp_path / "backbone.safetensors", {**described, "run": settings})
    export(ExportConfig(str(tmp_path / "backbone.safetensors"), output=str(tmp_path / "hub"), name="me/mine"))
    return tmp_path / "hub", network.eval()


def blocks(folder: Path) -> list[str]:
    """The Python blocks of a model card, which load from a hub; here they load from the folder."""
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return [each.replace("hf-hub:me/mine", f"local-dir:{folder}") for each in found]


def run_block(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(block, names)
    backbone: nn.Module = names["backbone"]
    return backbone.eval()


@pytest.mark.parametrize(
    ("backbone", "channels", "size", "ways"),
    [
        (BackboneConfig("resnet18"), 3, 32, ["torchvision", "hex_ssl"]),
        (BackboneConfig("resnet18", stem="small", stem_padding=2), 1, 16, ["torchvision", "hex_ssl"]),
        (BackboneConfig("resnet18", stem="large"), 1, 32, ["timm", "torchvision", "hex_ssl"]),
        (BackboneConfig("vit_tiny", arguments={"depth": 2}), 3, 16, ["timm", "hex_ssl"]),
        (BackboneConfig("timm/mobilenetv3_small_050"), 3, 32, ["timm", "hex_ssl"]),
        (BackboneConfig(width=4), 1, 8, ["hex_ssl"]),
    ],
    ids=["small stem", "small stem, grey", "large stem, grey", "ViT", "timm", "small ResNet"],
)
def test_code_of_the_card_loads_the_backbone(
    backbone: BackboneConfig, channels: int, size: int, ways: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, network = exported(tmp_path, backbone, channels, size)
    images = torch.rand(2, channels, size, size)
    expected = network(images)
    code = blocks(folder)
    assert [next(way for way in ("timm", "torchvision", "hex_ssl") if way in block) for block in code] == ways
    for block in code:
        torch.testing.assert_close(run_block(block, folder, monkeypatch)(images), expected)
    files = {"README.md", "model.safetensors"} | ({"config.json"} if "timm" in ways else set())
    assert {each.name for each in folder.iterdir()} == files


def test_lines_for_the_small_stem_change_timms_resnet_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, network = exported(tmp_path, BackboneConfig("resnet18"), 3, 32)
    text = (folder / "README.md").read_text()
    create = re.search(r"The same lines change `backbone = (.*)`, whose", text)
    assert create is not None
    block = blocks(folder)[0].replace("resnet18()", create[1])
    images = torch.rand(2, 3, 32, 32)
    found = run_block(f"import timm\n{block}", folder, monkeypatch)
    assert type(found).__module__.startswith("timm.")
    torch.testing.assert_close(found(images), network(images))


def test_timm_takes_new_classes_and_the_images_statistics(tmp_path: Path) -> None:
    folder, network = exported(tmp_path, BackboneConfig("vit_tiny", arguments={"depth": 1}), 3, 16)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=10).eval()
    images = torch.rand(2, 3, 16, 16)
    assert model(images).shape == (2, 10)
    torch.testing.assert_close(model.forward_head(model.forward_features(images), pre_logits=True), network(images))
    data = timm.data.resolve_model_data_config(model)
    assert (data["input_size"], data["mean"][0]) == ((3, 16, 16), pytest.approx(0.5071, abs=1e-3))  # CIFAR-100's


def test_folder_of_a_run_tells_how_it_was_trained_and_names_no_path(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(trained), "--output", str(tmp_path / "hub")])
    assert capsys.readouterr().out.splitlines()[-1].startswith("to push it: hf upload USER/")
    text = (tmp_path / "hub" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "hex-ssl"
    assert re.search(r"^\| k-NN accuracy \| \d+\.\d % on the test images of digits, while it trained \|$", text, re.M)
    assert re.search(r"^\| pretraining \| simclr with HEX \(adaptive threshold\), without labels, on", text, re.M)
    assert "in [0, 1], then minus the mean (" in text
    recipe = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    assert Config.from_dict(recipe).loss.hex == "adaptive"
    for each in (tmp_path / "hub").iterdir():
        assert str(trained.parent).encode() not in each.read_bytes()
    ours, theirs = (
        load_file(each) for each in (tmp_path / "hub" / "model.safetensors", trained / "backbone.safetensors")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(FileExistsError, match=r"^expected `output` to be a new or empty folder, but got .*hub$"):
        export(ExportConfig(str(trained), output=str(tmp_path / "hub")))


def test_weights_without_a_run_say_less(tmp_path: Path) -> None:
    backbone = BackboneConfig("resnet18", stem="large")
    save_backbone(build_backbone(backbone, 3, 32), tmp_path / "own.safetensors", describe_backbone(backbone, 3, 32))
    export(ExportConfig(str(tmp_path / "own.safetensors")))
    folder = tmp_path / "hub"
    assert "mean" not in json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert "# own\n" in (folder / "README.md").read_text()
    assert load_backbone(folder / "model.safetensors")(torch.rand(1, 3, 32, 32)).shape == (1, 512)


def test_no_private_path_is_in_an_exported_folder(tmp_path: Path) -> None:
    folder, _ = exported(tmp_path, BackboneConfig(width=4), 1, 8)
    for name in os.listdir(folder):
        content = (folder / name).read_bytes()
        assert b"/home/" not in content
        assert b"a.pth" in content  # the name alone
