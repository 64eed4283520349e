"""One pretraining run, from configuration to run folder."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hex_ssl.config import Config
from hex_ssl.extras import train_extra

with train_extra():
    import lightning as L
    import torch
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar

    from hex_ssl.backbones import describe_backbone
    from hex_ssl.callbacks import BackboneExport, MetricsFiles, OnlineKNN
    from hex_ssl.data import PretrainData
    from hex_ssl.methods import Method, build_method
    from hex_ssl.run_folder import BACKBONE, CHECKPOINTS, LAST, claim_run_folder


@dataclass(frozen=True)
class Run:
    """A run before its first step: everything built, its folder claimed.

    Attributes:
        config: The whole configuration.
        data: The images.
        method: The method, freshly initialised.
        folder: The run folder.
        checkpoint: Where to go on, if anywhere.
    """

    config: Config
    data: PretrainData
    method: Method
    folder: Path
    checkpoint: Path | None

    def train(self) -> None:
        """Trains to the last epoch."""
        run = self.config.run
        with _quiet_lightning(self), _determinism_restored():
            trainer = L.Trainer(
                accelerator=run.accelerator,
                devices=run.devices,
                precision=run.precision,
                max_epochs=run.epochs,
                logger=MetricsFiles(self.folder, _step_of(self.checkpoint)),
                callbacks=_callbacks(self.config, self.data, self.folder),
                # The k-NN vote and some pooling have no deterministic form on a GPU: there, warn and go on.
                deterministic="warn",
                log_every_n_steps=1,  # figures are logged at epoch ends; Lightning warns of short epochs otherwise
                enable_progress_bar=run.progress,
                enable_model_summary=False,
            )
            trainer.fit(self.method, datamodule=self.data, ckpt_path=self.checkpoint)


def build(config: Config) -> tuple[PretrainData, Method]:
    """The data and the method before the first step. Seeds every generator, so that equal seeds give equal weights.

    Raises:
        ValueError: The configuration contradicts itself or the data.
    """
    L.seed_everything(config.run.seed, workers=True, verbose=False)
    data = PretrainData(config.data, config.run.seed)
    return data, build_method(config, data.channels)


def prepare(config: Config) -> Run:
    """Builds everything, then claims the run folder: nothing is written before the configuration is known to work.

    Args:
        config: The run.

    Raises:
        FileExistsError: The run folder is not empty and `run.existing` is "error".
        FileNotFoundError: There is nothing to resume.
        ValueError: The configuration contradicts itself, the data, or the run to be resumed.
    """
    data, method = build(config)
    folder, checkpoint = claim_run_folder(config)
    return Run(config, data, method, folder, checkpoint)


def pretrain(config: Config) -> Path:
    """Trains a backbone without labels and leaves everything about the run in its folder.

    The folder then holds `config.yaml` (the whole configuration), `metrics.csv` and `metrics.jsonl` (one line per
    epoch), `checkpoints/last.ckpt`, and `backbone.safetensors`, which `hex_ssl.backbones.load_backbone` reads.
    On one CPU the same configuration gives the same weights, also where the run was stopped after an epoch and resumed.

    Args:
        config: The run.

    Returns:
        The run folder.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: See `prepare`.
    """
    run = prepare(config)
    run.train()
    return run.folder


def _callbacks(config: Config, data: PretrainData, folder: Path) -> list[Callback]:
    metadata = describe_backbone(config.backbone, data.channels, config.data.image_size)
    # One checkpoint under one name. Lightning writes it beside, then renames it.
    checkpoint = ModelCheckpoint(folder / CHECKPOINTS, filename=LAST, enable_version_counter=False)
    callbacks: list[Callback] = [
        OnlineKNN(data, config.run.knn_every),
        checkpoint,
        BackboneExport(folder / BACKBONE, metadata),
    ]
    return [*callbacks, RichProgressBar()] if config.run.progress else callbacks


def _step_of(checkpoint: Path | None) -> int:
    if checkpoint is None:
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


@contextmanager
def _quiet_lightning(run: Run) -> Iterator[None]:
    """Without Lightning's notes on devices and products, and without warnings of what is meant to be so."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning 2.6 asks torch 2.11 in a way that will go.
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
        if run.config.data.num_workers == 0:  # chosen: for images in memory, workers would only cost
            warnings.filterwarnings("ignore", message=".*does not have many workers")
        if run.checkpoint is not None:
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _determinism_restored() -> Iterator[None]:
    """The trainer asks torch for deterministic algorithms, process-wide; afterwards the caller's choice holds again."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
