"""utils/config.py: what loads, what is refused, and in which words."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from utils.cli import config_from, script_parser
from utils.config import Config, all_keys
from utils.config_docs import (
    README_PATH,
    SCHEMA_PATH,
    TABLE_BEGIN,
    TABLE_END,
    default_config_text,
    schema_text,
    with_table,
)
from utils.config_file import DEFAULT_CONFIG_PATH, load_config, nearest_key, parse_config
from utils.errors import ConfigError

# The configuration of the user's specification, without its comments.
SPEC_CONFIG = """
{
  "model": {
    "vocab_size": 32016,
    "hidden_size": 512,
    "num_layers": 32,
    "num_heads": 16,
    "max_position_embeddings": 512,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "layer_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "use_cache": true
  },
  "tokenizer": {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "unk_token_id": 0,
    "pad_token_id": 2
  },
  "paths": {
    "tokenizer_dir": "tokenizers/codellama_tokenizer",
    "dataset_dir": "/home/andrea/Desktop/data/tokenized_datasets/codellama_full_dataset"
  }
}
"""

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a configuration file and return its path."""

    def write_text(text: str | bytes) -> Path:
        path = tmp_path / "config.json"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_text


def problem(write: Write, values: Any, overrides: dict[str, object] | None = None) -> str:
    """The whole message with which `values` are refused."""
    text = values if isinstance(values, str | bytes) else json.dumps(values)
    with pytest.raises(ConfigError) as caught:
        load_config(write(text), overrides)
    return str(caught.value)


def test_spec_config_loads_unchanged(write: Write) -> None:
    config = load_config(write(SPEC_CONFIG))
    spec = json.loads(SPEC_CONFIG)
    for section in ("model", "tokenizer"):
        loaded = getattr(config, section).model_dump()
        assert {key: loaded[key] for key in spec[section]} == spec[section]
    dataset = Path("/home/andrea/Desktop/data/tokenized_datasets/codellama_full_dataset")
    assert config.paths.dataset_dir == dataset.resolve()


def test_shipped_config_lists_every_key_at_its_default() -> None:
    text = DEFAULT_CONFIG_PATH.read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(default_config_text())
    shipped = json.loads(text)
    assert next(iter(shipped)) == "$schema"
    listed = [f"{name}.{key}" for name, part in shipped.items() if name[0] != "$" for key in part]
    assert listed == all_keys()
    assert load_config() == parse_config({}, "defaults", DEFAULT_CONFIG_PATH.parent)


def test_schema_is_current() -> None:
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text(), "run `make docs`"


def test_schema_describes_every_key_and_allows_itself() -> None:
    schema = json.loads(schema_text())
    assert schema["properties"]["$schema"] == {"type": "string"}
    assert schema["additionalProperties"] is False
    for dotted in all_keys():
        section, key = dotted.split(".")
        reference = schema["properties"][section]["$ref"].rpartition("/")[2]
        entry = schema["$defs"][reference]["properties"][key]
        assert entry["description"].endswith("."), dotted
        assert "default" in entry, dotted


def test_readme_table_is_current() -> None:
    readme = README_PATH.read_text(encoding="utf-8")
    assert with_table(readme) == readme, "run `make docs`"
    for dotted in all_keys():
        assert f"| `{dotted.partition('.')[2]}` |" in readme


def test_readme_without_markers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no place for the configuration table") as caught:
        with_table(f"# A title\n{TABLE_BEGIN}\n")
    assert TABLE_END in caught.value.hint


def test_table_keeps_the_text_around_it() -> None:
    readme = with_table(f"before\n{TABLE_BEGIN}\nold\n{TABLE_END}\nafter\n")
    assert readme.startswith("before\n")
    assert readme.endswith(f"{TABLE_END}\nafter\n")
    assert "\nold\n" not in readme
    assert with_table(readme) == readme
    assert "(&lt;s&gt;)" in readme  # a bare <s> would strike the rest through


@pytest.mark.parametrize("text", ["{}", '{"paths": {}}', '{"$schema": "./config.schema.json"}'])
def test_relative_paths_are_relative_to_the_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = write(text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    paths = load_config(path).paths
    assert paths.log_dir == tmp_path / "logs"
    assert paths.raw_dir == tmp_path.parent / "data" / "raw" / "enwiki_namespace_0"
    assert load_config(Path("..") / path.name).paths == paths


def test_home_folder_in_a_path(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    config = load_config(write('{"paths": {"raw_dir": "~/dumps"}}'))
    assert config.paths.raw_dir == Path("/somewhere/dumps")


def test_overridden_paths_are_relative_to_the_file_too(write: Write, tmp_path: Path) -> None:
    config = load_config(write("{}"), {"paths.raw_dir": "here"})
    assert config.paths.raw_dir == tmp_path / "here"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("codellama/CodeLlama-7b-hf", "codellama/CodeLlama-7b-hf"),
        ("./files", "{base}/files"),
        ("../files", "{parent}/files"),
        ("/files", "/files"),
    ],
)
def test_tokenizer_source(write: Write, tmp_path: Path, source: str, expected: str) -> None:
    config = load_config(write(json.dumps({"tokenizer": {"source": source}})))
    assert config.tokenizer.source == expected.format(base=tmp_path, parent=tmp_path.parent)


def test_config_is_frozen() -> None:
    config = load_config()
    with pytest.raises(ValidationError, match="frozen"):
        config.model.dropout = 0.5  # type: ignore[misc]


def test_all_problems_are_reported_at_once(write: Write) -> None:
    message = problem(
        write,
        {
            "model": {"hidden_size": 0, "dropout": 1.5},
            "training": {"batchsize": 8, "epochs": "three"},
            "nonsense": {},
        },
        {"dataloader.val_split": 0},
    )
    assert "has 6 problems" in message
    for line in (
        "  - model.hidden_size: input should be greater than 0, but is 0",
        "  - model.dropout: input should be less than 1, but is 1.5",
        "  - training.batchsize: unknown key. Did you mean training.batch_size?",
        '  - training.epochs: input should be a valid integer, but is "three"',
        "  - nonsense: unknown key.",
        "  - dataloader.val_split: input should be greater than 0, but is 0",
    ):
        assert line in message.splitlines()
    assert "config.schema.json" in message


def test_one_problem_is_singular_and_names_the_file(write: Write, tmp_path: Path) -> None:
    message = problem(write, {"model": {"num_layers": 1.5}})
    assert message.startswith(f"{tmp_path / 'config.json'} has 1 problem:\n")


@pytest.mark.parametrize(
    ("dotted", "nearest"),
    [
        ("training.batchsize", "training.batch_size"),
        ("training.lr_warmup_steps", "training.warmup_steps"),
        ("model.hidden", "model.hidden_size"),
        ("model.batch_size", "training.batch_size"),  # the right key in the wrong section
        ("trainig.batch_size", "training.batch_size"),
        ("tokeniser", "tokenizer"),
        ("batch_size", "training.batch_size"),
    ],
)
def test_nearest_key(dotted: str, nearest: str) -> None:
    assert nearest_key(dotted) == f"Did you mean {nearest}?"


def test_no_key_is_near_nonsense() -> None:
    assert nearest_key("zzzz.qqqq") == ""


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("model", {"hidden_size": 510}, "hidden_size (510) must be a multiple of num_heads (16)"),
        ("model", {"vocab_size": 65_537}, "less than or equal to 65536, but is 65537"),
        ("model", {"use_cache": 1}, "model.use_cache: input should be a valid boolean, but is 1"),
        ("model", {"num_layers": True}, "valid integer, but is true"),
        ("model", {"num_layers": "8"}, 'valid integer, but is "8"'),
        ("dataset_prep", {"window": 8, "stride": 9}, "stride (9) must not exceed window (8)"),
        ("training", {"learning_rate": 1e-6}, "min_learning_rate (6e-05) must not exceed"),
        ("training", {"precision": "fp8"}, "input should be 'bf16' or 'fp32', but is \"fp8\""),
        ("training", {"learning_rate": float("nan")}, "input should be a finite number"),
        ("training", {"learning_rate": float("inf")}, "finite number, but is Infinity"),
        ("tokenizer", {"eos_token_id": 32_016}, "must be below model.vocab_size (32016)"),
        ("generation", {"top_p": 0}, "generation.top_p: input should be greater than 0, but is 0"),
        ("paths", {"raw_dir": "~no_such_user/x"}, "paths.raw_dir: Could not determine home"),
        ("paths", {"raw_dir": "a\0b"}, "paths.raw_dir: embedded null byte"),
        ("paths", {"raw_dir": 7}, "paths.raw_dir: must be a path, but is 7"),
    ],
)
def test_values_are_refused_in_words(
    write: Write, section: str, values: dict[str, object], words: str
) -> None:
    assert words in problem(write, {section: values})


def test_a_section_that_is_no_object(write: Write) -> None:
    message = problem(write, {"model": 5}, {"model.dropout": 0.2})
    assert "  - model: must be a JSON object, but is 5" in message


def test_a_long_value_is_shortened(write: Write) -> None:
    message = problem(write, {"model": {"num_layers": "x" * 500}})
    assert max(map(len, message.splitlines())) < 140
    assert "xxx..." in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"model": {},}', "not valid JSON at line 1, column "),
        ('{\n  "model": {} // shape\n}', "not valid JSON at line 2, column 15"),
        ("", "not valid JSON at line 1, column 1"),
        (b'{"model": "\xff"}', "not UTF-8 text (byte 11)"),
        ("[]", "must hold a JSON object, not a list"),
        ('"text"', "must hold a JSON object, not a string"),
        ("null", "must hold a JSON object, not null"),
        ("7", "must hold a JSON object, not a number"),
        ("true", "must hold a JSON object, not a boolean"),
        ('{"model": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"model": {"dropout": 0, "dropout": 1}}', "the key dropout stands twice"),
        ('{"model": {}, "paths": {}, "model": {}}', "the key model stands twice"),
    ],
)
def test_a_file_that_is_no_configuration(write: Write, text: str | bytes, words: str) -> None:
    message = problem(write, text)
    assert words in message
    assert "config.json: " in message


def test_no_comments_in_json_is_said(write: Write) -> None:
    assert "JSON has no comments" in problem(write, "{ // }")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file") as caught:
        load_config(tmp_path / "absent.json")
    assert "--config PATH" in caught.value.hint


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_settings_in_memory_are_checked_by_name(tmp_path: Path) -> None:
    words = re.escape("checkpoint_best.pt has 1 problem")
    with pytest.raises(ConfigError, match=words):
        parse_config({"model": {"widht": 1}}, "checkpoint_best.pt", tmp_path)


def test_stride_is_half_a_window_unless_given(write: Write) -> None:
    assert load_config(write("{}"), {"dataset_prep.window": 100}).dataset_prep.stride_tokens == 50
    given = {"dataset_prep.window": 100, "dataset_prep.stride": 100}
    assert load_config(write("{}"), given).dataset_prep.stride_tokens == 100


def settings(*arguments: str) -> Config:
    """The configuration that a script gets from these arguments."""
    return config_from(script_parser("test").parse_args(arguments))


def test_set_takes_json_and_plain_words() -> None:
    config = settings(
        "--set=training.batch_size=8",
        "--set=model.use_cache=false",
        "--set",
        "training.max_steps=null",
        "--set=training.precision=fp32",
        '--set=training.sample_prompts=["a=b", "c"]',
        "--set=tokenizer.source=some/name",
    )
    assert config.training.batch_size == 8
    assert config.model.use_cache is False
    assert config.training.max_steps is None
    assert config.training.precision == "fp32"
    assert config.training.sample_prompts == ["a=b", "c"]
    assert config.tokenizer.source == "some/name"


def test_the_last_setting_wins_and_flags_win_over_settings() -> None:
    parser = script_parser("test")
    args = parser.parse_args(["--set=dataset_prep.window=8", "--set=dataset_prep.window=16"])
    assert config_from(args).dataset_prep.window == 16
    assert config_from(args, {"dataset_prep.window": 32}).dataset_prep.window == 32
    assert config_from(args, {"dataset_prep.window": None}).dataset_prep.window == 16


@pytest.mark.parametrize("text", ["training.batch_size", "batch_size=8", "=8", ""])
def test_a_setting_of_another_form_is_wrong_usage(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        script_parser("test").parse_args(["--set", text])
    assert caught.value.code == 2
    assert f"{text!r} is not of the form section.key=value" in capsys.readouterr().err


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean training\.batch_size\?"):
        settings("--set=training.batchsize=8")


def test_an_override_without_a_section(write: Write) -> None:
    message = problem(write, "{}", {"dropout": 0.5})
    assert "'dropout' is not a key of the form section.key" in message
    assert "Did you mean model.dropout?" in message


def test_parser_takes_a_config_path() -> None:
    args = script_parser("test").parse_args([])
    assert isinstance(args, argparse.Namespace)
    assert args.config == DEFAULT_CONFIG_PATH
