"""Runs one pretraining, from the configuration to the run folder."""

import json
import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hex_ssl.train.config import Config, RunConfig
from hex_ssl.train.extras import train_extra

with train_extra():
    import lightning as L
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
    from lightning.pytorch.utilities.exceptions import SIGTERMException
    from torch import nn

    from hex_ssl.gradient_cache import GradientCache
    from hex_ssl.train.backbones import describe_backbone
    from hex_ssl.train.buffers import kept_buffers
    from hex_ssl.train.callbacks import (
        AtomicCheckpoints,
        Checkpoints,
        EpochBar,
        EpochLines,
        EpochMetrics,
        MetricsFiles,
        OnlineClassifier,
        OnlineEvaluation,
        SeededSteps,
        save_backbone,
    )
    from hex_ssl.train.callbacks.metrics import accuracies, read_metrics
    from hex_ssl.train.data import PretrainData
    from hex_ssl.train.data.fingerprint import fingerprint
    from hex_ssl.train.methods import Method, build_method
    from hex_ssl.train.progress import shows_progress_bar
    from hex_ssl.train.reading import read_checkpoint, reading
    from hex_ssl.train.resume import check_epochs
    from hex_ssl.train.run_folder import (
        BACKBONE,
        CHECKPOINTS,
        CONFIG,
        Claim,
        check_run_folder,
        claim_run_folder,
        last_checkpoint,
        read_config,
        run_folder,
    )
    from hex_ssl.train.speed import compile_networks, uses_gpu, without_auto
    from hex_ssl.train.views import check_views
    from hex_ssl.train.weights import load_weights


PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
DETERMINISTIC: Literal["warn"] = "warn"
"""On a GPU the k-NN vote and some pooling have no deterministic implementation, so torch only warns."""


@dataclass(frozen=True)
class Run:
    """A run before its first step. Everything is built, and its folder is claimed.

    Attributes:
        config: The whole configuration.
        data: The images.
        method: The method, freshly initialised.
        folder: The run folder.
        checkpoint: The checkpoint to resume from, or None.
        trainer: Lightning's Trainer, with the callbacks and loggers.
        claim: The claim on the folder until the training ends. None in all processes but the first.
    """

    config: Config
    data: PretrainData
    method: Method
    folder: Path
    checkpoint: Path | None
    trainer: L.Trainer
    claim: Claim | None

    def train(self) -> None:
        """Trains to the last epoch and exports the backbone.

        Raises:
            FloatingPointError: The loss or the weights are not finite. The last checkpoint is from before this step.
            KeyboardInterrupt: Ctrl-C. The run can be resumed from its last checkpoint.
            OSError: A file cannot be written, for example on a full disk. The last checkpoint stays.
            SystemExit: SIGTERM, with code 143, after saving a checkpoint (in runs with one process).
        """
        try:
            with (
                _quiet_lightning(self.checkpoint),
                _determinism(self.config.run.deterministic),
                _interruptions(),
                kept_buffers() if self.trainer.strategy.root_device.type == "cpu" else nullcontext(),
            ):
                self.trainer.fit(self.method, datamodule=self.data, ckpt_path=self.checkpoint)
            # Not in a callback: a run that died between its last checkpoint and its end has no epoch left, so no
            # callback would run.
            if self.trainer.is_global_zero:
                save_backbone(self.method.backbone, self.folder / BACKBONE, self._description())
        finally:
            if self.claim is not None:
                self.claim.release()

    def summary(self) -> str:
        """One line about the run after training: the last accuracies, or why there are none."""
        rows = read_metrics(self.folder)
        told = accuracies(rows[-1]) if rows else {}
        if told:
            text = f"{', '.join(f'{name} {value}' for name, value in told.items())}, on the test images"
        else:
            text = f"trained, but nothing could be evaluated: {self.data.lacks}"
        return f"{text}; everything is in {self.folder}"

    def _description(self) -> dict[str, str]:
        described = describe_backbone(self.config.backbone, self.data.channels, self.data.image_size)
        return {**described, "run": json.dumps(self.config.as_dict())}


def build(config: Config, start: Callable[[nn.Module], object] | None = None) -> tuple[PretrainData, Method]:
    """Builds the data and the method. Seeds all generators, so that equal seeds give equal weights.

    Args:
        config: Configuration of the run. `run.weights` is not read here.
        start: Called with the backbone before the method is built around it.

    Returns:
        The data module and the method.

    Raises:
        ValueError: The configuration contradicts itself or the data.
    """
    L.seed_everything(config.run.seed, workers=True, verbose=False)
    loaded = config.run.virtual_batch_size or config.data.batch_size
    data = PretrainData(replace(config.data, batch_size=loaded), config.run.seed)
    method = build_method(config, data.channels, data.image_size, data.superclasses, start)
    check_views(config.method.name, method, data)
    if config.run.channels_last is True:
        method.to(memory_format=torch.channels_last)
        data.views.memory_format = torch.channels_last
    if loaded > config.data.batch_size:
        method.gradient_cache = GradientCache(config.data.batch_size)
    return data, method


def prepare(config: Config) -> Run:
    """Builds everything, then claims the run folder. Nothing is written before the configuration is known to work.

    Args:
        config: Configuration of the run.

    Raises:
        BlockingIOError: Another process writes into the run folder.
        FileExistsError: The run folder is not empty and `run.existing` is "error".
        FileNotFoundError: The file `run.weights` does not exist.
        ValueError: The configuration contradicts itself, the data, the device or the run to be resumed, or the run's
            checkpoint or `run.weights` cannot be read or belongs to another network.
    """
    config = without_auto(config, _earlier(config))
    folder, checkpoint, begun = run_folder(config), last_checkpoint(config), {}

    def begin(backbone: nn.Module) -> None:
        if config.run.weights is not None and checkpoint is None:
            begun["weights"] = load_weights(backbone, config.run.weights)

    data, method = build(config, begin)
    trainer = _trainer(config, data, folder)
    _warn_of_accumulation(config)
    _warn_of_milestones(config)
    images = fingerprint(data)
    if trainer.is_global_zero:  # Lightning or torchrun starts this program once for each device
        check_run_folder(config, images)
    metrics = trainer.loggers[0]
    assert isinstance(metrics, MetricsFiles)
    metrics.resumed_step = _step_of(checkpoint, method, config.run.epochs)
    if config.run.compile:
        compile_networks(method, data, config.run)
    claim = claim_run_folder(config, images, begun) if trainer.is_global_zero else None
    return Run(config, data, method, folder, checkpoint, trainer, claim)


def pretrain(config: Config) -> Path:
    """Trains a backbone without labels and writes everything about the run to its folder.

    The folder then contains `config.yaml` (the whole configuration), `data.json` (a fingerprint of the images),
    `environment.json` (versions, machine and command of each start), `metrics.csv` and `metrics.jsonl` (one line per
    epoch), `checkpoints/last.ckpt`, and `backbone.safetensors`, which `hex_ssl.train.backbones.load_backbone` reads.

    On one CPU, with the same number of threads, the same configuration gives the same weights bit for bit, even if the
    process is killed at any moment and the run is resumed.

    Args:
        config: Configuration of the run.

    Returns:
        The run folder.

    Raises:
        BlockingIOError, FileExistsError, FileNotFoundError, ValueError: See `prepare`.
        FloatingPointError, KeyboardInterrupt, OSError, SystemExit: See `Run.train`.
    """
    run = prepare(config)
    run.train()
    return run.folder


def load_method(folder: str | Path, checkpoint: str = "last") -> Method:
    """Loads the method of a run (backbone, projector and its other networks) with the weights of a checkpoint.

    Args:
        folder: The run folder.
        checkpoint: "last", or the name of a checkpoint that was kept, such as "epoch-0010". "epoch-0000" is untrained.

    Returns:
        The method, in evaluation mode on the CPU.

    Raises:
        FileNotFoundError: There is no such checkpoint. The message lists the existing ones.
        ValueError: The checkpoint cannot be read, or does not have the weights of this method.
    """
    checkpoints = Path(folder) / CHECKPOINTS
    path = checkpoints / f"{checkpoint}.ckpt"
    if not path.is_file():
        there = ", ".join(sorted(each.stem for each in checkpoints.glob("*.ckpt"))) or "none"
        raise FileNotFoundError(f'expected `checkpoint` to be in {checkpoints} ({there}), but got "{checkpoint}"')
    config = read_config(folder)
    weights = read_checkpoint(path)["state_dict"]
    with torch.random.fork_rng():
        _, method = build(config)
    with reading(path, f"to hold the weights of the method in {CONFIG}"):
        method.load_state_dict(weights)
    return method.eval()


def _earlier(config: Config) -> Config | None:
    """The configuration of the run to be resumed, or None."""
    if config.run.existing != "resume" or not (run_folder(config) / CONFIG).is_file():
        return None
    try:
        return read_config(run_folder(config))
    except ValueError:  # damaged, or from another version: `check_run_folder` raises the error
        return None


@contextmanager
def _machine_named(run: RunConfig) -> Iterator[None]:
    """Context manager for creating the Trainer. An error about the machine then names the settings."""
    try:
        yield
    except (ImportError, MisconfigurationException, RuntimeError, ValueError) as error:
        names = ("accelerator", "devices", "nodes", "strategy", "precision")
        asked = ", ".join(f"`run.{name}` {getattr(run, name)}" for name in names)
        raise ValueError(f"expected settings that this machine supports, but got {asked}: {error}") from error


def _trainer(config: Config, data: PretrainData, folder: Path) -> L.Trainer:
    run, loggers, callbacks = config.run, _loggers(config, folder), _callbacks(config, data, folder)
    assert run.precision != "auto"
    with _machine_named(run), _quiet_lightning(), _determinism(run.deterministic):
        trainer = L.Trainer(
            accelerator=run.accelerator,
            devices=run.devices,
            num_nodes=run.nodes,
            strategy=run.strategy,
            precision=run.precision,
            sync_batchnorm=_syncs_batch_norm(config),
            accumulate_grad_batches=run.accumulate,
            max_epochs=run.epochs,
            default_root_dir=folder,
            logger=loggers,
            profiler=None if run.profiler is None else PROFILERS[run.profiler](dirpath=folder, filename="profile"),
            callbacks=callbacks,
            plugins=[AtomicCheckpoints()],
            deterministic=DETERMINISTIC if run.deterministic else False,
            use_distributed_sampler=False,  # the data module's sampler gives each process its share
            enable_checkpointing=False,
            enable_progress_bar=run.progress,
            enable_model_summary=False,
            log_every_n_steps=1,  # otherwise Lightning warns about short epochs
        )
    if trainer.precision != run.precision:  # Lightning replaces a precision that the device does not support
        raise ValueError(
            f"expected `run.precision` to be one that a {trainer.strategy.root_device.type.upper()} supports, such as "
            f"{trainer.precision}, but got {run.precision}"
        )
    return trainer


def _callbacks(config: Config, data: PretrainData, folder: Path) -> list[Callback]:
    run = config.run
    classifier = OnlineClassifier(data.classes, data.superclasses) if run.classifier and data.classes else None
    evaluation = OnlineEvaluation(data, classifier) if data.evaluates else None
    callbacks: list[Callback] = [SeededSteps(run.seed)]
    if classifier is not None:
        callbacks.append(classifier)
    callbacks.append(metrics := EpochMetrics(evaluation, run.knn_every))
    callbacks.append(Checkpoints(folder / CHECKPOINTS, run.checkpoint_minutes, run.keep_every, run.checkpoint_epochs))
    if run.progress:
        callbacks.append(EpochBar(metrics) if shows_progress_bar() else EpochLines(metrics))
    return callbacks


def _loggers(config: Config, folder: Path) -> list[Logger]:
    loggers: list[Logger] = [MetricsFiles(folder)]
    with train_extra("loggers"):
        if "tensorboard" in config.run.loggers:
            import tensorboard  # noqa: F401  # Lightning's own message would name another package
            from lightning.pytorch.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
        if "wandb" in config.run.loggers:
            import wandb  # noqa: F401
            from lightning.pytorch.loggers import WandbLogger

            # A fixed id, so that a resumed run continues the same curves.
            loggers.append(
                WandbLogger(config.run.name, folder, id=config.run.name, resume="allow", config=config.as_dict())
            )
    return loggers


def _syncs_batch_norm(config: Config) -> bool:
    run = config.run
    if not run.sync_batchnorm or run.devices * run.nodes == 1:
        return False
    on_gpu = uses_gpu(run)
    if not on_gpu:
        warnings.warn(
            "torch's SyncBatchNorm needs GPUs: batch norm uses separate statistics in each process", stacklevel=4
        )
    return on_gpu


def _warn_of_accumulation(config: Config) -> None:
    if config.run.accumulate > 1:
        warnings.warn(
            f"`run.accumulate` is {config.run.accumulate}: each loss, with its negatives and its threshold, still uses "
            f"only `data.batch_size` = {config.data.batch_size} images. For a loss of "
            f"{config.run.accumulate * config.data.batch_size} images in the same memory, set "
            f"`run.virtual_batch_size={config.run.accumulate * config.data.batch_size}` instead",
            stacklevel=3,
        )


def _warn_of_milestones(config: Config) -> None:
    if late := [each for each in config.optimizer.milestones if each >= config.run.epochs]:
        told = ", ".join(f"{each:g}" for each in late)
        warnings.warn(
            f"`optimizer.milestones` {told} will not be reached in {config.run.epochs} epochs (`run.epochs`)",
            stacklevel=3,
        )


def _step_of(checkpoint: Path | None, method: Method, epochs: int) -> int:
    """The step from which a run continues. Checks that the checkpoint fits the method and the epochs."""
    if checkpoint is None:
        return 0
    with reading(checkpoint, "to be a checkpoint of this run (if you delete it, the run starts from the beginning)"):
        saved = read_checkpoint(checkpoint)
        method.load_state_dict(saved["state_dict"])
        check_epochs(saved, checkpoint, epochs)
        return int(saved["global_step"])


@contextmanager
def _interruptions() -> Iterator[None]:
    """Ends a run on Ctrl-C and SIGTERM with the usual exit codes. Lightning would exit with 1 and 0."""
    try:
        yield
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as exit:
        if isinstance(exit.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _quiet_lightning(checkpoint: Path | None = None) -> Iterator[None]:
    """Silences Lightning's information about devices and products, and warnings that do not apply."""
    loggers = [logging.getLogger("lightning.pytorch"), logging.getLogger("lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning 2.6 uses a deprecated class of torch 2.11.
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
        # `_trainer` raises an error about `run.precision`.
        warnings.filterwarnings("ignore", message=".*AMP with fp16 is not supported")
        # The data module chooses the number of workers: images in memory need none.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        if checkpoint is not None:
            # The data module continues where the checkpoint was written, but Lightning checks only the loader.
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Sets deterministic algorithms, and restores the caller's settings afterwards, which are process-wide.

    Disables torch's filling of uninitialised memory with NaN. It only shows faults of operations, and takes half of a
    step's time.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic  # a module whose attribute is not in its types
    fill = settings.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(wanted, warn_only=True)
        settings.fill_uninitialized_memory = False
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        settings.fill_uninitialized_memory = fill
