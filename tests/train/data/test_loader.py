"""The order of the batches for any number of processes, starting at any batch, also in Lightning."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from hex_ssl.train.config import DataConfig
from hex_ssl.train.data import Batch, PretrainData
from hex_ssl.train.data.loader import EpochSampler, TrainLoader


def sampler(epoch: int = 0, done: int = 0, seed: int = 0, **settings: int) -> EpochSampler:
    rows = torch.arange(100, 203)
    return EpochSampler(rows, settings.pop("batch_size", 10), seed, lambda: (epoch, done), **settings)


def rows_of(sampler: EpochSampler) -> list[int]:
    return [row for _, rows in sampler for row in rows.tolist()]


def test_an_epoch_has_each_row_at_most_once() -> None:
    places = list(sampler(epoch=3))
    assert [(epoch, len(rows)) for epoch, rows in places] == [(3, 10)] * len(sampler()) == [(3, 10)] * 10
    rows = rows_of(sampler(epoch=3))
    assert len(set(rows)) == len(rows) == 100
    assert set(rows) < set(range(100, 203))
    assert rows != sorted(rows)


def test_order_depends_on_seed_and_epoch() -> None:
    orders = {(seed, epoch): rows_of(sampler(epoch, seed=seed)) for seed in range(3) for epoch in range(3)}
    assert len({tuple(order) for order in orders.values()}) == 9  # seed 0, epoch 1 is not seed 1, epoch 0
    torch.rand(3)
    assert rows_of(sampler(epoch=1, seed=2)) == orders[2, 1]


@pytest.mark.parametrize("done", [0, 1, 9, 10])
def test_a_resumed_epoch_continues_after_the_finished_batches(done: int) -> None:
    assert rows_of(sampler(epoch=2, done=done)) == rows_of(sampler(epoch=2))[10 * done :]


def test_processes_share_each_batch() -> None:
    alone = rows_of(sampler(batch_size=20))
    shares = [rows_of(sampler(batch_size=5, processes=4, rank=rank)) for rank in range(4)]
    assert [len(share) for share in shares] == [25] * 4
    for batch in range(5):
        together = {row for share in shares for row in share[5 * batch : 5 * batch + 5]}
        assert together == set(alone[20 * batch : 20 * batch + 20])


def test_too_large_a_batch() -> None:
    with pytest.raises(
        ValueError, match="expected `data.batch_size` to be at most 103, the number of training images, "
    ):
        sampler(batch_size=104)
    with pytest.raises(ValueError, match="at most 51, the number of training images per process, but got 52"):
        sampler(batch_size=52, processes=2)


def batches_of(config: DataConfig, seed: int = 0, epoch: int = 0, batch: int = 0) -> list[Batch]:
    data = PretrainData(config, seed)
    data.resume(epoch, batch)
    return [data.on_after_batch_transfer(loaded, 0) for loaded in data.train_dataloader()]


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.labels, other.labels)
        assert all(torch.equal(view, other_view) for view, other_view in zip(one.views, other.views, strict=True))


@pytest.mark.parametrize("augment_on", ["workers", "device"])
def test_batches_do_not_depend_on_the_number_of_workers(augment_on: str) -> None:
    configs = [
        DataConfig(
            name="hierarchy", batch_size=50, image_size=8, augment_on=augment_on, num_workers=workers, fraction=0.1
        )  # type: ignore[arg-type]
        for workers in (0, 2)
    ]
    assert_same(*(batches_of(config, epoch=1) for config in configs))


@pytest.mark.parametrize("augment_on", ["workers", "device"])
def test_resumed_batches_are_those_that_were_left(augment_on: str) -> None:
    config = DataConfig(name="digits", batch_size=256, augment_on=augment_on, num_workers=0)  # type: ignore[arg-type]
    whole = batches_of(config, epoch=4)
    assert len(whole) == 5
    assert_same(batches_of(config, epoch=4, batch=3), whole[3:])


def test_iterations_leave_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    batches_of(DataConfig(name="hierarchy", batch_size=50, image_size=8, num_workers=0, fraction=0.1))
    assert torch.equal(torch.get_rng_state(), before)


class StoppedError(Exception):
    """Ends a run early."""


class Recorder(L.LightningModule):
    """Records its batches, and stops the run at a step."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.stop = stop
        self.seen: list[tuple[int, Tensor, Tensor]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == self.stop:
            raise StoppedError
        self.seen.append((self.current_epoch, batch.indices, batch.views[1]))
        return self.layer(batch.views[0].mean().view(1, 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, workers: int, every: int = 1, stop: int | None = None, resume: bool = False) -> Recorder:
    """5 batches in each of 3 epochs."""
    config = DataConfig(name="digits", batch_size=256, augment_on="device", num_workers=workers)
    module = Recorder(stop)
    checkpoint = ModelCheckpoint(folder, filename="last", every_n_train_steps=every, enable_version_counter=False)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=[checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(module, datamodule=PretrainData(config, seed=0), ckpt_path=folder / "last.ckpt" if resume else None)
    return module


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
@pytest.mark.parametrize(
    ("workers", "every", "stop"),
    [(0, 1, 1), (0, 1, 5), (0, 1, 7), (0, 2, 9), (2, 1, 5), (2, 1, 7)],
    ids=lambda number: str(number),
)
def test_lightning_continues_after_its_last_checkpoint(workers: int, every: int, stop: int, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", workers=0).seen
    assert [epoch for epoch, _, _ in whole] == [0] * 5 + [1] * 5 + [2] * 5
    with pytest.raises(StoppedError):
        fit(tmp_path, workers, every, stop)
    resumed = fit(tmp_path, workers, every, resume=True).seen
    left = whole[stop - stop % every :]
    assert len(resumed) == len(left)
    for one, other in zip(resumed, left, strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
        assert torch.equal(one[2], other[2])


def test_lightning_does_not_replace_the_loader() -> None:
    loader = PretrainData(DataConfig(augment_on="device"), seed=0).train_dataloader()
    assert isinstance(loader, TrainLoader)
    assert isinstance(loader.sampler, torch.utils.data.DistributedSampler)  # else it puts one in its place
    assert loader.state_dict() == {}  # else it warns that the run cannot go on within an epoch
