"""The only reader of configuration files.

A file is refused with all its problems at once; unknown keys name the nearest known one. Relative
paths are relative to the configuration file.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from utils.config import Config, all_keys
from utils.errors import ConfigError

DEFAULT_CONFIG_PATH = Path(__file__).resolve().parent.parent / "config.json"
# Where pydantic's own words speak of Python.
_WORDS = {"path_type": "must be a path", "model_type": "must be a JSON object"}


def load_config(
    path: str | Path | None = None, overrides: Mapping[str, object] | None = None
) -> Config:
    """Read and check `path` (default: the config.json beside the scripts).

    `overrides` maps dotted keys, "training.batch_size", to values that replace the file's;
    they are checked like the file. Raises ConfigError naming every problem of both.
    """
    path = Path(path or DEFAULT_CONFIG_PATH)
    values = _read_json_object(path)
    values.pop("$schema", None)
    for dotted, value in (overrides or {}).items():
        _set_dotted(values, dotted, value)
    return parse_config(values, name=str(path), base=path.resolve().parent)


def override(config: Config, values: Mapping[str, object]) -> Config:
    """`config` with other values of some dotted keys, checked like a file's."""
    changed: dict[str, Any] = config.model_dump(mode="json")
    for dotted, value in values.items():
        _set_dotted(changed, dotted, value)
    return parse_config(changed, name="the given settings", base=Path.cwd())


def parse_config(values: Mapping[str, Any], name: str, base: Path) -> Config:
    """Check settings that are already in memory, such as those stored in a checkpoint.

    `name` stands in error messages; relative paths are taken from `base`.
    """
    values = {"paths": {}, **values}  # a default section would not see `base`
    try:
        config = Config.model_validate(values, context={"base": base})
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors()]
        count = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        raise ConfigError(
            f"{name} has {count}:\n" + "\n".join(f"  - {problem}" for problem in problems),
            "README.md has a table of every key; config.schema.json lets an editor check as you"
            " type.",
        ) from None
    source = config.tokenizer.source
    if not source.startswith(("./", "../")):
        return config
    absolute = config.tokenizer.model_copy(update={"source": str((base / source).resolve())})
    return config.model_copy(update={"tokenizer": absolute})


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_no_duplicates)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such configuration file", "Give one with --config PATH."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}",
            "JSON has no comments and no comma after the last item.",
        ) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply to be a configuration") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.what}", error.hint) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a JSON object, not {_json_type(values)}")
    return values


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(f"the key {', '.join(twice)} stands twice", "Keep one of them.")
    return values


def _set_dotted(values: dict[str, Any], dotted: str, value: object) -> None:
    section, _, key = dotted.partition(".")
    if not key:
        raise ConfigError(f"{dotted!r} is not a key of the form section.key", nearest_key(dotted))
    part = values.setdefault(section, {})
    if isinstance(part, dict):  # otherwise validation reports the section itself
        values[section] = {**part, key: value}


def _describe(problem: Mapping[str, Any]) -> str:
    dotted = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{dotted}: unknown key. {nearest_key(dotted)}".rstrip()
    message = _WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    if problem["type"] == "value_error":
        return f"{dotted}: {message}" if dotted else message
    return f"{dotted}: {message[0].lower() + message[1:]}, but is {_shown(problem['input'])}"


def nearest_key(dotted: str) -> str:
    """A sentence that names the known key most like `dotted`, or nothing."""
    known = all_keys()
    section, _, key = dotted.rpartition(".")
    by_key = {name.rpartition(".")[2]: name for name in reversed(known)}
    same_section = [name for name in known if name.startswith(f"{section}.")]
    near = (
        ([by_key[key]] if key in by_key else [])
        or difflib.get_close_matches(dotted, same_section, n=1, cutoff=0.75)
        or [by_key[match] for match in difflib.get_close_matches(key, by_key, n=1, cutoff=0.75)]
        or difflib.get_close_matches(dotted, [*known, *Config.model_fields], n=1)
    )
    return f"Did you mean {near[0]}?" if near else ""


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _json_type(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
