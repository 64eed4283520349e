"""Building methods from a configuration: every setting has an effect, and a setting without one is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from hex_ssl.losses import DCLLoss, HCLLoss, HexLoss, NTXentLoss
from hex_ssl.momentum import MomentumEncoder
from hex_ssl.queue import Queue
from hex_ssl.thresholds import NO_HIERARCHY, CosineThreshold, FixedThreshold, MarginThreshold, SupervisedThreshold
from hex_ssl.train.config import LossConfig
from hex_ssl.train.methods import METHODS, Method, build_loss, build_method, build_threshold, method_class

from .small import HEADS, random_batch, small_config, small_method


def hex_losses(method: Method) -> list[HexLoss]:
    return [module for module in method.modules() if isinstance(module, HexLoss)]


@pytest.mark.parametrize("name", METHODS)
def test_each_method_by_name(name: str) -> None:
    method = small_method(name)
    assert type(method) is method_class(name)
    assert type(method).settings_class is METHODS[name]
    assert hex_losses(method) == []
    assert method(torch.rand(3, 1, 8, 8)).shape == (3, 16)


def test_every_named_method_exists() -> None:
    assert METHODS.keys() == HEADS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_settings_of_hex_have_an_effect(name: str) -> None:
    method = small_method(
        name,
        hex="cosine",
        temperature=0.2,
        threshold_arguments={"start": 0.8},
        formulation="official",
        beta=2.0,
        tau_plus=0.05,
        warmup_epochs=3,
    )
    (loss,) = hex_losses(method)
    assert loss.threshold == CosineThreshold(start=0.8, max_epochs=10)
    assert (loss.temperature, loss.formulation, loss.beta, loss.tau_plus) == (0.2, "official", 2.0, 0.05)
    assert (loss.warmup_epochs, loss.gather_distributed) == (3, True)
    method.on_train_epoch_start()  # without a trainer the epoch is 0
    assert loss.warming_up


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg", "byol", "simsiam"])
def test_alpha_has_an_effect(name: str) -> None:
    assert small_method(name, hex="adaptive", alpha=0.25).alpha == 0.25


@pytest.mark.parametrize("name", ["nnclr", "all4one", "mocov2"])
def test_the_temperature_is_the_methods_own(name: str) -> None:
    method = small_method(name, temperature=0.4)
    temperatures = {module.temperature for module in method.modules() if hasattr(module, "temperature")}
    assert temperatures == {0.4}


@pytest.mark.parametrize("name", METHODS)
def test_the_heads_have_their_configured_widths(name: str) -> None:
    method = small_method(name)
    linear = [layer for layer in method.projector if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]
    widths = [linear[0].in_features, *(layer.out_features for layer in linear)]
    hidden, output = HEADS[name]["hidden_dim"], HEADS[name]["output_dim"]
    two_layers = ("simclr", "mocov2", "byol")
    assert widths == ([16, hidden, output] if name in two_layers else [16, hidden, hidden, output])
    norms = [layer for layer in method.projector if isinstance(layer, nn.BatchNorm1d)]  # type: ignore[union-attr]
    expected = {"simclr": 0, "mocov2": 0, "byol": 1, "barlow_twins": 2, "vicreg": 2}
    assert len(norms) == expected.get(name, 3)
    if "predictor_dim" in HEADS[name]:
        first, norm, _, last = method.predictor  # type: ignore[misc,union-attr]
        assert (first.out_features, norm.num_features, last.out_features) == (
            *[HEADS[name]["predictor_dim"]] * 2,
            output,
        )
    for module in method.modules():
        if isinstance(module, Queue):
            assert module.rows.shape == (96, 16)
        if isinstance(module, MomentumEncoder):
            assert module.start == 0.9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("simclr", {"hidden_dim": 2048, "output_dim": 128}),
        ("nnclr", {"hidden_dim": 2048, "output_dim": 256, "predictor_dim": 4096, "queue_size": 98304}),
        ("all4one", {"neighbours": 5, "momentum": 0.99, "final_momentum": 1.0, "attention_temperature": None,
                     "positional_axis": "rank"}),
        ("barlow_twins", {"hidden_dim": 8192, "lamb": 0.005, "scale": 1.0, "sync_statistics": True}),
        ("byol", {"hidden_dim": 4096, "output_dim": 256, "momentum": 0.996, "final_momentum": 1.0}),
        ("mocov2", {"output_dim": 128, "queue_size": 65536, "momentum": 0.999, "final_momentum": 0.999,
                    "symmetric": False}),
        ("vicreg", {"sim_weight": 25.0, "var_weight": 25.0, "cov_weight": 1.0, "half_variance": True}),
        ("simsiam", {"hidden_dim": 2048, "output_dim": 2048, "predictor_dim": 512}),
    ],
)  # fmt: skip
def test_defaults_are_those_of_the_methods_paper(name: str, expected: dict[str, Any]) -> None:
    settings = METHODS[name]().as_dict()
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.parametrize("name", METHODS)
def test_a_method_alone_has_the_defaults_of_its_settings(name: str) -> None:
    heads = {key: size for key, size in HEADS[name].items() if key != "momentum"}
    made: Any = method_class(name)
    torch.manual_seed(0)
    alone = made(nn.Flatten(), 64, METHODS[name](**heads))
    assert alone.hex_loss is None
    torch.manual_seed(0)
    again = made(nn.Flatten(), 64, METHODS[name](**heads), hex_loss=HexLoss(temperature=0.2))
    assert again.hex_loss.temperature == 0.2
    torch.testing.assert_close(dict(again.state_dict()), dict(alone.state_dict()), rtol=0, atol=0)


def test_settings_of_another_method_are_errors() -> None:
    config = replace(small_config("simclr"), method=METHODS["nnclr"](name="simclr"))
    message = "^expected `method` to be settings of simclr, SimCLRSettings, but got NNCLRSettings$"
    with pytest.raises(ValueError, match=message):
        build_method(config, channels=1)


def test_simclr_has_one_loss() -> None:
    made: Any = method_class("simclr")
    for arguments in ({"loss": HexLoss()}, {"loss": DCLLoss(), "hex_loss": HexLoss()}):
        with pytest.raises(
            ValueError, match="^expected HEX to be given as `hex_loss`, and no other `loss` with it, but got "
        ):
            made(nn.Flatten(), 64, **arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_dim": 20}, "^expected `method.output_dim` to be a multiple of 8, but got 20$"),
        ({"queue_size": 4}, r"^expected `method.queue_size` to be at least `method.neighbours` \(5\), but got 4$"),
        (
            {"positional_axis": "ranks"},
            '^expected `method.positional_axis` to be "rank" or "feature", but got "ranks"$',
        ),
    ],
)
def test_impossible_settings_of_all4one_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_method("all4one", settings)


def test_an_image_size_is_needed() -> None:
    config = small_config("simclr")
    with pytest.raises(ValueError, match="^expected `image_size` or `data.image_size`, but both are None$"):
        build_method(replace(config, data=replace(config.data, image_size=None)), channels=1)


@pytest.mark.parametrize(("base", "kind"), [("own", NTXentLoss), ("hcl", HCLLoss), ("dcl", DCLLoss)])
def test_simclrs_losses_by_name(base: Any, kind: type[nn.Module]) -> None:
    loss: Any = build_loss(LossConfig(base=base, temperature=0.3, beta=2.0, tau_plus=0.05))
    assert type(loss) is kind
    assert (loss.temperature, loss.gather_distributed) == (0.3, True)
    if base == "hcl":
        assert (loss.beta, loss.tau_plus) == (2.0, 0.05)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "simclr"])
def test_other_methods_have_no_other_base(name: str) -> None:
    with pytest.raises(ValueError, match=f'^expected `loss.base` to be "own" for {name}, but got "hcl"$'):
        small_method(name, base="hcl")


def test_hex_has_no_other_base() -> None:
    with pytest.raises(
        ValueError, match='^expected `loss.base` to be "own" if `loss.hex` is not "off", but got "dcl"$'
    ):
        build_loss(LossConfig(hex="adaptive", base="dcl"))


def test_thresholds_by_name() -> None:
    fixed = LossConfig(hex="fixed", threshold_arguments={"value": 0.7, "scale": "cosine"})
    assert build_threshold(fixed) == FixedThreshold(0.7, "cosine")
    assert build_threshold(LossConfig(hex="supervised")) == SupervisedThreshold()
    assert build_threshold(LossConfig(hex="margin")) == MarginThreshold(0.0)
    margin = LossConfig(hex="margin", threshold_arguments={"margin": -0.05, "relative": True})
    assert build_threshold(margin) == MarginThreshold(-0.05, relative=True)
    assert build_threshold(LossConfig(hex="cosine"), epochs=30) == CosineThreshold(max_epochs=30)
    given = LossConfig(hex="cosine", threshold_arguments={"max_epochs": 9})
    assert build_threshold(given, epochs=30) == CosineThreshold(max_epochs=9)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("adaptive", {"quantil": 0.9}, r"of adaptive to be among \['quantile'\], but got \['quantil'\]"),
        ("fixed", {}, "`loss.threshold_arguments` of fixed: .*value"),
        ("adaptive", {"quantile": 2.0}, "quantile"),
        ("adaptive", {"quantile": True}, "of adaptive: expected `quantile` to be a number, but got True"),
        ("margin", {"margin": "a tenth"}, "of margin: expected `margin` to be a number, but got 'a tenth'"),
        ("margin", {"relative": "relative"}, "of margin: expected `relative` to be True or False, but got 'relative'"),
        ("margin", {"value": 0.1}, r"of margin to be among \['margin', 'relative'\], but got \['value'\]"),
        ("off", {}, '^expected `loss.hex` to name a threshold, but got "off"$'),
    ],
)
def test_wrong_threshold_arguments_are_errors(name: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_threshold(LossConfig(hex=name, threshold_arguments=arguments))


@pytest.mark.parametrize("name", METHODS)
def test_each_method_leaves_out_negatives_closer_than_the_positive(name: str) -> None:
    method = small_method(
        name, hex="margin", threshold_arguments={"margin": -0.1}, formulation="elimination", alpha=0.5
    )
    (loss,) = hex_losses(method)
    assert (loss.threshold, loss.formulation) == (MarginThreshold(-0.1), "elimination")
    batch = random_batch()
    found = method.compute_loss(method.embed(batch.views), batch)
    statistics = method.statistics()
    assert found.isfinite()
    assert statistics["hierarchical_negatives"] > 0  # those that are left out
    loss.formulation = "importance"
    assert method.compute_loss(method.embed(batch.views), batch) != found
    loss.formulation, loss.threshold = "elimination", NO_HIERARCHY
    assert method.compute_loss(method.embed(batch.views), batch) != found


def test_elimination_needs_to_know_which_negatives() -> None:
    with pytest.raises(ValueError, match='^expected `loss.hex` to tell which negatives .*, such as "margin", but got'):
        LossConfig(formulation="elimination")


def test_alpha_out_of_range_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^expected `alpha` to be in \[0, 1\], but got 1.5$"):
        method_class("byol")(nn.Flatten(), 64, alpha=1.5)  # type: ignore[call-arg]


def test_the_initial_backbone_depends_only_on_the_seed() -> None:
    backbones = [
        small_method(name, seed=5, **loss).backbone.state_dict()
        for name in METHODS
        for loss in ({}, {"hex": "adaptive"})
    ]
    for other in backbones[1:]:
        assert all(torch.equal(value, other[key]) for key, value in backbones[0].items())
