"""The demo: SimCLR with and without HEX on handwritten digits, compared with the untrained backbone.

`hex-ssl demo` or `python -m hex_ssl.train.demo` takes a few minutes on 2 cores. For each seed, both train with the same
budget from the same initial weights. The demo prints a table and writes the runs, all results and three plots to a
folder.
"""

import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hex_ssl.train.config import Config
from hex_ssl.train.extras import train_extra

with train_extra():
    from hex_ssl.train.analysis import plot_accuracy, plot_embedding, plot_training
    from hex_ssl.train.backbones import load_backbone
    from hex_ssl.train.callbacks.metrics import read_metrics
    from hex_ssl.train.data import PretrainData
    from hex_ssl.train.evaluate import evaluate_backbone, extract_features
    from hex_ssl.train.pretrain import prepare
    from hex_ssl.train.recipes import load_recipe
    from hex_ssl.train.run_folder import BACKBONE
    from hex_ssl.train.whole_file import whole_file

HEX, SIMCLR, UNTRAINED = "SimCLR + HEX", "SimCLR", "untrained"
RECIPES = {HEX: "quick/simclr_hex", SIMCLR: "quick/simclr"}
COLUMNS = {
    "knn_accuracy": "k-NN",
    "probe_accuracy_few_labels": "probe, few labels",
    "probe_accuracy": "probe, all labels",
}

Results = dict[str, list[dict[str, Any]]]
"""For each row of the table, one evaluation per seed."""


def run_demo(folder: str = "runs/demo", seeds: int = 3, epochs: int | None = None) -> Path:
    """Trains with and without HEX, once per seed, and compares the results.

    Args:
        folder: Folder of runs, results and plots. Earlier runs of the demo in it are replaced.
        seeds: Number of seeds, at least 1. Each seed has one run with HEX and one without.
        epochs: Number of epochs of each run. None uses the recipes' number.

    Returns:
        The folder.

    Raises:
        ValueError: `seeds` is below 1.
    """
    if seeds < 1:
        raise ValueError(f"expected `seeds` to be at least 1, but got {seeds}")
    start = time.perf_counter()
    root = Path(folder)
    results: Results = {HEX: [], SIMCLR: [], UNTRAINED: []}
    configs = [(label, _config(label, root, seed, epochs)) for seed in range(seeds) for label in RECIPES]
    for label, config in configs:
        _run(label, config, results)
    _draw(root, configs)
    seconds = time.perf_counter() - start
    _save(root, configs[0][1], results, seconds)
    print(f"\n{table(results)}\n\n{_footnote(configs[0][1], results, seconds)}\nRuns, figures and pictures: {root}")
    return root


def table(results: Results) -> str:
    """Accuracies in percent, mean +- standard deviation over the seeds.

    Example:
        >>> figures = {"knn_accuracy": 0.9, "probe_accuracy_few_labels": 0.5, "probe_accuracy": 1.0}
        >>> print(table({"untrained": [figures, figures]}))
        test accuracy (%)  k-NN          probe, few labels  probe, all labels
        untrained           90.0 +- 0.0   50.0 +- 0.0       100.0 +- 0.0
    """
    lines = [["test accuracy (%)", *COLUMNS.values()]]
    lines += [[label, *(_mean_deviation(figures, name) for name in COLUMNS)] for label, figures in results.items()]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in padded)


def _mean_deviation(figures: list[dict[str, Any]], name: str) -> str:
    values = [100 * each[name] for each in figures]
    deviation = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):5.1f}{deviation}"


def _config(label: str, root: Path, seed: int, epochs: int | None) -> Config:
    config = Config.from_dict(load_recipe(RECIPES[label]))
    name = f"{RECIPES[label].rsplit('/', maxsplit=1)[-1]}-seed{seed}"
    run = replace(config.run, root=str(root), name=name, seed=seed, existing="overwrite", progress=False)
    return replace(config, run=run if epochs is None else replace(run, epochs=epochs))


def _run(label: str, config: Config, results: Results) -> None:
    start = time.perf_counter()
    run = prepare(config)
    if label == HEX:  # with the same seed, both start from this backbone
        results[UNTRAINED].append(evaluate_backbone(run.method.backbone, run.data))
    run.train()
    figures = evaluate_backbone(run.method.backbone, run.data)
    results[label].append(figures)
    print(
        f"{label:12}  seed {config.run.seed}  {config.run.epochs} epochs in {time.perf_counter() - start:.0f} s  "
        f"k-NN accuracy {100 * figures['knn_accuracy']:.1f} %",
        flush=True,
    )


def _draw(root: Path, configs: list[tuple[str, Config]]) -> None:
    metrics = {
        label: [read_metrics(root / each.run.name) for own, each in configs if own == label] for label in RECIPES
    }
    seeds = [f"seed {each.run.seed}" for own, each in configs if own == HEX]
    plot_training(metrics[HEX], root / "training.png", f"{HEX} on the digits", seeds)
    shown = {label: metrics[label] for label in (SIMCLR, HEX)}
    plot_accuracy(shown, root / "accuracy.png", "Digits: mean and standard deviation over the seeds")
    first = configs[0][1]
    backbone = load_backbone(root / first.run.name / BACKBONE)
    test = extract_features(backbone, PretrainData(first.data, first.run.seed).split("test"))
    plot_embedding(test, root / "embedding.png", f"Test digits, backbone of {HEX}, UMAP")


def _footnote(config: Config, results: Results, seconds: float) -> str:
    protocol = results[HEX][0]["protocol"]
    return (
        f"Mean +- standard deviation over {len(results[HEX])} seeds; {config.run.epochs} epochs each, batches of "
        f"{config.data.batch_size}; {protocol['train_images']} training and {protocol['test_images']} test images.\n"
        f"Protocol: {protocol['description']}.\n"
        f"{seconds:.0f} s in all with {torch.get_num_threads()} threads, torch {torch.__version__}."
    )


def _save(root: Path, config: Config, results: Results, seconds: float) -> None:
    record = {
        "results": results,
        "config": config.as_dict(),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    with whole_file(root / "results.json") as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())


if __name__ == "__main__":
    run_demo()
