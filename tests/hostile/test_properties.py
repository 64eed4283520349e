"""Any input gives a finite result or a clear error. `HYPOTHESIS_EXAMPLES` sets the number of inputs."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import SEEDS, TARGETS, run
from hex_ssl import HexLoss
from hex_ssl.functional import dcl_loss, hcl_loss, hex_loss, hex_loss_with_keys, ntxent_loss
from hex_ssl.statistics import similarity_statistics
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold, MarginThreshold
from hex_ssl.train.config import Config

many = settings(max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", 60)))

NUMBERS = st.one_of(
    st.floats(), st.floats(0.005, 10.0), st.integers(-2, 3), st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf])
)
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
TEXT = st.text(max_size=8)


@st.composite
def tensors(draw: Any) -> torch.Tensor:
    """Views of any shape, dtype, stride and scale, some with rows without a direction."""
    rows, columns = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    whole = torch.randn(2 * rows, 2 * columns, generator=generator) * draw(
        st.sampled_from([1.0, 1.0, 1e-30, 1e30, 0.0])
    )
    if draw(st.integers(0, 9)) == 0 and whole.numel():
        whole[0] = draw(st.sampled_from([math.nan, math.inf, 0.0]))
    kind = draw(st.sampled_from(["plain", "plain", "strided", "transposed", "expanded", "3-d"]))
    chosen = {
        "plain": lambda: whole[:rows, :columns].contiguous(),
        "strided": lambda: whole[::2, 1::2],
        "transposed": lambda: whole[:rows, :columns].T.contiguous().T,
        "expanded": lambda: whole[:1, :columns].expand(rows, columns) if rows else whole[:0, :columns],
        "3-d": lambda: whole[None],
    }[kind]()
    return chosen.to(draw(DTYPES) if draw(st.integers(0, 3)) == 0 else torch.float32)


THRESHOLDS = st.one_of(
    st.sampled_from(["adaptive", "step", "cosine", "supervised", "fixed", "none"]),
    st.floats(-1.0, 1.0).map(lambda value: FixedThreshold(value, scale="cosine")),
    st.floats(0.0, 1.0).map(AdaptiveThreshold),
    st.builds(MarginThreshold, st.floats(-2.0, 2.0), st.booleans()),
)


def refused_or_finite(loss_of: Callable[[], torch.Tensor], z: torch.Tensor) -> None:
    """Asserts that a loss and its gradient are finite, or that its error says what was expected."""
    try:
        loss = loss_of()
    except (TypeError, ValueError) as error:
        if not any(word in str(error) for word in ("`", "expected", "threshold")):
            raise AssertionError(f"expected a clear error, but got {error!r}") from error
        return
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


@many
@given(
    z1=tensors(),
    z2=st.one_of(st.none(), tensors()),
    views=st.integers(0, 2),
    threshold=THRESHOLDS,
    formulation=st.sampled_from(["importance", "official", "decoupled", "elimination", "other"]),
    temperature=st.one_of(st.floats(0.005, 10.0), NUMBERS),
    beta=st.one_of(st.floats(0.0, 5.0), NUMBERS),
    tau_plus=st.one_of(st.floats(0.0, 0.5), NUMBERS),
    reduction=st.sampled_from(["mean", "sum", "none", "all"]),
    labelled=st.booleans(),
    epoch=st.one_of(st.none(), st.integers(-1, 10**20)),
)
def test_the_loss_is_finite_or_refused(z1: Any, z2: Any, views: int, labelled: bool, **arguments: Any) -> None:
    z2 = z1.roll(1, 0) if z2 is None else z2
    z1 = z1.clone().requires_grad_() if z1.is_floating_point() else z1
    labels = torch.arange(len(z1)) % 3 if labelled else None
    refused_or_finite(lambda: hex_loss(z1, z2, *[z2] * views, labels=labels, **arguments), z1)


INDICES = st.one_of(
    st.none(),
    st.lists(st.integers(-2, 9), max_size=9).map(lambda rows: torch.tensor(rows, dtype=torch.int64)),
    st.lists(st.integers(0, 3), min_size=4, max_size=4).map(lambda rows: torch.tensor(rows).reshape(2, 2)),
    tensors(),
)


@many
@given(
    anchors=tensors(),
    keys=st.one_of(st.none(), tensors()),
    positives=st.one_of(st.none(), st.just("anchors"), tensors()),
    positive_index=INDICES,
    ignored_index=st.one_of(st.none(), INDICES),
    own_negatives=st.one_of(st.none(), st.integers(0, 2), tensors()),
    labelled=st.booleans(),
    threshold=THRESHOLDS,
    formulation=st.sampled_from(["importance", "official", "decoupled", "elimination"]),
    temperature=st.one_of(st.floats(0.005, 10.0), NUMBERS),
    reduction=st.sampled_from(["mean", "sum", "none"]),
)
def test_the_loss_with_keys_is_finite_or_refused(
    anchors: Any, keys: Any, positives: Any, positive_index: Any, labelled: bool, **arguments: Any
) -> None:
    keys = anchors.roll(1, 0) if keys is None else keys
    anchors = anchors.clone().requires_grad_() if anchors.is_floating_point() else anchors
    if isinstance(positives, str):
        positives, positive_index, arguments["ignored_index"] = anchors.detach().flip(0), None, None
    if isinstance(arguments["own_negatives"], int):
        arguments["own_negatives"] = torch.stack([anchors.detach().roll(1, 0)] * (1 + arguments["own_negatives"]), 1)
    if labelled:
        arguments |= {"anchor_labels": torch.arange(len(anchors)), "key_labels": torch.arange(len(keys)) % 3}
    refused_or_finite(
        lambda: hex_loss_with_keys(
            anchors, keys, positives=positives, positive_index=positive_index, epoch=0, **arguments
        ),
        anchors,
    )


@many
@given(
    loss=st.sampled_from([ntxent_loss, hcl_loss, dcl_loss]),
    z1=tensors(),
    z2=st.one_of(st.none(), tensors()),
    temperature=st.one_of(st.floats(0.005, 10.0), NUMBERS),
    reduction=st.sampled_from(["mean", "sum", "none", "all"]),
)
def test_the_other_losses_are_finite_or_refused(loss: Any, z1: Any, z2: Any, **arguments: Any) -> None:
    z2 = z1.roll(1, 0) if z2 is None else z2
    z1 = z1.clone().requires_grad_() if z1.is_floating_point() else z1
    refused_or_finite(lambda: loss(z1, z2, **arguments), z1)


@many
@given(
    rows=tensors(),
    classes=st.one_of(st.none(), st.lists(st.integers(-1, 3), max_size=9)),
    superclasses=st.one_of(st.none(), st.lists(st.integers(-1, 2), max_size=9)),
    quantile=st.one_of(st.floats(0.0, 1.0), NUMBERS),
    threshold=st.one_of(st.none(), NUMBERS),
    bins=st.integers(-1, 10_001),
)
def test_similarity_statistics_count_every_pair_or_refuse(rows: Any, bins: int, **arguments: Any) -> None:
    rows = (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()
    try:
        found = similarity_statistics(rows, bins=bins, **arguments)
    except (TypeError, ValueError) as error:
        if not any(word in str(error) for word in ("`", "expected")):
            raise AssertionError(f"expected a clear error, but got {error!r}") from error
        return
    assert found.histogram.sum() == len(rows) * (len(rows) - 1) // 2
    assert math.isfinite(found.threshold)


@many
@given(
    name=st.sampled_from(["temperature", "beta", "tau_plus", "warmup_epochs"]),
    value=st.one_of(NUMBERS, TEXT, st.none()),
)
def test_the_module_takes_an_argument_or_names_it(name: str, value: Any) -> None:
    try:
        HexLoss(**{name: value})
    except (TypeError, ValueError) as error:
        if name not in str(error) and not isinstance(error, TypeError):
            raise AssertionError(f"expected an error that names `{name}`, but got {error}") from error


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)
GROUPS = {group: list(settings) for group, settings in Config().as_dict().items()}
SETTINGS = st.one_of(
    VALUES,
    *[
        st.dictionaries(st.tuples(st.just(group), st.one_of(st.sampled_from(names), TEXT)), VALUES, max_size=2)
        for group, names in GROUPS.items()
    ],
)


@many
@given(found=SETTINGS)
def test_a_configuration_is_valid_or_its_error_names_the_setting(found: Any) -> None:
    names = list(found) if isinstance(found, dict) else []
    if names and isinstance(names[0], tuple):
        found = {names[0][0]: {name: found[group, name] for group, name in names}}
        names = [f"{group}.{name}" for group, name in names]
    try:
        config = Config.from_dict(found)
    except ValueError as error:
        if len(str(error)) > 3_000 or (names and not any(str(name) in str(error) for name in names)):
            raise AssertionError(f"expected a short error that names one of {names}, but got {error}") from error
        return
    assert Config.from_dict(config.as_dict()) == config


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", 12)))
@given(data=st.data())
def test_any_bytes_are_read_or_refused_clearly(name: str, data: st.DataObject) -> None:
    """Runs the fuzzer's targets on its seeds with some bytes removed, changed or inserted, and on random bytes."""
    seed = data.draw(st.sampled_from(sorted((SEEDS / name).iterdir()))).read_bytes()
    start, end = (data.draw(st.integers(0, len(seed))) for _ in range(2))
    run(name, seed[:start] + data.draw(st.binary(max_size=20)) + seed[end:])


def test_the_seeds_themselves() -> None:
    for name in TARGETS:
        for path in sorted((SEEDS / name).iterdir()):
            run(name, path.read_bytes())
    assert sum(path.stat().st_size for path in Path(SEEDS).rglob("*") if path.is_file()) < 1_000_000
