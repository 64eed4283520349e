"""The CUDA kernels that find quantiles and sums in one pass, executed as PTX on the CPU, against the reference."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hex_ssl import direct, functional
from hex_ssl.statistics import Statistics
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold

from .batches import decided, gapped
from .compare import (
    arguments,
    assert_apart_like_reference,
    assert_index_like_reference,
    assert_views_like_reference,
    expected_quantiles,
)
from .conftest import Emulate
from .ptx import kernels
from .ptx.emulation import Emulation
from .ptx.interpreter import Schedule
from .ptx.mutations import JOINT_MUTATIONS, SIFT_MUTATIONS
from .ptx.structures import structures
from .reference import Settings

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
KEYS = 1300
"""More than `select` takes by itself. The sample has 256 of them."""
CAPACITY = 320
"""Of a list at quantile 0.95."""
HEADER = structures()["Header"]


@pytest.fixture(scope="module", autouse=True)
def _compile_ahead(emulation: Emulation, request: pytest.FixtureRequest) -> None:
    """Compile while the first tests run."""
    emulation.start_planted(JOINT_MUTATIONS, request.session, test_a_planted_bug_is_seen)
    emulation.start_planted(SIFT_MUTATIONS, request.session, test_a_planted_bug_for_sm_90a_is_seen, kernels.WGMMA)


class Watch:
    """Notes the scratch memory of calls."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.memory: list[Tensor] = []

        def noting(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def noted(*sizes: object, **options: object) -> Tensor:
                found = make(*sizes, **options)
                if found.dtype == torch.uint8:
                    self.memory.append(found)
                return found

            return noted

        patch.setattr(torch, "empty", noting(torch.empty))
        patch.setattr(direct, "_new_empty", noting(direct._new_empty))

    def header(self, field: str) -> int:
        """An integer in the header of the last call."""
        at = getattr(HEADER, field).offset
        return int(self.memory[-1][at : at + 4].view(torch.int32))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def spread(count: int, seed: int) -> Tensor:
    """Random directions."""
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def towards(direction: Tensor, cosine: Tensor | float, count: int, seed: int) -> Tensor:
    """Rows with a given cosine to a direction, otherwise at random."""
    unit = normalize(direction, dim=-1)
    across = spread(count, seed)
    across = normalize(across - (across @ unit)[:, None] * unit)
    cosine = torch.as_tensor(cosine, dtype=torch.float64).expand(count)[:, None]
    return cosine * unit + (1 - cosine**2).sqrt() * across


def two_kinds(seed: int) -> tuple[Tensor, Tensor]:
    """Some anchors have a cluster of keys, some none. The threshold is between, far below the lists of the former."""
    keys, anchors = spread(KEYS, seed), spread(140, seed + 1)
    keys[:200] = towards(anchors[0], 0.9, 200, seed + 2)
    anchors[:70] = towards(anchors[0], 0.97, 70, seed + 3)
    return anchors, keys


def long_lists(seed: int) -> tuple[Tensor, Tensor]:
    """Two fifths of the keys are alike some of the anchors: more than a list takes."""
    keys, anchors = spread(KEYS, seed), spread(140, seed + 1)
    keys[:520] = towards(anchors[0], 0.8, 520, seed + 2)
    anchors[:30] = towards(anchors[0], 0.97, 30, seed + 3)
    return anchors, keys


def many_pending(seed: int) -> tuple[Tensor, Tensor]:
    """A fifth of the keys are at the threshold of nearly all anchors. The others make its bracket wide."""
    axes = torch.eye(64, dtype=torch.float64)[:2]
    keys = spread(KEYS, seed)
    keys[:270] = towards(axes[0], torch.linspace(0.44, 0.47, 270), 270, seed + 1)
    keys[270:335] = towards(axes[1], 0.95, 65, seed + 2)
    anchors = torch.cat([towards(axes[0], 0.999, 54, seed + 3), towards(axes[1], 0.999, 6, seed + 4)])
    return anchors, keys


def opposite(seed: int) -> tuple[Tensor, Tensor]:
    """The quantile of an anchor is negative."""
    direction = torch.ones(64, dtype=torch.float64)
    anchors, keys = towards(direction, 0.3, 140, seed), towards(direction, 0.5, KEYS, seed + 1)
    anchors[3:4] = towards(-direction, 0.95, 1, seed + 2)
    return anchors, keys


def biased(seed: int) -> tuple[Tensor, Tensor]:
    """The keys that the sample looks at are closer to the anchors than the others."""
    anchors = towards(torch.ones(64, dtype=torch.float64), 0.9, 40, seed)
    keys = towards(-torch.ones(64, dtype=torch.float64), 0.2, KEYS, seed + 1)
    looked_at = sorted(kernels.sampled_columns(256, KEYS))
    keys[looked_at] = towards(torch.ones(64, dtype=torch.float64), 0.5, len(looked_at), seed + 2)
    return anchors, keys


def unseen(seed: int) -> tuple[Tensor, Tensor]:
    """The sample looks at none of the keys that are closest to the anchors: the threshold is above its bracket."""
    axis, keys = torch.ones(64, dtype=torch.float64), spread(KEYS, seed)
    others = sorted(set(range(KEYS)) - set(kernels.sampled_columns(256, KEYS)))
    keys[others[:80]] = towards(axis, 0.8, 80, seed + 1)
    return towards(axis, 0.97, 40, seed + 2), keys


STEP = 1 / 16352
"""Of `sample_key`."""


def bracket_end(least: float) -> float:
    """The next number of the kernels' `bracket_end` that is the sum of two tf32 numbers."""
    ends = torch.arange(int(least / STEP), int(1 / STEP)).float() * torch.tensor(STEP)
    return float(ends[(ends >= least) & (ends.view(torch.int32) % 4 == 0)][0])


def at_the_ends(seed: int, *, of_threshold: bool = False) -> tuple[Tensor, Tensor]:
    """Many keys are exactly at the lower end of an anchor's list, and its quantile is too. They are equal rows.

    Or at the ends of the threshold's bracket: this end is the lower one of all anchors, and some keys are at the upper.
    """
    end, ceiling = bracket_end(0.4975), bracket_end(0.4985)  # so close that the sample's parts are single keys
    looked_at = kernels.sampled_columns(256, KEYS)
    others = sorted(set(range(KEYS)) - set(looked_at))
    high, sampled, equal, of_others = looked_at[:10], looked_at[10:40], others[:26], looked_at[40:80] + others[26:56]
    # The cosines with the two directions that the anchors have. The sampled keys above the end are a step of
    # `sample_key` above it, and there are 66 of the list's keys, the rank of the quantile.
    first, second = torch.full((KEYS,), 0.1, dtype=torch.float64), torch.full((KEYS,), 0.1, dtype=torch.float64)
    first[high], first[sampled], first[equal] = 0.51, end + STEP, end
    if of_threshold:
        first[high], first[others[56:61]] = ceiling - STEP, ceiling
        second[looked_at[80:90]], second[looked_at[90:120]], second[others[61:117]] = (
            ceiling - STEP,
            end + STEP,
            0.498,
        )
    else:
        second[of_others] = 0.7
    keys = spread(KEYS, seed)
    keys[equal] = keys[equal[0]].clone()
    keys = 0.9 * normalize(keys) * (1 - first**2 - second**2).sqrt()[:, None]
    keys[:, 0], keys[:, 1], keys[:, 2] = first, second, 0.0
    # The last one makes their length 1 as float32, so that normalising them changes nothing.
    keys[:, 2] = (1 - keys.float().double().square().sum(1)).sqrt()
    anchors = torch.eye(64, dtype=torch.float64)[[0] * 70 + [1] * 70]
    return anchors, keys


def full_lists(seed: int) -> tuple[Tensor, Tensor]:
    """Half of the anchors have a list of as many similarities as a list has room for, the others a shorter one."""
    keys = 0.1 * normalize(spread(KEYS, seed))
    order = torch.randperm(KEYS, generator=torch.Generator().manual_seed(seed + 1))
    keys[order[:CAPACITY], 0], keys[order[CAPACITY : CAPACITY + 200], 1] = 0.8, 0.6
    keys[:, 2] = (1 - keys.square().sum(1) + keys[:, 2] ** 2).sqrt()
    anchors = torch.eye(64, dtype=torch.float64)[[0] * 70 + [1] * 70]
    return anchors, keys


DATA: dict[str, tuple[Callable[[int], tuple[Tensor, Tensor]], int, bool, int]] = {
    "spread": (lambda seed: (spread(140, seed), spread(KEYS, seed + 1)), 1, False, 0),
    "two kinds": (two_kinds, 1, False, 0),
    "long lists": (long_lists, 1, True, 30),
    "many pending": (many_pending, 76, True, 0),
    "opposite": (opposite, 3, True, 1),
    "biased": (biased, 2, True, 40),
    "unseen": (unseen, 1, True, 0),
    "at the ends": (at_the_ends, 1, False, 0),
    "at the threshold's ends": (partial(at_the_ends, of_threshold=True), 1, False, 0),
    "full lists": (full_lists, 1, False, 0),
    "many pairs": (lambda seed: (spread(64, seed).repeat(27, 1), spread(KEYS, seed + 1)), 1, False, 0),
    "many pairs pending": (lambda seed: (many_pending(seed)[0].repeat(30, 1), many_pending(seed)[1]), 76, True, 0),
}
"""Anchors and keys, a seed for which rounding decides nothing, whether the sums need another pass, and how many rows
are searched among all keys."""
SETTINGS = Settings(value=0.95)
SHOWS = {
    "lists: the threshold's bracket is not looked at": "two kinds",
    "lists: a negative lower end": "opposite",
    "lists: lists that are too long are written": "long lists",
    "joint: lists that are too long are searched": "long lists",
    "joint: too many are pending": "many pending",
    "digits: a threshold out of its bracket": "biased",
    "digits: a threshold above its bracket": "unseen",
    "sums: no other pass": "many pending",
    "anchors: one part after another pass": "many pending",
    "anchors: the sum over all pairs after another pass": "many pairs pending",
    **{name: "many pairs" for name in JOINT_MUTATIONS if name.startswith("total: ") or "sum over all pairs is" in name},
    "joint: candidates with another digit": "at the ends",
    "hopper_sums: no other pass": "many pending",
    "hopper_joint: slots are never full": "two kinds",
    "hopper_joint: slots are not cleared": "two kinds",
    "joint: the end is not listed": "at the ends",
    "joint: the end is not appended": "at the ends",
    "lists: an excluded pair at the end is not of the row": "at the ends",
    "lists: a full list is not written": "full lists",
    "joint: none at the lower end": "at the threshold's ends",
    "joint: pending at the lower end": "at the threshold's ends",
    "joint: none at the upper end": "at the threshold's ends",
    "lists: the anchor's own similarity is rounded": "the anchors themselves",
}
"""The data that show a planted bug, where those of other bugs do not."""


def named(anchors: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Three keys and one that is ignored, for each anchor."""
    orders = torch.stack([torch.randperm(KEYS, generator=generator)[:4] for _ in range(anchors)])
    return orders[:, :3], torch.where(torch.arange(anchors) % 3 == 0, -1, orders[:, 3])


def check_themselves(watch: Watch) -> None:
    """The largest similarity of each row is that of the anchor with itself, which is exactly 1."""
    settings = arguments(Settings(value=1.0))
    found = functional.hex_loss(*spread(1040, 1).float().chunk(2), return_statistics=True, **settings)[1]
    assert (found.threshold, found.hierarchical_negatives) == (1.0, 0.0)
    assert not watch.header("rerun")


def check(name: str, watch: Watch, dtype: torch.dtype = F32) -> None:
    """Positives apart, and keys that anchors name."""
    if name not in DATA:
        return check_themselves(watch)
    make, seed, *expected = DATA[name]
    anchors, keys = (rows.to(dtype) for rows in make(seed))
    generator = torch.Generator().manual_seed(7)
    positives = (anchors + 0.5 * torch.randn(anchors.shape, generator=generator)).to(dtype)
    assert_apart_like_reference(anchors, keys, positives, SETTINGS)
    assert [watch.header("rerun"), watch.header("failed")] == expected
    assert_index_like_reference(anchors, keys, *named(len(anchors), generator), SETTINGS)
    assert [watch.header("rerun"), watch.header("failed")] == expected
    return None


@pytest.mark.parametrize("name", [*DATA, "the anchors themselves"])
def test_keys(name: str, emulate: Emulate, watch: Watch) -> None:
    emulate(F32, 64)
    check(name, watch)


@pytest.mark.parametrize("name", ["two kinds", "long lists"])
def test_launches_of_some_rows(name: str, emulate: Emulate, watch: Watch) -> None:
    # As where a launch of all rows would take too much memory. The 140 anchors take two.
    emulate(F32, 64, launch_rows=128)
    check(name, watch)


@pytest.mark.parametrize("formulation", ["importance", "elimination"])
def test_lists_of_keys_to_ignore(formulation: str, emulate: Emulate, watch: Watch) -> None:
    # Some are similar enough to be listed, the others are not.
    emulate(F32, 64)
    anchors, keys = (rows.float() for rows in DATA["spread"][0](1))
    settings, generator = SETTINGS.but(formulation=formulation), torch.Generator().manual_seed(7)
    orders = torch.stack([torch.randperm(KEYS, generator=generator)[:103] for _ in range(len(anchors))])
    ignored = torch.where(torch.arange(100) % 3 == 0, -1, orders[:, 3:])
    positives = anchors + 0.5 * torch.randn(anchors.shape, generator=generator)
    assert_apart_like_reference(anchors, keys, positives, settings, ignored_index=ignored)
    assert_index_like_reference(anchors, keys, orders[:, :3], ignored, settings)
    assert not watch.header("rerun")


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_16_bits(dtype: torch.dtype, emulate: Emulate, watch: Watch) -> None:
    # Cosines of 0.9 and of at most 0.5, so that no rounding decides. The anchors' quantiles are of either kind, and the
    # threshold is between them.
    emulate(dtype, 64)
    anchors, keys = spread(100, 1), spread(KEYS, 2)
    keys[:100] = towards(anchors[0], 0.93, 100, 3)
    anchors[:50] = towards(anchors[0], 0.99, 50, 4)
    positives = towards(anchors[0], 0.7, 100, 5)
    assert_apart_like_reference(anchors.to(dtype), keys.to(dtype), positives.to(dtype), SETTINGS)
    assert not watch.header("rerun")


def test_views(emulate: Emulate, watch: Watch) -> None:
    # Enough pairs for `total_similarity`.
    emulate(F32, 64)
    settings = Settings(value=0.97)
    assert_views_like_reference(decided(730, 2, 64, settings, F32), 2, settings)
    assert not watch.header("rerun")


def test_few_are_pending(emulate: Emulate, watch: Watch) -> None:
    # Of 2,048 keys the sample has 512.
    emulate(F32, 64)
    anchors, keys = spread(64, 1).float(), spread(2048, 2).float()
    functional.hex_loss_with_keys(anchors, keys, positives=anchors + 0.1, **arguments(Settings(value=0.99)))
    assert not watch.header("rerun")
    assert watch.header("failed") == 0
    assert 0 < watch.header("pending") < 0.03 * 64 * 2048


@pytest.mark.parametrize("name", ["two kinds", "spread"])
def test_the_same_bits_in_any_order(name: str, emulate: Emulate) -> None:
    make, seed, *_ = DATA[name]
    anchors, keys = (rows.float() for rows in make(seed))
    found = []
    for schedule in (Schedule(seed=1), Schedule(seed=2, random_lanes=True), Schedule(seed=3, resident_blocks=1)):
        emulate(F32, 64, schedule=schedule)
        rows = [anchors.clone().requires_grad_(), keys.clone().requires_grad_()]
        loss, statistics = functional.hex_loss_with_keys(
            *rows, positives=anchors, return_statistics=True, **arguments(SETTINGS)
        )
        loss.backward()
        found.append([loss.detach(), *statistics, *(each.grad for each in rows)])
    for other in found[1:]:
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("of", ["anchor", "key"])
def test_a_row_without_a_direction(of: str, emulate: Emulate) -> None:
    emulate(F32, 64)
    anchors, keys = spread(64, 1).float(), spread(KEYS, 2).float()
    (anchors if of == "anchor" else keys)[40] = 0.0
    loss = functional.hex_loss_with_keys(anchors, keys, positives=spread(64, 3).float(), **arguments(SETTINGS))
    assert math.isnan(loss.item())


@pytest.mark.parametrize("name", JOINT_MUTATIONS)
def test_a_planted_bug_is_seen(name: str, emulate: Emulate, watch: Watch) -> None:
    mutation = JOINT_MUTATIONS[name]
    emulate(mutation.dtype, 64, mutation=name, launch_rows=128 if "launch" in name else 0)
    with mutation.seen():
        check(SHOWS.get(name, "spread"), watch)


# The same pass by the kernels for sm_90a. They take 16-bit rows, and most of these data have similarities near the
# threshold. So it is compared with the two passes that it stands for, whose similarities have the same bits.
MANY = "more anchors than a launch has rows"
DATA_90A = {
    name: each for name, each in DATA.items() if name not in ("at the ends", "at the threshold's ends", "full lists")
}
DATA_90A[MANY] = (lambda seed: (spread(300, seed), spread(KEYS, seed + 1)), 1, False, 0)


def check_one_pass(name: str, watch: Watch) -> None:
    """Positives apart, and keys to ignore."""
    make, seed, *expected = DATA_90A[name]
    anchors, keys = (rows.to(BF16) for rows in make(seed))
    generator = torch.Generator().manual_seed(7)
    positives = (anchors + 0.5 * torch.randn(anchors.shape, generator=generator)).to(BF16)
    _, ignored = named(len(anchors), generator)

    def call(threshold: AdaptiveThreshold | FixedThreshold) -> tuple[Statistics, list[Tensor]]:
        rows = [anchors.clone().requires_grad_(), keys.clone().requires_grad_()]
        loss, statistics = functional.hex_loss_with_keys(
            *rows, positives=positives, ignored_index=ignored, threshold=threshold, return_statistics=True
        )
        loss.backward()
        gradients = [each.grad for each in rows if each.grad is not None]
        return statistics, [loss.detach(), *gradients]

    statistics, found = call(AdaptiveThreshold(SETTINGS.value))
    assert [watch.header("rerun"), watch.header("failed")] == expected
    quantiles = expected_quantiles(anchors, keys, positives, SETTINGS.value)
    assert statistics.threshold.item() == pytest.approx(quantiles.mean().item(), abs=5e-7)
    again, by_two_passes = call(FixedThreshold(statistics.threshold.item(), scale="cosine"))
    assert statistics.hierarchical_negatives == again.hierarchical_negatives
    assert statistics.negative_similarity.item() == pytest.approx(again.negative_similarity.item(), abs=2e-6)
    assert found[0].item() == pytest.approx(by_two_passes[0].item(), rel=2e-6)
    assert len(found) == 3
    for one, other in zip(found[1:], by_two_passes[1:], strict=True):
        assert (one - other).norm() < 1e-4 * other.norm()


@pytest.mark.parametrize("name", DATA_90A)
def test_one_pass_for_sm_90a(name: str, emulate: Emulate, watch: Watch) -> None:
    emulate(BF16, 64, wgmma=True, launch_rows=256)
    check_one_pass(name, watch)


def test_views_for_sm_90a(emulate: Emulate, watch: Watch) -> None:
    emulate(BF16, 64, wgmma=True)
    settings = Settings(value=0.995)
    assert_views_like_reference(decided(520, 2, 64, settings, BF16, draw=gapped), 2, settings)
    assert not watch.header("rerun")


@pytest.mark.parametrize("name", SIFT_MUTATIONS)
def test_a_planted_bug_for_sm_90a_is_seen(name: str, emulate: Emulate, watch: Watch) -> None:
    mutation = SIFT_MUTATIONS[name]
    emulate(mutation.dtype, 64, wgmma=True, mutation=name, launch_rows=256)
    with mutation.seen():
        check_one_pass(MANY if "launch" in name else SHOWS.get(name, "spread"), watch)
