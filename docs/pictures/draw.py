"""Draws the documentation's pictures: `python docs/pictures/draw.py [FOLDER]`.

Speed, memory, Figure 7 and the differences of the results are of measured results, in `benches/results` and
`docs/results.jsonl`; the others are of generated embeddings. A generated batch has the shape that the paper hopes for:
superclasses, classes in them, images in these, two views of each.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from hex_ssl.functional import hex_loss, ntxent_loss
from hex_ssl.thresholds import AdaptiveThreshold, CosineThreshold, StepThreshold
from hex_ssl.train.reproduce.command import finished, prepare
from hex_ssl.train.reproduce.picture import draw_panel, read_panels
from hex_ssl.train.reproduce.settings import ReproduceConfig

matplotlib.use("svg")
# Text stays text, names of parts do not change from one drawing to the next.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "hex_ssl", "font.size": 9})
import differences  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

FOLDER = Path(__file__).parent
KEPT = FOLDER.parent / "results.jsonl"
MEASURED = FOLDER.parents[1] / "benches/results/loss-cpu-intel-2026-11-24.json"
ORANGE, BLUE, SKY, GREY = "#d55e00", "#0072b2", "#56b4e9", "#757575"
"""Of the palette of Okabe and Ito, which colour-blind people tell apart."""
LINES = (GREY, BLUE, ORANGE, "#009e73")

EAGER = ("eager, torch.quantile", "eager, topk", "eager, topk, where")
SPEED_LINES = {
    "HexLoss": (("HexLoss",), "o-", ORANGE),
    "HEX, best of three eager forms": (EAGER, "s-", BLUE),
    "HEX, best of two compiled": (("compiled, topk", "compiled, topk, where"), "^-", SKY),
    "lightly's NTXentLoss": (("lightly NTXentLoss",), "D-", GREY),
}
"""Lines of the pictures of speed and memory: the names in the file, of which the best is drawn; style; colour."""

IMAGES, DIMS, SUPERCLASSES, CLASSES = 256, 128, 5, 20
QUANTILES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995)
SPREADS, TAU_PLUS = (0.3, 0.5, 0.65, 0.8, 0.95, 1.1, 1.3, 1.6, 2.0), (0.0, 0.02, 0.1, 0.2)


def batch(noise: float = 0.7, spread: float = 0.8) -> tuple[Tensor, Tensor]:
    """Two views [2, IMAGES, DIMS], which noise sets apart, of images, which spread does; and their superclasses."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, DIMS, generator=generator, dtype=torch.float64)

    classes = torch.arange(IMAGES) % CLASSES
    superclasses = classes % SUPERCLASSES
    images = draw(SUPERCLASSES)[superclasses] + draw(CLASSES)[classes] + spread * draw(IMAGES)
    return images + noise * draw(2, IMAGES), superclasses


def negatives() -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of all rows [2 IMAGES, 2 IMAGES], which are negatives, and which share a superclass."""
    views, superclasses = batch()
    rows = normalize(views.flatten(0, 1), dim=1)
    image, superclass = torch.arange(IMAGES).repeat(2), superclasses.repeat(2)
    return rows @ rows.T, image[:, None] != image, superclass[:, None] == superclass


def adaptive_threshold(quantile: float) -> float:
    """What the loss finds."""
    (z1, z2), _ = batch()
    threshold = AdaptiveThreshold(quantile)
    return float(hex_loss(z1, z2, threshold=threshold, return_statistics=True)[1].threshold)


def draw_split(axes: Axes) -> None:
    """The cosines of a batch's negatives, and where the threshold cuts."""
    cosines, negative, same = negatives()
    groups = [cosines[negative & ~same], cosines[negative & same]]
    labels, colours = ["other superclass", "same superclass"], ["#8b95a3", BLUE]
    axes.hist([each.numpy() for each in groups], bins=60, stacked=True, label=labels, color=colours)
    for quantile, style in [(0.9, ":"), (0.99, "-")]:
        label = f"threshold, quantile {quantile}"
        axes.axvline(adaptive_threshold(quantile), color="black", linestyle=style, label=label)
    axes.set(xlabel="cosine similarity to the anchor", ylabel="pairs", title="Hierarchical: right of the threshold")
    legend_below(axes)


def draw_quantile(axes: Axes) -> None:
    """How many negatives are hierarchical, and how many of these rightly."""
    cosines, negative, same = negatives()
    found = [negative & (cosines > adaptive_threshold(quantile)) for quantile in QUANTILES]
    share = [float((each & same).sum() / each.sum()) for each in found]
    recall = [float((each & same).sum() / (negative & same).sum()) for each in found]
    axes.plot(QUANTILES, share, "o-", color=ORANGE, label="of H, the share of the anchor's superclass")
    axes.plot(QUANTILES, recall, "s-", color=BLUE, label="of the superclass's negatives, the share in H")
    axes.set(xlabel="quantile", ylabel="share", ylim=(-0.03, 1.03), title="What the quantile chooses")
    legend_below(axes)


def draw_schedules(axes: Axes) -> None:
    """Thresholds that fall with the epoch."""
    epochs, curve = range(400), CosineThreshold()
    axes.plot(epochs, [StepThreshold().at(epoch)[1] for epoch in epochs], color=BLUE, label="StepThreshold()")
    axes.plot(epochs, [curve.at(epoch)[1] for epoch in epochs], color=ORANGE, label="CosineThreshold()")
    value, recursive = curve.start, []
    for epoch in epochs:
        value = curve.min + (value - curve.min) * (1 + math.cos(math.pi * epoch / curve.max_epochs)) / 2
        recursive.append(value)
    axes.plot(epochs, recursive, "--", color=GREY, label="cosine, as the release applies it")
    axes.set(xlabel="epoch", ylabel="threshold (minmax scale)", title="Schedules with their defaults")
    legend_below(axes)


def draw_scales(axes: Axes) -> None:
    """The cosine that a negative has to exceed, anchor by anchor."""
    cosines, _, _ = negatives()
    low, high = cosines.amin(1), cosines.amax(1)
    for value, colour in [(0.65, SKY), (0.95, BLUE)]:
        needed = (low + value * (high - low)).sort().values
        axes.plot(needed, color=colour, label=f"FixedThreshold({value}), minmax")
    axes.axhline(adaptive_threshold(0.99), color="black", label="AdaptiveThreshold(), cosine")
    axes.set(xlabel="anchors, sorted", ylabel="cosine to exceed", title="The same number on two scales")
    legend_below(axes)


def gap(views: Tensor) -> float:
    """By how much the mean cosine of the positives exceeds that of the hierarchical negatives."""
    rows, image = normalize(views.flatten(0, 1), dim=1), torch.arange(IMAGES).repeat(2)
    cosines, negative = rows @ rows.T, image[:, None] != image
    threshold = float(hex_loss(*views, return_statistics=True)[1].threshold)
    return float(cosine_similarity(*views, dim=-1).mean() - cosines[negative & (cosines > threshold)].mean())


def draw_floor(axes: Axes) -> None:
    """How often the reweighted term is at its floor, as the images of a class come apart."""
    batches = [batch(noise=0.3, spread=spread)[0] for spread in SPREADS]
    for number, tau_plus in enumerate(TAU_PLUS):
        found = [hex_loss(*views, tau_plus=tau_plus, return_statistics=True)[1] for views in batches]
        shares = [float(each.floor_fraction) for each in found]
        axes.plot([gap(views) for views in batches], shares, "o-", color=LINES[number], label=f"tau_plus {tau_plus}")
        if tau_plus > 0:
            axes.axvline(-0.1 * math.log(tau_plus), color=LINES[number], linestyle=":")
    axes.set(xlabel="cosine of the positives - that of H", ylabel="share of the anchors", ylim=(-0.03, 1.03))
    axes.set(title="Anchors at the floor, temperature 0.1")
    legend_below(axes)


def draw_gradient(axes: Axes) -> None:
    """How far HEX's gradient is from NT-Xent's, as the images of a class come apart."""
    batches = [batch(noise=0.3, spread=spread)[0] for spread in SPREADS]
    gaps = [gap(views) for views in batches]
    plain = [gradient(ntxent_loss, views, temperature=0.1) for views in batches]
    for number, tau_plus in enumerate(TAU_PLUS):
        found = [gradient(hex_loss, views, temperature=0.1, tau_plus=tau_plus) for views in batches]
        cosines = [float(cosine_similarity(*pair, dim=0)) for pair in zip(plain, found, strict=True)]
        axes.plot(gaps, cosines, "o-", color=LINES[number], label=f"tau_plus {tau_plus}")
    axes.set(xlabel="cosine of the positives - that of H", ylabel="cosine of the two gradients")
    axes.set(title="HEX's gradient beside NT-Xent's")
    legend_below(axes)


def gradient(loss: Callable[..., Tensor], views: Tensor, **settings: float) -> Tensor:
    """The gradient of a loss with respect to both views, as one vector."""
    views = views.clone().requires_grad_()
    loss(*views, **settings).backward()
    assert views.grad is not None
    return views.grad.flatten()


def draw_figure7(axes: Axes) -> None:
    """The kept results over batch sizes."""
    plan = prepare(ReproduceConfig("figure7", "small", results=str(KEPT), list=True))
    (panel,) = read_panels(plan, finished(plan, KEPT))
    assert plan.experiment.picture is not None
    draw_panel(axes, panel, plan.experiment.picture.label)


def draw_time(axes: Axes) -> None:
    """Time of a forward and a backward over batch sizes: D = 128, float32."""
    _draw_measured(axes, "seconds", 1e-3)
    axes.set(ylabel="time (ms)", title="Time, forward and backward")


def draw_memory(axes: Axes) -> None:
    """Peak memory of the same."""
    _draw_measured(axes, "bytes", 1e6)
    axes.set(ylabel="memory above the inputs (MB)", title="Peak memory, forward and backward")


def _draw_measured(axes: Axes, what: str, unit: float) -> None:
    results = json.loads(MEASURED.read_text(encoding="utf-8"))["results"]
    chosen = [each for each in results if (each["dims"], each["dtype"]) == (128, "float32")]
    for label, (names, style, colour) in SPEED_LINES.items():
        best = {
            each["rows"] // 2: min(each[what][name] for name in names if name in each[what]) / unit
            for each in chosen
            if any(name in each[what] for name in names)
        }
        axes.loglog([*best], [*best.values()], style, color=colour, label=label, markersize=4)
    sizes = [each["rows"] // 2 for each in chosen]
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="batch size (images)")
    axes.grid(alpha=0.3)
    legend_below(axes)


def legend_below(axes: Axes) -> None:
    """Names the lines where they cover nothing."""
    long = any(len(label) > 34 for label in axes.get_legend_handles_labels()[1])
    axes.get_figure().legend(loc="outside lower center", ncols=1 if long else 2, fontsize=8, frameon=False)


PICTURES = {
    "split": draw_split,
    "quantile": draw_quantile,
    "schedules": draw_schedules,
    "scales": draw_scales,
    "floor": draw_floor,
    "gradient": draw_gradient,
    "figure7": draw_figure7,
    "speed": draw_time,
    "memory": draw_memory,
}


def main(folder: Path) -> None:
    """Draws all pictures into a folder."""
    for name, draw in PICTURES.items():
        figure, axes = plt.subplots(figsize=(4.5, 3.8), layout="constrained")
        draw(axes)
        _save(figure, folder / f"{name}.svg")
    for name, size, fill in differences.pictures(KEPT):
        figure = plt.figure(figsize=size, layout="constrained")
        fill(figure)
        _save(figure, folder / f"{name}.svg")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
