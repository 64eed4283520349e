"""The metrics files."""

import math
from pathlib import Path

from hex_ssl.train.callbacks.metrics import MetricsFiles, read_metrics


def test_new_metrics_add_columns_to_the_csv(tmp_path: Path) -> None:
    logger = MetricsFiles(tmp_path)
    logger.log_metrics({"epoch": 1.0, "loss": 2.5}, step=5)
    logger.log_metrics({"epoch": 2.0, "loss": 1.5, "knn_accuracy": 0.9}, step=10)
    logger.log_metrics({"epoch": 3.0, "loss": 1.0}, step=15)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "epoch,step,loss,knn_accuracy",
        "1,5,2.5,",
        "2,10,1.5,0.9",
        "3,15,1.0,",
    ]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    MetricsFiles(tmp_path).log_metrics({"epoch": 1.0, "threshold": math.inf, "loss": math.nan}, step=1)
    assert read_metrics(tmp_path) == [{"epoch": 1, "step": 1, "threshold": None, "loss": None}]


def test_resumed_run_removes_lines_after_its_checkpoint(tmp_path: Path) -> None:
    logger = MetricsFiles(tmp_path)
    for epoch in (1, 2, 3):
        logger.log_metrics({"epoch": float(epoch), "loss": 1.0}, step=5 * epoch)
    MetricsFiles(tmp_path, resumed_step=10).log_metrics({"epoch": 3.0, "loss": 0.5}, step=15)
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 1.0, 0.5]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4


def test_incomplete_line_is_ignored(tmp_path: Path) -> None:
    logger = MetricsFiles(tmp_path)
    for epoch in (1, 2):
        logger.log_metrics({"epoch": float(epoch), "loss": 1.0}, step=5 * epoch)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-9])
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1]
    MetricsFiles(tmp_path, resumed_step=5).log_metrics({"epoch": 2.0, "loss": 0.5}, step=10)
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 0.5]


def test_table_with_an_incomplete_line_is_written_again(tmp_path: Path) -> None:
    logger = MetricsFiles(tmp_path)
    for epoch in (1, 2):
        logger.log_metrics({"epoch": float(epoch), "loss": 1.0}, step=5 * epoch)
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-4])
    MetricsFiles(tmp_path, resumed_step=5).log_metrics({"epoch": 2.0, "loss": 0.5}, step=10)
    assert path.read_text().splitlines() == ["epoch,step,loss", "1,5,1.0", "2,10,0.5"]


def test_nothing_is_written_before_the_first_event(tmp_path: Path) -> None:
    MetricsFiles(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_file_there_are_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
