"""`hex-ssl reproduce`: plans and executes runs, and writes the table and the plot."""

import sys
from pathlib import Path

from hex_ssl.train.reproduce.experiment import check_losses, load_experiment
from hex_ssl.train.reproduce.plan import Plan, check_data, check_device, make_plan, results_file
from hex_ssl.train.reproduce.results import Record, read_results
from hex_ssl.train.reproduce.settings import ReproduceConfig
from hex_ssl.train.reproduce.table import write_table
from hex_ssl.train.whole_file import write_whole


def prepare(asked: ReproduceConfig) -> Plan:
    """Reads the experiment and plans its runs. Writes nothing.

    Args:
        asked: The settings of the command.

    Raises:
        FileNotFoundError: There is no such experiment, or images are missing.
        ValueError: The experiment, the settings or the earlier results are not valid, or the runs need a GPU and there
            is none.
    """
    experiment = load_experiment(asked.experiment)
    plan = make_plan(experiment, asked)
    done = finished(plan, results_file(asked))
    if not asked.list:
        left = [job for job in plan.jobs if job.key not in done]
        check_losses(experiment)
        check_data(left)
        check_device(left)
    return plan


def finished(plan: Plan, results: Path) -> dict[str, Record]:
    """The finished runs of a plan, by key.

    Args:
        plan: The plan.
        results: The file of the finished runs.

    Raises:
        ValueError: A line of the file is not a finished run.
    """
    found = read_results(results)
    return {job.key: found[job.key] for job in plan.jobs if job.key in found}


def reproduce(plan: Plan, asked: ReproduceConfig) -> int:
    """Executes the runs that are not done, and prints the table. Writes it, and the plot if there is one, to `out`.

    Args:
        plan: The plan from `prepare`.
        asked: The settings of the command.

    Returns:
        The exit code: 0, 1 if runs failed, or 130 after Ctrl-C.
    """
    from hex_ssl.train.reproduce.runner import Finished, run_jobs
    from hex_ssl.train.reproduce.time_limit import Deadline

    results = results_file(asked)
    done = finished(plan, results)
    left = [job for job in plan.jobs if job.key not in done]
    failures: list[Finished] = []
    passed, stopped = len(done), 0

    def announce(ended: Finished) -> None:
        nonlocal passed, stopped
        passed += ended.outcome in ("done", "there")
        stopped += ended.outcome == "out of time"
        print(f"{passed}/{len(plan.jobs)}  {ended.job.key}  {ended.outcome}  {ended.seconds:.0f} s", flush=True)
        if ended.outcome == "failed":
            failures.append(ended)
            print(ended.trace or ended.error, file=sys.stderr, flush=True)

    print(f"{len(done)} of {len(plan.jobs)} runs are done; results: {results}", flush=True)
    interrupted, unstarted = False, 0
    try:
        unstarted = run_jobs(left, asked.jobs, Deadline(asked.minutes), announce)
    except KeyboardInterrupt:
        interrupted = True
    _write(plan, finished(plan, results), Path(asked.out))
    if stopped or unstarted:
        print(
            f"the time limit is reached: {stopped} stopped, {unstarted} not started; run the same command to continue"
        )
    if interrupted:
        print("interrupted; run the same command to continue")
    for each in failures:
        print(f"failed: {each.job.key}: {each.error}", file=sys.stderr)
    return 130 if interrupted else int(bool(failures))


def _write(plan: Plan, done: dict[str, Record], folder: Path) -> None:
    """Writes the table and the picture of the finished runs into a folder, and prints the table and both paths."""
    from hex_ssl.train.reproduce.picture import draw_picture

    text = write_table(plan, done)
    path = folder / f"{plan.experiment.name}-{plan.scale.name}.md"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    print(f"\n{text}\ntable: {path}")
    for picture in draw_picture(plan, done, path.with_suffix("")):
        print(f"picture: {picture}")


def list_rows(plan: Plan, results: Path) -> str:
    """A line for each row with the number of its finished runs."""
    done = finished(plan, results)
    lines = [
        [f"{cell.group}/{cell.row}", cell.dataset, f"{sum(key in done for key in keys.values())}/{len(keys)}"]
        for cell, keys in plan.cells.items()
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    rows = [f"{name:{widths[0]}}  {dataset:{widths[1]}}  {count}" for name, dataset, count in lines]
    return "\n".join([*rows, f"{len(done)} of {len(plan.jobs)} runs are done"])
