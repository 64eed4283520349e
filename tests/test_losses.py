"""The modules: their state, epochs and statistics, and their use in place of other libraries' losses."""

import copy
import io
import math
import warnings

import pytest
import torch
from torch import nn

from hex_ssl import CLIPLoss, DCLLoss, HCLLoss, HexLoss, InfoNCELoss, NTXentLoss, SupConLoss
from hex_ssl.functional import dcl_loss, hcl_loss, hex_loss, ntxent_loss
from hex_ssl.losses import BarlowTwinsLoss, FeatureContrastLoss, MoCoLoss, NNCLRLoss, VICRegLoss
from hex_ssl.thresholds import CosineThreshold, FixedThreshold, StepThreshold

from .batches import clustered, decided
from .compare import assert_statistics
from .reference import Settings, evaluate, views_layout


@pytest.fixture
def views() -> tuple[torch.Tensor, torch.Tensor]:
    z1, z2 = clustered(40, 2, 12, torch.Generator().manual_seed(1)).chunk(2)
    return z1, z2


def test_modules_are_the_functions(views: tuple[torch.Tensor, torch.Tensor], backend: str) -> None:
    third = torch.randn_like(views[0])
    for module, expected in (
        (HexLoss(), hex_loss(*views, third)),
        (HexLoss(0.3, FixedThreshold(0.7), "official"), hex_loss(
            *views, third, temperature=0.3, threshold=FixedThreshold(0.7), formulation="official")),
        (NTXentLoss(), ntxent_loss(*views, third, temperature=0.5)),
        (HCLLoss(), hcl_loss(*views, third, temperature=0.5, beta=1.0, tau_plus=0.1)),
        (HCLLoss(0.2, beta=2.0, tau_plus=0.0), hcl_loss(*views, third, temperature=0.2, beta=2.0, tau_plus=0.0)),
        (DCLLoss(), dcl_loss(*views, third, temperature=0.1)),
    ):  # fmt: skip
        assert torch.equal(module(*views, third), expected), module


def test_reductions_of_modules(views: tuple[torch.Tensor, torch.Tensor], backend: str) -> None:
    for reduction, shape in (("mean", ()), ("sum", ()), ("none", (80,))):
        assert HexLoss(reduction=reduction)(*views).shape == shape
    torch.testing.assert_close(HexLoss(reduction="none")(*views).mean(), HexLoss()(*views))


def test_labels_are_given_at_the_call(views: tuple[torch.Tensor, torch.Tensor], backend: str) -> None:
    labels = torch.arange(40) % 4
    ours = HexLoss(threshold="supervised")(*views, labels=labels)
    assert torch.equal(ours, hex_loss(*views, threshold="supervised", labels=labels))


def test_statistics(backend: str) -> None:
    settings = Settings(temperature=0.1, value=0.99)
    z = decided(80, 2, 20, settings, torch.float32)
    criterion = HexLoss()
    criterion(*z.chunk(2)).requires_grad_(False)
    expected = evaluate(z, z, views_layout(80, 2), settings).statistics
    assert expected.hierarchical_negatives > 0
    assert 0 < expected.floor_fraction < 1
    assert_statistics(criterion.statistics, expected, torch.float32)
    for value in criterion.statistics:
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert not value.requires_grad


def test_statistics_of_supervised(views: tuple[torch.Tensor, torch.Tensor], backend: str) -> None:
    criterion = HexLoss(threshold="supervised")
    criterion(*views, labels=torch.arange(40) % 4)
    assert criterion.statistics.threshold.isnan()
    # Of 40 samples 9 others share the label, in both views.
    assert criterion.statistics.hierarchical_negatives.item() == 18.0


def test_state_holds_the_epoch(views: tuple[torch.Tensor, torch.Tensor], backend: str) -> None:
    threshold = StepThreshold(start=0.9, step_down=0.2, epoch_step=2, min=0.1)
    criterion = HexLoss(threshold=threshold, warmup_epochs=1)
    criterion.set_epoch(3)
    file = io.BytesIO()
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    restored = HexLoss(threshold=threshold, warmup_epochs=1)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(restored(*views), criterion(*views))
    assert restored.statistics.threshold.item() == pytest.approx(0.7)
    assert torch.equal(copy.deepcopy(criterion)(*views), criterion(*views))


def test_state_inside_a_model(views: tuple[torch.Tensor, torch.Tensor], backend: str) -> None:
    def model() -> nn.ModuleDict:
        return nn.ModuleDict({"projector": nn.Linear(12, 8), "criterion": HexLoss(threshold="cosine")})

    first, second = model(), model()
    first["criterion"].set_epoch(120)
    second.load_state_dict(first.state_dict())
    first.double(), second.double()
    losses = [m["criterion"](*(m["projector"](view) for view in views)) for m in (first, second)]
    assert torch.equal(losses[0], losses[1])
    assert second["criterion"].statistics.threshold.item() == pytest.approx(CosineThreshold().at(120)[1])


@pytest.mark.parametrize("module", [HexLoss, NTXentLoss, HCLLoss, DCLLoss])
def test_a_loss_without_a_schedule_has_no_state(module: type[nn.Module]) -> None:
    assert module().state_dict() == {}


@pytest.mark.parametrize("settings", [{}, {"threshold": "step"}, {"warmup_epochs": 3}], ids=str)
def test_checkpoints_of_another_loss_are_loaded(settings: dict[str, object]) -> None:
    def model(criterion: nn.Module) -> nn.ModuleDict:
        return nn.ModuleDict({"projector": nn.Linear(12, 8), "criterion": criterion})

    ours = model(HexLoss(**settings))
    before_the_swap = model(NTXentLoss()).state_dict()
    ours.load_state_dict(before_the_swap, strict=True)
    assert torch.equal(ours["projector"].weight, before_the_swap["projector.weight"])
    # One without a schedule loads what another one wrote, and an earlier version of itself.
    ours.load_state_dict({**before_the_swap, "criterion._extra_state": torch.tensor(5)}, strict=True)
    if settings:
        assert ours["criterion"].state_dict() == {"_extra_state": torch.tensor(5)}
    with pytest.raises(RuntimeError, match="Missing key.*projector.bias"):
        ours.load_state_dict({"projector.weight": before_the_swap["projector.weight"]}, strict=True)


def test_warmup_is_ntxent(views: tuple[torch.Tensor, torch.Tensor], backend: str) -> None:
    criterion = HexLoss(threshold=FixedThreshold(0.6), warmup_epochs=3)
    plain = ntxent_loss(*views, temperature=0.1)
    hex_from_then_on = hex_loss(*views, threshold=FixedThreshold(0.6))
    assert not torch.isclose(plain, hex_from_then_on)
    for epoch in range(6):
        criterion.set_epoch(epoch)
        assert torch.equal(criterion(*views), plain if epoch < 3 else hex_from_then_on)


def test_warmup_of_the_official_formulation_is_ntxent(views: tuple[torch.Tensor, torch.Tensor], backend: str) -> None:
    criterion = HexLoss(formulation="official", warmup_epochs=1)
    criterion.set_epoch(0)
    assert torch.equal(criterion(*views), ntxent_loss(*views, temperature=0.1))


def test_without_set_epoch_it_is_hex_from_the_first_step(
    views: tuple[torch.Tensor, torch.Tensor], backend: str
) -> None:
    assert torch.equal(HexLoss()(*views), hex_loss(*views))


@pytest.mark.parametrize("settings", [{"warmup_epochs": 2}, {"threshold": "step"}, {"threshold": "cosine"}], ids=str)
def test_an_epoch_that_is_never_set_warns_once(
    settings: dict[str, object], views: tuple[torch.Tensor, torch.Tensor], backend: str
) -> None:
    criterion = HexLoss(**settings)
    with pytest.warns(UserWarning, match="set_epoch") as record:
        criterion(*views)
    assert len(record) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criterion(*views)
        told = HexLoss(**settings)
        told.set_epoch(0)
        told(*views)
        # Nothing here depends on the epoch.
        HexLoss(threshold=FixedThreshold(0.8))(*views)


@pytest.mark.parametrize("epoch", [-1, -10])
def test_epochs_count_from_0(epoch: int) -> None:
    with pytest.raises(ValueError, match=f"^expected `epoch` to be at least 0, but got {epoch}$"):
        HexLoss().set_epoch(epoch)


def test_repr_shows_what_it_computes() -> None:
    text = repr(HexLoss(temperature=0.2, threshold=FixedThreshold(0.7), formulation="official", warmup_epochs=4))
    for part in ("HexLoss(", "temperature=0.2", "FixedThreshold(value=0.7", "official", "warmup_epochs=4"):
        assert part in text
    assert "temperature=0.5" in repr(NTXentLoss())
    assert "temperature=0.1" in repr(DCLLoss())
    for part in ("HCLLoss(", "beta=1.0", "tau_plus=0.1"):
        assert part in repr(HCLLoss())


@pytest.mark.parametrize("loss", [NTXentLoss, HCLLoss, DCLLoss, HexLoss, CLIPLoss, InfoNCELoss, NNCLRLoss, SupConLoss])
def test_a_last_batch_of_one_sample_is_0(loss: type[nn.Module], backend: str) -> None:
    z1, z2 = (torch.randn(1, 8, requires_grad=True) for _ in range(2))
    labels = {"labels": torch.tensor([3])} if loss is SupConLoss else {}
    value = loss()(z1, z2, **labels)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert z1.grad is not None
    assert z1.grad.abs().max() < 1e-12


GATHERING = [
    *(NTXentLoss, HCLLoss, DCLLoss, HexLoss, CLIPLoss, InfoNCELoss, NNCLRLoss, SupConLoss),
    *(MoCoLoss, BarlowTwinsLoss, VICRegLoss, FeatureContrastLoss),
]


@pytest.mark.parametrize("loss", GATHERING)
def test_a_torch_that_cannot_gather_is_refused(loss: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_available", lambda: False)
    loss()
    with pytest.raises(ValueError, match="^expected a torch with torch.distributed for `gather_distributed=True`"):
        loss(gather_distributed=True)


def test_modules_have_no_parameters_and_move() -> None:
    for module in (HexLoss(), NTXentLoss(), HCLLoss(), DCLLoss()):
        assert not list(module.parameters())
        module.to(torch.float64).cpu().train().eval()


class TestInPlaceOfOthers:
    """A swap is one line where the same thing is computed."""

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("temperature", [0.07, 0.5])
    @pytest.mark.parametrize("name", ["NTXentLoss", "DCLLoss"])
    def test_lightly(self, name: str, temperature: float, backend: str) -> None:
        lightly = pytest.importorskip("lightly.loss")
        ours = {"NTXentLoss": NTXentLoss, "DCLLoss": DCLLoss}[name](temperature=temperature)
        self.assert_same(ours, getattr(lightly, name)(temperature=temperature), temperature)

    @pytest.mark.filterwarnings("ignore")
    def test_defaults_are_lightlys(self, backend: str) -> None:
        lightly = pytest.importorskip("lightly.loss")
        self.assert_same(NTXentLoss(), lightly.NTXentLoss(), 0.5)
        self.assert_same(DCLLoss(), lightly.DCLLoss(), 0.1)

    def assert_same(self, ours: nn.Module, theirs: nn.Module, temperature: float) -> None:
        z = clustered(50, 2, 16, torch.Generator().manual_seed(9))
        results = []
        for module in (ours, theirs):
            leaf = z.clone().requires_grad_()
            loss = module(*leaf.chunk(2))
            loss.backward()
            results.append((loss.item(), leaf.grad))
        # lightly normalises with eps=1e-12.
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-7)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=1e-10)


def test_training_separates_samples(backend: str) -> None:
    # From one small cloud: two views of a sample end closer than any two samples.
    z = nn.Parameter(torch.randn(2, 1, 8).repeat(1, 24, 1) + 0.5 * torch.randn(2, 24, 8))
    optimizer = torch.optim.SGD([z], lr=2.0)
    criterion = HexLoss(temperature=0.2)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = criterion(z[0], z[1])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert math.isfinite(losses[-1])
    assert criterion.statistics.positive_similarity > 0.9
    assert criterion.statistics.negative_similarity < 0.1


def test_a_threshold_that_is_set_later_counts() -> None:
    z1, z2 = torch.randn(2, 32, 8, generator=torch.Generator().manual_seed(0))
    criterion = HexLoss()
    criterion.threshold = FixedThreshold(-1.0)
    assert torch.equal(criterion(z1, z2), HexLoss(threshold=FixedThreshold(-1.0))(z1, z2))
    labels = torch.arange(32) % 3
    criterion.threshold = "supervised"
    assert torch.equal(criterion(z1, z2, labels=labels), HexLoss(threshold="supervised")(z1, z2, labels=labels))
    criterion.threshold = StepThreshold(epoch_step=1)
    with pytest.warns(UserWarning, match="the threshold stays that of epoch 0"):
        criterion(z1, z2)
    criterion.set_epoch(2)
    assert torch.equal(criterion(z1, z2), hex_loss(z1, z2, threshold=StepThreshold(epoch_step=1), epoch=2))
    assert "_extra_state" in criterion.state_dict()
    with pytest.raises(ValueError, match='but got "steps"'):
        criterion.threshold = "steps"  # type: ignore[assignment]
