"""demo/: the corpus from Python's documentation, the loss plot, and how the phases are run."""

import ast
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo import DEMO_CONFIG_PATH, build_corpus, plot_loss, run
from demo.prose import paragraphs, titled_sections
from demo.run import PROMPTS
from tests.conftest import REPOSITORY
from utils.cli import config_from, script_parser
from utils.errors import DataError, Interrupted
from utils.logging_utils import metrics_path
from utils.metrics import TRAIN_LOSS, VALIDATION_LOSS

Record = dict[str, Any]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus of the running Python."""
    folder = tmp_path_factory.mktemp("demo") / "raw"
    build_corpus.main([f"--set=paths.raw_dir={folder}"])
    return folder


@pytest.fixture(scope="module")
def records(corpus: Path) -> dict[str, Record]:
    found = {}
    for path in sorted(corpus.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            record = json.loads(line)
            found[record["name"]] = record
    return found


def all_values(part: Record) -> Iterator[str]:
    """Every paragraph of a record, in order."""
    for child in [*part.get("sections", ()), *part.get("has_parts", ())]:
        if child["type"] == "paragraph":
            yield child["value"]
        yield from all_values(child)


def test_corpus_is_megabytes_in_several_files(corpus: Path) -> None:
    sizes = [path.stat().st_size for path in corpus.glob("*.jsonl")]
    assert len(sizes) == build_corpus.FILES
    assert sum(sizes) > 4_000_000
    assert min(sizes) > sum(sizes) / 10


def test_records_have_the_shape_of_structured_contents(records: dict[str, Record]) -> None:
    identifiers = [record["identifier"] for record in records.values()]
    assert sorted(identifiers) == list(range(len(identifiers)))
    for record in records.values():
        assert set(record) == {"name", "identifier", "abstract", "sections"}
        assert record["sections"][0]["name"] == "Abstract"
        assert {section["type"] for section in record["sections"]} == {"section"}
        assert all(value.strip() for value in all_values(record))


def test_corpus_holds_topics_docstrings_and_code(records: dict[str, Record]) -> None:
    assert "statement is used for conditional execution" in " ".join(
        all_values(records['The "if" statement'])
    )
    textwrap_values = list(all_values(records["textwrap"]))
    assert textwrap_values[0] == "Text wrapping and filling."
    source = next(value for value in textwrap_values if value.startswith("def dedent("))
    assert source.splitlines()[1].strip(), "no gap is left where the docstring was"
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert ast.get_docstring(function) is None  # it stands before, as prose
    assert any(value.startswith("class TextWrapper") for value in textwrap_values)
    assert "asyncio.base_events" in records
    assert not [name for name in records if name.startswith(("test.", "idlelib.idle_test"))]


def test_the_same_python_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    """A process of its own, with another hash seed and another working folder."""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(REPOSITORY)}
    again = tmp_path / "again"
    subprocess.run(
        [sys.executable, "-m", "demo.build_corpus", f"--set=paths.raw_dir={again}"],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    for path in corpus.glob("*.jsonl"):
        first, second = (hashlib.sha256(p.read_bytes()) for p in (path, again / path.name))
        assert first.digest() == second.digest()


def test_a_rebuild_into_its_own_folder_is_fine(corpus: Path) -> None:
    build_corpus.refuse_foreign_files(corpus)


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "enwiki_namespace_0_0.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"holds other files, such as enwiki.*\.jsonl") as caught:
        build_corpus.main([f"--set=paths.raw_dir={tmp_path}"])
    assert "paths.raw_dir" in caught.value.hint


def test_a_python_without_topics_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="without its help") as caught:
        build_corpus.read_topics()
    assert "libpython3" in caught.value.hint


def test_a_python_without_sources_is_refused(tmp_path: Path) -> None:
    (tmp_path / "os.pyc").write_bytes(b"")
    with pytest.raises(DataError, match="only 0 modules of the standard library"):
        build_corpus.documented_files(tmp_path)


def test_modules_are_read_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""Words."""\nraise SystemExit\n', encoding="utf-8")
    page = build_corpus.module_page("module", path)
    assert page is not None
    assert page["abstract"] == "Words."


def test_a_topic_without_a_title_has_its_label() -> None:
    page = build_corpus.topic_page("label", "Words without\na heading.\n")
    assert page is not None
    assert (page["name"], page["abstract"]) == ("label", "Words without a heading.")


def test_a_module_without_documentation_is_no_page(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("def f():\n    return 1\n", encoding="utf-8")
    assert build_corpus.module_page("module", path) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("One\ntwo.\n\nThree.", ["One two.", "Three."]),
        ("So:\n\n    if x:\n\n        y()\n\nEnd.", ["So:", "if x:\n\n    y()", "End."]),
        (">>> 1 + 1\n2", [">>> 1 + 1\n2"]),
        ("* one\n  more\n* two", ["* one more", "* two"]),
        ("1. one\n2. two", ["1. one", "2. two"]),
        ("name   meaning\na      b", ["name   meaning\na      b"]),
        ("f(x)\n\n   Return a copy of\n   the string.", ["f(x)", "Return a copy of the string."]),
        ("\n\n   \n\n", []),
    ],
)
def test_paragraphs(text: str, expected: list[str]) -> None:
    assert paragraphs(text) == expected


def test_titled_sections() -> None:
    text = "Before.\n\nTitle\n*****\n\nOne\ntwo.\n\nNext one\n========\nThree.\n"
    assert titled_sections(text, first="Lead") == [
        ("Lead", ["Before."]),
        ("Title", ["One two."]),
        ("Next one", ["Three."]),
    ]
    assert titled_sections("No heading.", first="Lead") == [("Lead", ["No heading."])]


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """The metrics of a short run."""
    path = tmp_path / "run_x" / "metrics.jsonl"
    path.parent.mkdir()
    lines = [{"step": 0, VALIDATION_LOSS: 8.3}]
    lines += [{"step": step, TRAIN_LOSS: 8 / step} for step in range(1, 50)]
    lines += [{"step": 49, VALIDATION_LOSS: 1.5}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_plot_is_an_image_with_both_curves(metrics: Path) -> None:
    path = plot_loss.plot(metrics)
    assert path.parent == metrics.parent
    with Image.open(path) as image:
        assert image.format == "PNG"
        colours = {pixel for _, pixel in image.convert("RGB").getcolors(1 << 24) or []}
    for colour in (plot_loss.TRAIN_COLOUR, plot_loss.VALIDATION_COLOUR):
        assert tuple(bytes.fromhex(colour.removeprefix("#"))) in colours


def test_a_run_without_points_cannot_be_plotted(metrics: Path, tmp_path: Path) -> None:
    metrics.write_text('{"step": 0, "other": 1}\n')
    with pytest.raises(DataError, match="no train/loss was logged"):
        plot_loss.plot(metrics)
    with pytest.raises(DataError, match="no such run's metrics"):
        plot_loss.plot(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="holds no training run"):
        plot_loss.newest_run_name(tmp_path)


def test_values_that_are_not_finite_are_not_plotted(metrics: Path) -> None:
    odd = ["nan", "inf", "-inf", None, 4.5]
    with metrics.open("a", encoding="utf-8") as file:
        for loss in odd:
            file.write(json.dumps({"step": 60, TRAIN_LOSS: loss, VALIDATION_LOSS: loss}) + "\n")
    assert plot_loss.read_curve(metrics, VALIDATION_LOSS) == [(0, 8.3), (49, 1.5), (60, 4.5)]
    assert len(plot_loss.read_curve(metrics, TRAIN_LOSS)) == 50
    plot_loss.plot(metrics)
    metrics.write_text(json.dumps({"step": 0, TRAIN_LOSS: "nan"}) + "\n")
    with pytest.raises(DataError, match="no train/loss was logged that is finite"):
        plot_loss.read_curve(metrics, TRAIN_LOSS)


def test_the_end_of_the_demo_is_of_numbers_and_sends_to_a_section_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "newest_run_name", lambda checkpoint_dir: "run_x")
    args = script_parser("").parse_args([f"--set=paths.log_dir={tmp_path}"])
    config = config_from(args)
    path = metrics_path(config.paths.log_dir, "run_x")
    path.parent.mkdir(parents=True)
    losses = ["nan", 8.0, 2.0, "inf"]
    lines = [json.dumps({"step": step, VALIDATION_LOSS: loss}) for step, loss in enumerate(losses)]
    path.write_text("\n".join(lines) + "\n")
    run.summarise(config, args, 60.0)
    said = capsys.readouterr().err
    assert "8.00 at the start, 2.00 at the end" in said
    (section,) = re.findall(r"README\.md, '(.*?)'", said)
    assert f"## {section}\n" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_every_phase_is_a_script_that_exists() -> None:
    for phase in run.phases_for("cpu"):
        if phase.command[0] == "-m":
            assert importlib.util.find_spec(phase.command[1]) is not None
        else:
            assert (REPOSITORY / phase.command[0]).is_file()


def test_a_failing_phase_ends_the_demo_with_its_exit_code(
    capfd: pytest.CaptureFixture[str],
) -> None:
    phase = run.Phase("Fail", ("-c", "raise SystemExit(7)"))
    with pytest.raises(run.PhaseError, match="'Fail' ended with exit code 7") as caught:
        run.run_phase(phase, ["--config", "x y.json"])
    assert caught.value.exit_code == 7
    shown = "-c 'raise SystemExit(7)' --config 'x y.json'"
    assert shown in caught.value.hint
    assert shown in capfd.readouterr().err


@pytest.mark.parametrize("exit_code", [130, 143])
def test_an_interrupted_phase_is_no_error(exit_code: int) -> None:
    phase = run.Phase("Stop", ("-c", f"raise SystemExit({exit_code})"))
    with pytest.raises(
        Interrupted, match="'Stop' was interrupted\n  What it saved is kept"
    ) as caught:
        run.run_phase(phase, [])
    assert caught.value.exit_code == exit_code


def test_a_phase_killed_by_a_signal() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run.run([sys.executable, "-c", code]) == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_phase_save_first(tmp_path: Path, number: signal.Signals) -> None:
    """As a terminal does, Ctrl-C reaches both processes; SIGTERM only the demo."""
    saved = tmp_path / "saved"
    phase = (
        "import pathlib, signal, sys, time\n"
        "def save(number, frame):\n"
        "    time.sleep(0.5)\n"
        f"    pathlib.Path({str(saved)!r}).touch()\n"
        "    sys.exit(128 + number)\n"
        "signal.signal(signal.SIGTERM, save); signal.signal(signal.SIGINT, save)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    demo = f"import sys\nfrom demo.run import run\nsys.exit(run([sys.executable, '-c', {phase!r}]))"
    process = subprocess.Popen(
        [sys.executable, "-c", demo],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert saved.exists()
    process.stdout.close()


def test_settings_reach_every_phase(tmp_path: Path) -> None:
    parser = script_parser("")
    args = parser.parse_args(["--config", str(tmp_path / "c.json"), "--set=training.epochs=2"])
    options = run.shared_options(args)
    assert options[0] == "--config"
    assert (REPOSITORY / options[1]).resolve() == tmp_path / "c.json"
    assert options[2:] == ["--set=training.epochs=2"]


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path) -> None:
    """Every phase on the whole corpus, in a folder of its own, with fewer steps; the loss falls."""
    values = json.loads(DEMO_CONFIG_PATH.read_text())
    config = tmp_path / "config.json"
    del values["$schema"]
    config.write_text(json.dumps(values))
    command = [sys.executable, "-m", "demo.run", "--config", str(config)]
    command += ["--set", "training.max_steps=150"]
    for _ in range(2):  # the second time finished phases are skipped, and a new run is trained
        result = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        found = re.search(r"validation loss  ([0-9.]+) at the start, ([0-9.]+) at", result.stderr)
        assert found
        assert float(found[2]) < float(found[1]) - 1
        assert all(prompt in result.stdout for prompt in PROMPTS)
    assert "4 of 4 files are finished already" in result.stderr
    assert len(list((tmp_path / "work" / "checkpoints").iterdir())) == 2
