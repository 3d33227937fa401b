"""Plot the training and validation loss of a run: loss.png beside the run's metrics."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from demo import DEMO_CONFIG_PATH
from utils.cli import config_from, run_script, script_parser
from utils.errors import DataError
from utils.files import atomic_write
from utils.logging_utils import metrics_path
from utils.metrics import TRAIN_LOSS, VALIDATION_LOSS
from utils.reports.run_curves import number_of, read_records
from utils.runs import list_runs
from utils.terminal import say

PLOT_NAME = "loss.png"
TRAIN_COLOUR = "#8fb8de"
VALIDATION_COLOUR = "#c44536"

Curve = list[tuple[int, float]]  # (step, loss) in order


def main(arguments: Sequence[str]) -> None:
    parser = script_parser(__doc__)
    parser.set_defaults(config=DEMO_CONFIG_PATH)
    parser.add_argument("--run", metavar="NAME", help="the run's name (default: the newest run)")
    args = parser.parse_args(arguments)
    config = config_from(args)
    metrics = metrics_path(
        config.paths.log_dir, args.run or newest_run_name(config.paths.checkpoint_dir)
    )
    say(f"wrote {plot(metrics)}")


def newest_run_name(checkpoint_dir: Path) -> str:
    """The name of the run that saved last; DataError if there is none."""
    runs = [run for run in list_runs(checkpoint_dir) if not run.is_flat]
    if not runs:
        raise DataError(f"{checkpoint_dir}: holds no training run", "Run train.py first.")
    return runs[0].path.name


def read_curve(metrics: Path, tag: str) -> Curve:
    """The finite points of one tag; DataError if the run logged none."""
    try:
        records = read_records(metrics)
    except FileNotFoundError:
        raise DataError(f"{metrics}: no such run's metrics", "Run train.py first.") from None
    points = ((record["step"], number_of(record.get(tag))) for record in records)
    curve = [(step, loss) for step, loss in points if loss is not None and math.isfinite(loss)]
    if not curve:
        raise DataError(
            f"{metrics}: no {tag} was logged that is finite",
            "The run ended too early to plot, or its loss never was a number.",
        )
    return curve


def plot(metrics: Path) -> Path:
    """Draw both losses over the steps; returns the path of the image, beside `metrics`."""
    with mpl.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
        axes = figure.subplots()
        train = read_curve(metrics, TRAIN_LOSS)
        validation = read_curve(metrics, VALIDATION_LOSS)
        axes.plot(*zip(*train, strict=True), color=TRAIN_COLOUR, linewidth=1.5, label="training")
        axes.plot(
            *zip(*validation, strict=True),
            color=VALIDATION_COLOUR,
            linewidth=2,
            marker="o",
            label="validation",
        )
        for (step, loss), offset in ((validation[0], (10, 0)), (validation[-1], (0, 10))):
            axes.annotate(f"{loss:.2f}", (step, loss), offset, textcoords="offset points")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("cross-entropy loss (nats per token)")
        axes.set_title(metrics.parent.name, loc="left", fontweight="bold")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
    path = metrics.with_name(PLOT_NAME)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
    return path


if __name__ == "__main__":
    run_script(main)
