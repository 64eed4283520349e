"""The loss of each method, computed from its embeddings by the formulas of docs/methods.md."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.functional import dcl_loss, hcl_loss, hex_loss, hex_loss_with_keys, ntxent_loss
from hex_ssl.gradient_cache import GradientCache
from hex_ssl.losses import (
    HexLoss,
    barlow_twins_loss,
    byol_loss,
    feature_contrast_loss,
    moco_loss,
    nnclr_loss,
    simsiam_loss,
    vicreg_loss,
)
from hex_ssl.thresholds import AdaptiveThreshold, FixedThreshold
from hex_ssl.train.methods import Method
from hex_ssl.train.methods.all4one import All4One, sinusoidal_code
from hex_ssl.train.methods.settings import MoCoV2Settings, SimCLRSettings
from hex_ssl.train.methods.simclr import SimCLR

from .small import HEADS, part_of, random_batch, small_method, step, without_norms

T = 0.3
"""Temperature in these tests."""


def nearest(method: Method, z: Tensor, count: int = 1) -> Tensor:
    """The nearest neighbours in the queue of a method, by sorting."""
    rows = method.queue.rows  # type: ignore[union-attr]
    order = (F.normalize(z, dim=1) @ rows.T).argsort(dim=1, descending=True)[:, :count]
    return rows[order].squeeze(1) if count == 1 else rows[order]


def nnclr_own(n1: Tensor, n2: Tensor, p1: Tensor, p2: Tensor) -> Tensor:
    return (nnclr_loss(n1, p2, temperature=T) + nnclr_loss(n2, p1, temperature=T)) / 2


def nnclr_hex(n1: Tensor, n2: Tensor, p1: Tensor, p2: Tensor, **settings: Any) -> Tensor:
    return (hex_loss(n1, p2, temperature=T, **settings) + hex_loss(n2, p1, temperature=T, **settings)) / 2


def all4one_rest(method: All4One, embeddings: tuple[Tensor, ...], attention_temperature: float = T) -> Tensor:
    z1, z2, _, _, front1, front2, m1, m2 = embeddings
    near1, near2 = nearest(method, m1, 5), nearest(method, m2, 5)
    code = sinusoidal_code(5, z1.shape[1]).to(z1)
    centroids = [
        method.transformer(rows + code)[:, 0]
        for rows in (
            near1,
            torch.cat([front2[:, None], near2[:, :4]], dim=1),
            near2,
            torch.cat([front1[:, None], near1[:, :4]], dim=1),
        )
    ]
    return (
        nnclr_loss(centroids[0], centroids[1], temperature=attention_temperature) / 2
        + nnclr_loss(centroids[2], centroids[3], temperature=attention_temperature) / 2
        + feature_contrast_loss(z1, z2, m1, m2)
    )


def expected_loss(name: str, method: Any, e: tuple[Tensor, ...], beside: float | None, **settings: Any) -> Tensor:
    """The formula of a method; `beside` is alpha with HEX, None without; `settings` are HEX's."""
    if name == "simclr":
        return ntxent_loss(*e, temperature=T) if beside is None else hex_loss(*e, temperature=T, **settings)
    if name == "nnclr":
        p1, p2, z1, z2 = e
        sides = (nearest(method, z1), nearest(method, z2), p1, p2)
        return nnclr_own(*sides) if beside is None else nnclr_hex(*sides, **settings)
    if name == "all4one":
        sides = (nearest(method, e[6]), nearest(method, e[7]), e[2], e[3])
        first = nnclr_own(*sides) if beside is None else nnclr_hex(*sides, **settings)
        return 0.5 * first + 0.5 * all4one_rest(method, e)
    if name == "mocov2":
        query, key = e
        queue = method.queues[0].rows
        if beside is None:
            return moco_loss(query, key, queue, temperature=T)
        return hex_loss_with_keys(query, queue, positives=key, temperature=T, **settings)
    z1, z2 = e[2:4] if name in ("byol", "simsiam") else e[:2]
    own = {
        "barlow_twins": lambda: barlow_twins_loss(z1, z2),
        "vicreg": lambda: vicreg_loss(z1, z2),
        "byol": lambda: byol_loss(e[0], e[5]) + byol_loss(e[1], e[4]),
        "simsiam": lambda: (simsiam_loss(e[0], z2) + simsiam_loss(e[1], z1)) / 2,
    }[name]()
    if beside is None:
        return own
    factor = 5 if name == "vicreg" else 1
    return beside * factor * hex_loss(z1, z2, temperature=T, **settings) + (1 - beside) * own


def prepared(name: str, **loss: Any) -> tuple[Method, tuple[Tensor, ...]]:
    """A method whose queue holds real rows, and the embeddings of `random_batch(seed=5)`."""
    method = without_norms(small_method(name, temperature=T, **loss))
    for seed in range(5):
        step(method, random_batch(seed=seed, dtype=torch.float64))
    return method, method.embed(random_batch(seed=5, dtype=torch.float64).views)


BATCH = random_batch(seed=5, dtype=torch.float64)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ({}, None),
        ({"hex": "adaptive"}, {}),
        ({"hex": "adaptive", "formulation": "official", "threshold_arguments": {"quantile": 0.9}},
         {"formulation": "official", "threshold": AdaptiveThreshold(0.9)}),
        ({"hex": "adaptive", "formulation": "decoupled", "threshold_arguments": {"quantile": 0.9}},
         {"formulation": "decoupled", "threshold": AdaptiveThreshold(0.9)}),
        ({"hex": "fixed", "threshold_arguments": {"value": 0.6}, "beta": 2.0, "tau_plus": 0.05},
         {"threshold": FixedThreshold(0.6), "beta": 2.0, "tau_plus": 0.05}),
        ({"hex": "adaptive", "warmup_epochs": 2}, None),
    ],
    ids=["off", "adaptive", "official", "decoupled", "fixed", "warm-up"],
)  # fmt: skip
def test_the_loss_is_the_formula(name: str, loss: dict[str, Any], settings: dict[str, Any] | None) -> None:
    method, embeddings = prepared(name, alpha=0.3, **loss) if "warmup_epochs" not in loss else warming_up(name, loss)
    found = method.compute_loss(embeddings, BATCH)
    expected = expected_loss(name, method, embeddings, None if settings is None else 0.3, **(settings or {}))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def warming_up(name: str, loss: dict[str, Any]) -> tuple[Method, tuple[Tensor, ...]]:
    method = without_norms(small_method(name, temperature=T, **loss))
    method.on_train_epoch_start()  # epoch 0, as no trainer is there
    for seed in range(5):
        step(method, random_batch(seed=seed, dtype=torch.float64))
    return method, method.embed(BATCH.views)


@pytest.mark.parametrize("name", HEADS)
def test_supervised_uses_superclasses_and_ignores_unlabelled_images(name: str) -> None:
    method, embeddings = prepared(name, hex="supervised", alpha=0.3)
    method.superclasses = torch.tensor([7, 7, 3, 3])
    labels = BATCH.labels.clone()
    labels[:5] = -1
    found = method.compute_loss(embeddings, BATCH._replace(labels=labels))
    superclass = torch.where(labels >= 0, method.superclasses[labels.clamp(min=0)], 100 + torch.arange(len(labels)))
    given: dict[str, Any] = {"threshold": "supervised", "labels": superclass}
    if name == "mocov2":
        in_queue = method.queues[0].labels  # type: ignore[union-attr,index]
        assert (in_queue >= 0).all()
        given = {"anchor_labels": superclass, "key_labels": method.superclasses[in_queue], "threshold": "supervised"}
    torch.testing.assert_close(found, expected_loss(name, method, embeddings, 0.3, **given), rtol=1e-10, atol=1e-12)
    assert method.statistics()["hierarchical_negatives"] > 1


@pytest.mark.parametrize("name", HEADS)
def test_supervised_without_any_label_is_an_error(name: str) -> None:
    method = small_method(name, hex="supervised")
    batch = random_batch()
    with pytest.raises(ValueError, match="expected images with labels for HEX's supervised threshold"):
        step(method, batch._replace(labels=torch.full_like(batch.labels, -1)))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("loss", [{}, {"hex": "adaptive"}], ids=["off", "adaptive"])
class TestEachMethod:
    def test_embeddings_have_a_row_per_image_and_gradients_first(self, name: str, loss: dict[str, Any]) -> None:
        embeddings = small_method(name, **loss).embed(random_batch(10).views)
        assert all(len(each) == 10 for each in embeddings)
        differentiable = [each.requires_grad for each in embeddings]
        assert differentiable == sorted(differentiable, reverse=True)
        assert any(differentiable)

    def test_every_parameter_learns(self, name: str, loss: dict[str, Any]) -> None:
        method = small_method(name, **loss)
        step(method, random_batch()).backward()
        trained = [each for group in method.parameter_groups() for each in group["params"]]
        assert len({id(each) for each in trained}) == len(trained)
        assert {id(each) for each in trained} == {id(each) for each in method.parameters() if each.requires_grad}
        assert all(each.grad is not None and each.grad.isfinite().all() for each in trained)

    def test_statistics_can_be_logged(self, name: str, loss: dict[str, Any]) -> None:
        method = small_method(name, **loss)
        assert method.statistics() == {}
        step(method, random_batch())
        seen = method.statistics()
        assert {"projection_std"} <= seen.keys()
        assert ("floor_fraction" in seen) == (bool(loss) or name == "simclr")
        assert all(value.ndim == 0 and not value.requires_grad for value in seen.values())

    def test_a_restored_method_continues_identically(self, name: str, loss: dict[str, Any]) -> None:
        method = small_method(name, **loss).train()
        for seed in range(3):
            step(method, random_batch(20, seed))
            method.after_optimizer_step(seed)
        file = io.BytesIO()
        torch.save(method.state_dict(), file)
        file.seek(0)
        restored = small_method(name, seed=1, **loss)
        restored.load_state_dict(torch.load(file, weights_only=True))
        for seed in range(3, 6):
            losses = []
            for each in (method, restored):
                torch.manual_seed(seed)  # All4One's dropout
                losses.append(step(each, random_batch(20, seed)))
                each.after_optimizer_step(seed)
            assert torch.equal(*losses)
        torch.testing.assert_close(dict(restored.state_dict()), dict(method.state_dict()), rtol=0, atol=0)

    def test_gradient_caching_equals_the_whole_batch(self, name: str, loss: dict[str, Any]) -> None:
        gradients = []
        for chunk in (None, 7):
            method = without_norms(small_method(name, **loss))
            step(method, random_batch(seed=1, dtype=torch.float64))  # fills the queue
            batch = random_batch(seed=2, dtype=torch.float64)
            if chunk is None:
                step(method, batch).backward()
            else:
                cache = GradientCache(chunk)
                embeddings = cache.embed(method, batch.views)
                found = method.compute_loss(embeddings, batch)
                method.after_loss(embeddings, batch)
                found.backward()
                cache.backward(method)
            gradients.append({key: value.grad for key, value in method.named_parameters() if value.requires_grad})
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)

    def test_any_batch_size(self, name: str, loss: dict[str, Any]) -> None:
        method = small_method(name, **loss)
        for count in (5, 96, 100, 31):  # the queues have 96 rows
            assert step(method, random_batch(count, count)).isfinite()


@pytest.mark.parametrize("loss", [{}, {"hex": "adaptive"}], ids=["own", "hex"])
@pytest.mark.parametrize("name", ["simclr", "mocov2", "nnclr"])
def test_a_last_batch_of_one_image_does_not_end_a_run(name: str, loss: dict[str, Any]) -> None:
    method = without_norms(small_method(name, **loss))  # batch norm itself refuses one
    for count in (7, 1):
        found = step(method, random_batch(count, count, dtype=torch.float64))
        method.zero_grad()
        found.backward()
        gradients = [each.grad for each in method.parameters() if each.grad is not None]
        assert found.isfinite()
        assert gradients
        assert all(each.isfinite().all() for each in gradients)
        method.after_optimizer_step(0)
    if name == "simclr":
        assert found == 0
        assert not any(each.any() for each in gradients)


@pytest.mark.parametrize("name", HEADS)
def test_statistics_of_hex_come_after_the_warm_up(name: str) -> None:
    method = small_method(name, hex="step", warmup_epochs=1)
    (hexes,) = [module for module in method.modules() if isinstance(module, HexLoss)]
    for epoch in (0, 1):
        hexes.set_epoch(epoch)
        step(method, random_batch())
    assert method.statistics()["threshold"] == pytest.approx(0.95)


def test_projection_std_shows_a_collapse() -> None:
    method = small_method("vicreg")
    batch = random_batch()
    method.compute_loss((torch.randn(400, 24), torch.randn(400, 24)), batch)
    assert method.statistics()["projection_std"] == pytest.approx(24**-0.5, rel=0.05)
    method.compute_loss((torch.ones(400, 24), torch.ones(400, 24)), batch)
    assert method.statistics()["projection_std"] == pytest.approx(0.0, abs=1e-6)


def test_neighbour_purity_counts_neighbours_of_the_same_class() -> None:
    method = small_method("nnclr")
    batch = random_batch()
    embeddings = method.embed(batch.views)
    method.queue.enqueue(embeddings[2], batch.labels)  # each is its own neighbour
    method.compute_loss((*embeddings[:2], embeddings[2], embeddings[2]), batch)
    assert method.statistics()["neighbour_purity"] == 1.0
    assert method.statistics()["queue_fill"] == 0.25
    method.compute_loss(embeddings, batch._replace(labels=torch.full_like(batch.labels, -1)))
    assert method.statistics()["neighbour_purity"] == 0.0


@pytest.mark.parametrize(("name", "view"), [("nnclr", 0), ("all4one", 0), ("mocov2", 1)])
def test_the_queue_takes_one_view_of_each_image(name: str, view: int) -> None:
    method: Any = without_norms(small_method(name))
    queue = method.queues[0] if name == "mocov2" else method.queue
    before = queue.rows.clone()
    network = nn.Sequential(method.backbone, method.projector) if name == "nnclr" else method.momentum_encoder
    queued = F.normalize(network(BATCH.views[view]), dim=1)
    step(method, BATCH)
    images = len(BATCH.labels)
    torch.testing.assert_close(queue.rows[:images], queued)
    assert torch.equal(queue.rows[images:], before[images:])
    assert queue.labels.tolist() == BATCH.labels.tolist() + [-1] * (len(before) - images)


def test_mocos_symmetric_loss_has_a_queue_for_each_view() -> None:
    method = without_norms(small_method("mocov2", temperature=T))
    both = without_norms(
        type(method)(  # type: ignore[call-arg]
            small_method("mocov2").backbone,
            16,
            MoCoV2Settings(hidden_dim=32, output_dim=16, queue_size=96, symmetric=True),
            temperature=T,
        )
    )
    first, second = random_batch(seed=1, dtype=torch.float64), random_batch(seed=2, dtype=torch.float64)
    step(both, first)
    q1, q2, k2, k1 = both.embed(second.views)
    held1, held2 = (part[:24] for part in (both.queues[1].rows, both.queues[0].rows))  # type: ignore[union-attr,index]
    earlier1, earlier2 = (F.normalize(both.momentum_encoder(view), dim=1) for view in first.views)  # type: ignore[operator]
    torch.testing.assert_close(held1, earlier1)
    torch.testing.assert_close(held2, earlier2)
    expected = (
        moco_loss(q1, k2, both.queues[0].rows, temperature=T)  # type: ignore[union-attr,index]
        + moco_loss(q2, k1, both.queues[1].rows, temperature=T)  # type: ignore[union-attr,index]
    ) / 2
    torch.testing.assert_close(both.compute_loss((q1, q2, k2, k1), second), expected)


def test_all4ones_quirks_of_solo_learn() -> None:
    settings = {"attention_temperature": 0.1, "positional_axis": "feature"}
    method = without_norms(small_method("all4one", settings, temperature=T))
    embeddings = method.embed(BATCH.views)
    # Rank 0 and 1: sine and cosine of the feature's number; 2 and 3: of that / 10000^(1/3); 4: sine / 10000^(2/3).
    features = torch.arange(16.0)
    expected = [
        features.sin(),
        features.cos(),
        (features / 10000 ** (1 / 3)).sin(),
        (features / 10000 ** (1 / 3)).cos(),
        (features / 10000 ** (2 / 3)).sin(),
    ]
    torch.testing.assert_close(method.code.float(), torch.stack(expected), rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]
    plain = without_norms(small_method("all4one", temperature=T))
    assert not torch.isclose(
        method.compute_loss(embeddings, BATCH), plain.compute_loss(plain.embed(BATCH.views), BATCH)
    )
    own_temperature = without_norms(small_method("all4one", {"attention_temperature": 0.1}, temperature=T))
    e = own_temperature.embed(BATCH.views)
    sides = (nearest(own_temperature, e[6]), nearest(own_temperature, e[7]), e[2], e[3])
    assert isinstance(own_temperature, All4One)
    rest = all4one_rest(own_temperature, e, attention_temperature=0.1)
    torch.testing.assert_close(own_temperature.compute_loss(e, BATCH), (nnclr_own(*sides) + rest) / 2)


def test_vicreg_and_barlow_options_reach_the_loss() -> None:
    method, (z1, z2) = prepared("vicreg")
    method.loss.half_variance = False  # type: ignore[union-attr]
    doubled = method.compute_loss((z1, z2), BATCH)
    torch.testing.assert_close(doubled, vicreg_loss(z1, z2, var_weight=50.0))
    for settings, expected in (
        ({"half_variance": False}, lambda z: vicreg_loss(*z, half_variance=False)),
        ({"sim_weight": 3.0, "var_weight": 2.0, "cov_weight": 0.5},
         lambda z: vicreg_loss(*z, sim_weight=3.0, var_weight=2.0, cov_weight=0.5)),
    ):  # fmt: skip
        assert torch.equal(small_method("vicreg", settings).compute_loss((z1, z2), BATCH), expected((z1, z2)))
    barlow = small_method("barlow_twins", {"lamb": 0.1, "scale": 0.3}).compute_loss((z1, z2), BATCH)
    assert torch.equal(barlow, barlow_twins_loss(z1, z2, lamb=0.1, scale=0.3))


@pytest.mark.parametrize(("base", "loss_of"), [("hcl", hcl_loss), ("dcl", dcl_loss)])
def test_simclr_takes_other_losses(base: str, loss_of: Callable[..., Tensor]) -> None:
    method, embeddings = prepared("simclr", base=base)
    torch.testing.assert_close(method.compute_loss(embeddings, BATCH), loss_of(*embeddings, temperature=T))


def test_simclr_takes_more_views_and_any_loss_of_them() -> None:
    method = small_method("simclr", hex="adaptive")
    views = (*BATCH.views, BATCH.views[0] + 0.1)
    batch = BATCH._replace(views=tuple(view.float() for view in views))
    embeddings = method.embed(batch.views)
    assert torch.equal(method.compute_loss(embeddings, batch), hex_loss(*embeddings))
    plain = SimCLR(
        small_method("simclr").backbone, 16, SimCLRSettings(hidden_dim=8, output_dim=4), loss=torch.nn.MSELoss()
    )
    assert step(plain, part_of(random_batch(), slice(4))).ndim == 0
    assert plain.statistics().keys() == {"projection_std"}


@pytest.mark.parametrize("name", [name for name in HEADS if name != "simclr"])
def test_other_numbers_of_views_are_errors(name: str) -> None:
    views = random_batch(4).views
    with pytest.raises(ValueError, match="^expected 2 views of each image, but got 3$"):
        small_method(name).embed((*views, views[0]))


def test_simsiams_predictor_keeps_its_learning_rate() -> None:
    method = small_method("simsiam")
    rest, predictor = method.parameter_groups()
    assert predictor["constant_learning_rate"] is True
    assert predictor["params"] == list(method.predictor.parameters())  # type: ignore[union-attr]
    assert "constant_learning_rate" not in rest


def test_all4ones_transformer_may_have_a_learning_rate_of_its_own() -> None:
    method = small_method("all4one")
    assert len(method.parameter_groups()) == 1
    method.transformer_learning_rate = 0.1
    assert method.parameter_groups()[1]["learning_rate"] == 0.1


def test_simsiams_projections_are_standardised_without_weights() -> None:
    method = small_method("simsiam")
    z1 = method.embed(random_batch(50).views)[2]
    torch.testing.assert_close(z1.mean(dim=0), torch.zeros(24), atol=1e-5, rtol=0)
    assert method.projector[-1].weight is None  # type: ignore[index,union-attr]


def test_ddp_does_not_send_queues() -> None:
    names = set(small_method("nnclr")._ddp_params_and_buffers_to_ignore)
    assert names == {"queue.rows", "queue.labels", "queue.pointer", "queue.filled"}
    assert small_method("byol")._ddp_params_and_buffers_to_ignore == []
