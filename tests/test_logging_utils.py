"""utils/logging_utils.py: what is logged is in TensorBoard and in the JSON lines, once."""

import json
import math
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
    event_accumulator,
    plugin_event_accumulator,
)
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar.metadata import (  # type: ignore[import-untyped]
    CONFIG_SUMMARY_TAG,
)
from tensorboard.plugins.hparams.metadata import (  # type: ignore[import-untyped]
    EXPERIMENT_TAG,
    SESSION_START_INFO_TAG,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import (  # type: ignore[import-untyped]
    HParamsPluginData,
)
from tensorboard.summary.writer.event_file_writer import (  # type: ignore[import-untyped]
    AtomicCounter,
)

from tests.conftest import REPOSITORY
from tests.tiny import tiny_config
from utils.logging_utils import (
    SKIPPED_STEP,
    DualLogger,
    describe_run,
    logged_runs,
    metrics_path,
    read_metrics,
    read_records_beside,
    tensorboard_dir,
)

RUN = "run_2026_11_22_10_00"


@pytest.fixture(autouse=True)
def event_files_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order_event_files(monkeypatch)


def order_event_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let TensorBoard read the event files of one second, and of this process, as they were made.

    It goes by their names, which end in a number: the tenth would come before the ninth.
    """
    counter = "tensorboard.summary.writer.event_file_writer._global_uid"
    monkeypatch.setattr(counter, AtomicCounter(100))


def events_of(log_dir: Path) -> event_accumulator.EventAccumulator:
    """What TensorBoard reads of the run."""
    folder = str(log_dir / "tensorboard" / RUN)
    return event_accumulator.EventAccumulator(folder).Reload()


def points(log_dir: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows: (step, value)."""
    return [(event.step, event.value) for event in events_of(log_dir).Scalars(tag)]


def texts(log_dir: Path, tag: str) -> list[tuple[int, str]]:
    """What TensorBoard's page of texts shows, which reads with a class of its own."""
    folder = str(log_dir / "tensorboard" / RUN)
    events = plugin_event_accumulator.EventAccumulator(folder).Reload()
    return [
        (event.step, event.tensor_proto.string_val[0].decode())
        for event in events.Tensors(f"{tag}/text_summary")
    ]


def records(log_dir: Path) -> Iterator[tuple[int, float]]:
    for record in read_metrics(metrics_path(log_dir, RUN)):
        if "train/loss" in record:
            yield record["step"], record["train/loss"]


def log_steps(log_dir: Path, steps: range, value: float, resumed_step: int | None = None) -> None:
    with closing(DualLogger(log_dir, RUN, resumed_step)) as logger:
        for step in steps:
            logger.log_scalars(step, {"train/loss": value})


def test_both_logs_have_every_number(tmp_path: Path) -> None:
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_scalars(10, {"train/loss": 2.5, "perf/step_ms": 8.0})
        logger.log_scalars(20, {"train/loss": 1.25})
        logger.log_text(20, "samples/1", 'Été 東京\n\u2028 "quoted" <s>')
    path = tmp_path / "raw_metrics" / RUN / "metrics.jsonl"
    assert path == metrics_path(tmp_path, RUN)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert read_metrics(path) == lines
    began = lines[0].pop("started")
    assert all(line.pop("time") >= began > 1.7e9 for line in lines)
    assert lines == [
        {"step": 10, "train/loss": 2.5, "perf/step_ms": 8.0},
        {"step": 20, "train/loss": 1.25},
        {"step": 20, "samples/1": 'Été 東京\n\u2028 "quoted" <s>'},
    ]
    assert points(tmp_path, "train/loss") == [(10, 2.5), (20, 1.25)]
    assert points(tmp_path, "perf/step_ms") == [(10, 8.0)]
    assert texts(tmp_path, "samples/1") == [(20, '```\nÉté 東京\n\u2028 "quoted" <s>\n```')]


def test_the_configuration_stands_beside_the_numbers(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_config(config)
    values = json.loads((tmp_path / "raw_metrics" / RUN / "config.json").read_text())
    assert values == config.model_dump(mode="json")
    ((_, text),) = texts(tmp_path, "config")
    assert json.loads(text.removeprefix("```json\n").removesuffix("\n```")) == values


def test_tensorboard_has_the_hyperparameters_in_the_run_itself(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, training={"learning_rate": 1e-4})
    for resumed_step in (None, 5):
        with closing(DualLogger(tmp_path, RUN, resumed_step)) as logger:
            logger.log_config(config)
            logger.log_scalars(5, {"val/loss": 2.0})
    assert [path.name for path in tensorboard_dir(tmp_path).rglob("*") if path.is_dir()] == [RUN]
    metadata = events_of(tmp_path).PluginTagToContent("hparams")
    started = HParamsPluginData.FromString(metadata[SESSION_START_INFO_TAG]).session_start_info
    values = {key: value.number_value for key, value in started.hparams.items()}
    assert values["training.learning_rate"] == 1e-4
    assert values["model.num_layers"] == 2
    assert started.hparams["training.optimizer"].string_value == config.training.optimizer
    assert started.hparams["training.sample_prompts"].string_value
    assert not any(key.startswith("paths.") for key in values)
    experiment = HParamsPluginData.FromString(metadata[EXPERIMENT_TAG]).experiment
    assert {info.name.tag for info in experiment.metric_infos} == {
        *("val/loss", "val/bits_per_byte", "train/loss")
    }


def test_tensorboard_draws_both_losses_on_one_chart(tmp_path: Path) -> None:
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_config(tiny_config(tmp_path))
    (event,) = events_of(tmp_path).Tensors(CONFIG_SUMMARY_TAG)
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    tags = list(layout.category[0].chart[0].multiline.tag)
    logged = ["train/loss", "train/loss_scale", "val/loss", "val/loss_other"]
    assert [tag for tag in logged if any(re.match(form, tag) for form in tags)] == [
        *("train/loss", "val/loss")
    ]


def test_the_environment_stands_beside_the_numbers(tmp_path: Path) -> None:
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_config(tiny_config(tmp_path), describe_run(torch.device("cpu"), 42))
    path = metrics_path(tmp_path, RUN)
    values = json.loads(path.with_name("environment.json").read_text())
    assert values["parameters"] == 42
    assert values["torch"] == torch.__version__
    assert values["device"].startswith("CPU")
    assert {"commit", "python", "numpy", "cuda"} <= set(values)
    config, environment = read_records_beside(path)
    assert environment == values
    assert config["model"]["num_layers"] == 2
    path.with_name("environment.json").write_bytes(b"{")
    assert read_records_beside(path) == (config, {})


def test_events_are_in_both_logs_at_once(tmp_path: Path) -> None:
    logger = DualLogger(tmp_path, RUN)
    logger.log_event(7, SKIPPED_STEP, loss=math.nan, gradient_norm=2.5, windows=[3, 1])
    (record,) = read_metrics(metrics_path(tmp_path, RUN))  # before it is closed
    logger.close()
    assert record["step"] == 7
    assert record["event"] == "skipped step"
    assert (record["loss"], record["gradient_norm"], record["windows"]) == ("nan", 2.5, [3, 1])
    ((step, text),) = texts(tmp_path, "events")
    assert step == 7
    assert text.startswith("skipped step")


def test_runs_are_listed_the_newest_first(tmp_path: Path) -> None:
    assert logged_runs(tmp_path) == []
    for name in ("run_2026_01_02_10_00", "run_2026_01_03_09_00_x", "run_2025_12_31_23_59"):
        DualLogger(tmp_path, name).close()
    assert logged_runs(tmp_path) == [
        *("run_2026_01_03_09_00_x", "run_2026_01_02_10_00", "run_2025_12_31_23_59")
    ]


def test_a_resumed_run_has_no_point_twice(tmp_path: Path) -> None:
    log_steps(tmp_path, range(0, 10), 1.0)
    log_steps(tmp_path, range(7, 13), 2.0, resumed_step=6)
    log_steps(tmp_path, range(10, 15), 3.0, resumed_step=9)
    values = [1.0] * 7 + [2.0] * 3 + [3.0] * 5
    expected = list(zip(range(15), values, strict=True))
    assert list(records(tmp_path)) == expected
    assert points(tmp_path, "train/loss") == expected


def test_a_run_resumed_at_its_beginning_has_no_point_twice(tmp_path: Path) -> None:
    log_steps(tmp_path, range(0, 4), 1.0)
    log_steps(tmp_path, range(1, 4), 2.0, resumed_step=0)
    expected = [(0, 1.0), (1, 2.0), (2, 2.0), (3, 2.0)]
    assert list(records(tmp_path)) == points(tmp_path, "train/loss") == expected


@pytest.mark.parametrize("step", [0, 3])
def test_a_validation_that_is_still_to_come_has_no_point_twice(tmp_path: Path, step: int) -> None:
    """It was logged once, and the run died before that was saved: twice in a row."""
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_event(step, SKIPPED_STEP, loss=math.nan, windows=[1])
        logger.log_scalars(step, {"train/loss": 1.0, "perf/mfu": math.inf})
    for value in (2.0, 3.0, 4.0):
        with closing(DualLogger(tmp_path, RUN, step, is_validated=False)) as logger:
            logger.log_scalars(step, {"val/loss": value, "val/perplexity": 1.0})
            logger.log_text(step, "samples/1", f"text {value}")
            logger.log_scalars(step + 1, {"train/loss": value})
    expected = [(step, 1.0), (step + 1, 4.0)]
    assert list(records(tmp_path)) == points(tmp_path, "train/loss") == expected
    found = read_metrics(metrics_path(tmp_path, RUN))
    assert [record["val/loss"] for record in found if "val/loss" in record] == [4.0]
    assert [record["samples/1"] for record in found if "samples/1" in record] == ["text 4.0"]
    assert points(tmp_path, "val/loss") == [(step, 4.0)]
    assert points(tmp_path, "perf/mfu") == [(step, math.inf)]
    assert [text for _, text in texts(tmp_path, "samples/1")] == ["```\ntext 4.0\n```"]
    assert texts(tmp_path, "events") == [(step, 'skipped step: `{"loss": "nan", "windows": [1]}`')]


def test_what_is_logged_again_keeps_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in (1000.0, 2000.0):
        monkeypatch.setattr("utils.logging_utils.time.time", lambda seconds=seconds: seconds)
        with closing(DualLogger(tmp_path, RUN, 5, is_validated=False)) as logger:
            if seconds == 1000.0:
                logger.log_scalars(5, {"train/loss": 1.0})
    (event,) = events_of(tmp_path).Scalars("train/loss")
    assert event.wall_time == 1000.0


def test_a_run_resumed_without_its_logs_begins_new_ones(tmp_path: Path) -> None:
    log_steps(tmp_path, range(5, 7), 1.0, resumed_step=4)
    assert list(records(tmp_path)) == [(5, 1.0), (6, 1.0)]


def test_numbers_that_json_lacks_are_words(tmp_path: Path) -> None:
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_scalars(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.0})
    text = metrics_path(tmp_path, RUN).read_text()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    record = json.loads(text, parse_constant=refuse)
    assert [record[tag] for tag in "abcd"] == ["nan", "inf", "-inf", 0.0]
    assert math.isnan(points(tmp_path, "a")[0][1])
    assert points(tmp_path, "b") == [(1, math.inf)]
    log_steps(tmp_path, range(2, 3), 1.0, resumed_step=1)  # which reads and writes them again
    assert metrics_path(tmp_path, RUN).read_text().startswith(text)


@pytest.mark.parametrize("cut", [1, 5, 12, 14, 15])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    log_steps(tmp_path, range(1, 3), 1.0)
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_text(3, "samples/1", "東京東京")
    path = metrics_path(tmp_path, RUN)
    path.write_bytes(path.read_bytes()[:-cut])  # also within a character
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    log_steps(tmp_path, range(3, 4), 2.0, resumed_step=2)
    assert list(records(tmp_path)) == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_lines_are_collected_and_flushed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("utils.logging_utils.time.monotonic", lambda: now)
    path = metrics_path(tmp_path, RUN)
    with closing(DualLogger(tmp_path, RUN)) as logger:
        logger.log_scalars(1, {"a": 1.0})
        assert not path.exists()
        logger.flush()
        assert len(read_metrics(path)) == 1
        logger.log_scalars(2, {"a": 1.0})
        now += 11.0
        logger.log_scalars(3, {"a": 1.0})
        assert len(read_metrics(path)) == 3
        logger.log_scalars(4, {"a": 1.0})
    assert len(read_metrics(path)) == 4


def test_a_full_disk_leaves_whole_lines_and_loses_none(tmp_path: Path) -> None:
    """The disk is full in the middle of a line, and later is not."""
    script = f"""
        import resource, signal
        from pathlib import Path
        from utils.logging_utils import DualLogger, metrics_path, read_metrics
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        logger = DualLogger(Path({str(tmp_path)!r}), "run")
        logger.log_scalars(1, {{"a": 1.0}})
        logger.flush()
        size = logger.path.stat().st_size
        logger.log_scalars(2, {{"a": 2.0}})
        logger.log_scalars(3, {{"a": 3.0}})
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, unlimited[1]))
        logger.flush()
        assert logger.path.stat().st_size == size, "all or nothing"
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        logger.close()
        print([record["step"] for record in read_metrics(logger.path)])
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "[1, 2, 3]\n", result.stderr
    assert "logs cannot be written (File too large); training on" in result.stderr
