"""Initial weights from files: files that fit, errors for others, and their use in a run."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from lightly.models import ResNetGenerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import resnet18

from hex_ssl.train.backbones import build_backbone
from hex_ssl.train.cli import main
from hex_ssl.train.config import BackboneConfig
from hex_ssl.train.evaluate.source import load_subject, open_source
from hex_ssl.train.pretrain import load_method, prepare, pretrain
from hex_ssl.train.weights import load_weights

from .conftest import MakeConfig

State = dict[str, Tensor]
IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
RESNET = BackboneConfig("resnet18", stem="large")


def moved(network: nn.Module) -> nn.Module:
    """The network with changed running statistics, in evaluation mode."""
    network.train()(IMAGES)
    return network.eval()


def below(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": each for name, each in state.items()}


def as_torchvision(state: State) -> object:
    return state  # with fc.weight and fc.bias


def as_data_parallel(state: State) -> object:
    return {"epoch": 3, "arch": "resnet18", "state_dict": below("module.", state), "optimizer": {"state": {}}}


def as_moco(state: State) -> object:
    keys = {name: torch.zeros_like(each) for name, each in state.items()}
    return {
        "state_dict": below("module.encoder_q.", state)
        | below("module.encoder_k.", keys)
        | {"module.queue": keys["fc.bias"]}
    }


def as_compiled(state: State) -> object:
    return {"model": below("_orig_mod.backbone.", state)}


def as_solo_learn(state: State) -> object:
    followers = {name: torch.zeros_like(each) for name, each in state.items() if "fc." not in name}
    trained = {name: each for name, each in state.items() if "fc." not in name}  # there it is an Identity
    heads = {"classifier.weight": state["fc.weight"], "classifier.bias": state["fc.bias"], "queue": torch.ones(2, 3, 4)}
    heads |= below("projector.", {"0.weight": torch.ones(8, 512), "1.running_mean": torch.ones(8)})
    return {
        "epoch": 399,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": below("backbone.", trained) | heads | below("momentum_backbone.", followers),
        "hyper_parameters": {"method": "mocov2plus", "optimizer": {"lr": 0.3}},
        "callbacks": {},
    }


def as_old_solo_learn(state: State) -> object:
    return {"state_dict": below("encoder.", state) | below("momentum_encoder.", state)}


def as_lightly(state: State) -> object:
    """As its examples have it: nn.Sequential(*list(resnet18().children())[:-1]) and a projection head."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    numbered = {}
    for name, each in state.items():
        first, _, rest = name.partition(".")
        if first != "fc":
            numbered[f"backbone.{numbers[first]}.{rest}"] = each
    head = {"projection_head.layers.0.weight": state["fc.weight"], "projection_head.layers.0.bias": state["fc.bias"]}
    return {"state_dict": numbered | head | below("backbone_momentum.", {"0.weight": torch.zeros(64, 3, 7, 7)})}


def as_old(state: State) -> object:
    return {name: each for name, each in state.items() if not name.endswith("num_batches_tracked")}


LAYOUTS = [
    *(as_torchvision, as_data_parallel, as_moco, as_compiled, as_old),
    *(as_solo_learn, as_old_solo_learn, as_lightly),
]


@pytest.mark.parametrize(
    ("written", "suffix"),
    [*((each, "pth") for each in LAYOUTS), (as_torchvision, "safetensors"), (as_moco, "safetensors")],
)
def test_files_of_torchvision_and_of_training_code_fit(
    written: Callable[[State], object], suffix: str, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    theirs = moved(resnet18())
    content = written(theirs.state_dict())
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(content, file)
    else:
        assert isinstance(content, dict)
        state = content.get("state_dict", content.get("model", content))
        save_file({name: each.clone() for name, each in state.items()}, file)
    backbone = build_backbone(RESNET, 3, 64)
    record = load_weights(backbone, file)
    theirs.fc = nn.Identity()
    assert torch.equal(backbone.eval()(IMAGES), theirs(IMAGES))
    assert {name.rpartition(".")[2] for name in record["left_out"]} >= {"weight", "bias"}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "deit_tiny_distilled_patch16_224"])
def test_files_of_timm_fit(name: str, tmp_path: Path) -> None:
    size = {} if name == "convnext_atto" else {"img_size": 64}
    theirs = moved(timm.create_model(name, num_classes=7, **size))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    backbone = build_backbone(BackboneConfig(f"timm/{name}"), 3, 64)
    load_weights(backbone, tmp_path / "model.safetensors")
    expected = timm.create_model(name, num_classes=0, **size).eval()
    expected.load_state_dict(backbone.state_dict())
    whole = theirs.state_dict()
    assert all(torch.equal(each, whole[key]) for key, each in expected.state_dict().items())


def test_every_key_that_does_not_match_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = resnet18().state_dict()
    state["layer5.weight"] = state.pop("layer4.1.bn2.weight")
    state["queue"] = torch.zeros(2)
    torch.save(state, tmp_path / "other.pth")
    backbone = build_backbone(BackboneConfig("resnet18", stem="small"), 1, 32)
    before = {name: each.clone() for name, each in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=r"other\.pth") as caught:
        load_weights(backbone, tmp_path / "other.pth")
    assert str(caught.value).endswith(
        "to hold the weights of the backbone, but these do not match: not in the file: layer4.1.bn2.weight; "
        "not in the backbone: layer5.weight, queue; "
        "of another shape: conv1.weight [64, 3, 7, 7] instead of [64, 1, 3, 3]"
    )
    assert all(torch.equal(before[name], each) for name, each in backbone.state_dict().items())


@pytest.mark.parametrize("sequential", [True, False])
def test_network_of_lightly_fits(sequential: bool, tmp_path: Path) -> None:
    theirs = ResNetGenerator("resnet-18")
    backbone = nn.Sequential(*list(theirs.children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = IMAGES[..., :32, :32]
    backbone.train()(images)
    torch.save(
        {"state_dict": below("backbone.", (backbone if sequential else theirs).state_dict())}, tmp_path / "a.ckpt"
    )
    ours = build_backbone(BackboneConfig("resnet18", stem="small"), 3, 32)
    load_weights(ours, tmp_path / "a.ckpt")
    theirs.linear = nn.Identity()
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


class Settings:
    """Of a program whose checkpoints hold more than weights."""


def test_checkpoint_with_other_objects_says_how_to_take_its_weights(tmp_path: Path) -> None:
    file = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"weight": torch.ones(1, 2)}, "hyper_parameters": Settings()}, file)
    with pytest.raises(ValueError, match=r"plain values, but got tests\.train\.test_weights\.Settings; if you trust"):
        load_weights(nn.Linear(2, 1, bias=False), file)


def write_text(file: Path) -> None:
    file.write_text("weights")


def write_nothing_of_it(file: Path) -> None:
    torch.save({"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)}, file)


def write_list(file: Path) -> None:
    torch.save([1, 2], file)


def make_folder(file: Path) -> None:
    file.mkdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (write_text, "to hold weights: tensors and plain values, but got"),
        (write_list, "to hold weights: tensors and plain values, but got TypeError: a list"),
        (write_nothing_of_it, "has none of its keys; it has a.weight, b.weight"),
        (make_folder, "expected `run.weights` to be a file of weights, but got .*: that is a folder"),
        (lambda file: None, "expected `run.weights` to be a file of weights, but got .*: there is none"),
    ],
)
def test_file_that_holds_no_weights_is_named_before_anything_is_written(
    make: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "weights.pth")
    with pytest.raises(SystemExit):
        main(["pretrain", "--run.root", str(tmp_path / "runs"), "--run.weights", str(tmp_path / "weights.pth")])
    error = capsys.readouterr().err
    assert str(tmp_path / "weights.pth") in error
    assert re.search(message, error)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("file", ["backbone.safetensors", "checkpoints/last.ckpt"])
@pytest.mark.parametrize("recipe", ["simclr_hex", "byol"])
def test_run_starts_from_the_weights_of_another(
    file: str, recipe: str, trained: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(recipe=recipe, epochs=1, keep_every=1, weights=str(trained / file))
    run = prepare(config)
    run.train()
    start, weights = load_method(run.folder, "epoch-0000"), load_file(trained / "backbone.safetensors")
    assert all(torch.equal(each, weights[name]) for name, each in start.backbone.state_dict().items())
    if recipe == "byol":  # the momentum encoder starts from them too
        copies = [
            each for name, each in start.named_parameters() if "momentum" in name and name.endswith("stem.0.weight")
        ]
        assert [torch.equal(each, weights["stem.0.weight"]) for each in copies] == [True]
    recorded = json.loads((run.folder / "environment.json").read_text())[0]["weights"]
    assert recorded["file"] == str(trained / file)
    assert len(recorded["sha256"]) == 64
    assert (recorded["prefix"] == "backbone.") == file.endswith("ckpt")


def test_resumed_run_does_not_read_the_weights_again(trained: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    weights = tmp_path / "start.safetensors"
    weights.write_bytes((trained / "backbone.safetensors").read_bytes())
    folder = pretrain(make_config(epochs=1, weights=str(weights)))
    weights.unlink()
    pretrain(make_config(epochs=2, weights=str(weights), existing="resume"))
    assert len(json.loads((folder / "environment.json").read_text())) == 2
    assert load_method(folder) is not None
    with pytest.raises(ValueError, match=r"these differ: run.weights: .*start.safetensors -> None"):
        prepare(make_config(epochs=2, existing="resume"))
    with pytest.raises(
        ValueError, match=r"to keep the checkpoint of epoch 0 .* because it started from `run.weights` .*start"
    ):
        load_subject(open_source(folder), 0)


def test_weights_of_a_checkpoint_differ_from_those_of_the_seed(trained: Path, make_config: MakeConfig) -> None:
    config = make_config(weights=str(trained / "backbone.safetensors"))
    seeded = replace(config, run=replace(config.run, name="seeded", weights=None))
    started, fresh = prepare(config), prepare(seeded)
    assert not torch.equal(*(each.method.state_dict()["backbone.stem.0.weight"] for each in (started, fresh)))
    heads = [each.method.state_dict() for each in (started, fresh)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0] if name.startswith("projector."))
