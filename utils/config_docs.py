"""What is generated from the configuration models: config.schema.json and README's table.

`make docs` writes both; tests hold that they, and config.json, are current.
"""

import html
import json
from collections.abc import Iterator, Sequence
from typing import Any

from utils.cli import run_script, script_parser
from utils.config import Config
from utils.config_file import DEFAULT_CONFIG_PATH
from utils.errors import ConfigError
from utils.files import atomic_write
from utils.terminal import say

SCHEMA_NAME = "config.schema.json"
SCHEMA_PATH = DEFAULT_CONFIG_PATH.with_name(SCHEMA_NAME)
README_PATH = DEFAULT_CONFIG_PATH.with_name("README.md")
TABLE_BEGIN = "<!-- config table begins: written by `make docs` -->"
TABLE_END = "<!-- config table ends -->"

Schema = dict[str, Any]


def main(arguments: Sequence[str]) -> None:
    script_parser("Write config.schema.json and README's table of every key.").parse_args(arguments)
    readme = README_PATH.read_text(encoding="utf-8") if README_PATH.exists() else ""
    readme = with_table(readme or f"{TABLE_BEGIN}\n{TABLE_END}\n")
    for path, text in ((SCHEMA_PATH, schema_text()), (README_PATH, readme)):
        with atomic_write(path) as file:
            file.write(text.encode())
        say(f"wrote {path.name}")


def default_config_text() -> str:
    """config.json with every key at its default."""
    values: dict[str, Any] = {"$schema": f"./{SCHEMA_NAME}"}
    for name, section in _sections(_schema()):
        values[name] = {key: key_schema["default"] for key, key_schema in _keys(section)}
    return _to_text(values)


def schema_text() -> str:
    """A JSON Schema for editors: every key with its type, limits, default and meaning."""
    schema = _schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"] = {"$schema": {"type": "string"}, **schema["properties"]}
    return _to_text(schema)


def table_text() -> str:
    """The Markdown tables of every key, one per section."""
    lines = []
    for name, section in _sections(_schema()):
        lines += [f"**`{name}`**: {section['description']}", ""]
        lines += ["| key | default | allowed | meaning |", "|---|---|---|---|"]
        for key, schema in _keys(section):
            default = json.dumps(schema["default"], ensure_ascii=False)
            meaning = html.escape(schema["description"], quote=False)
            cells = (f"`{key}`", f"`{default}`", _allowed(schema), meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """README's text with a current table between the markers; ConfigError if they are missing."""
    before, begin, rest = readme.partition(TABLE_BEGIN)
    _, end, after = rest.partition(TABLE_END)
    if not begin or not end:
        raise ConfigError(
            f"{README_PATH}: has no place for the configuration table",
            f"Put the lines {TABLE_BEGIN} and {TABLE_END} where it belongs.",
        )
    return f"{before}{begin}\n\n{table_text()}\n{end}{after}"


def _schema() -> Schema:
    return Config.model_json_schema()


def _sections(schema: Schema) -> Iterator[tuple[str, Schema]]:
    for name, reference in schema["properties"].items():
        yield name, schema["$defs"][reference["$ref"].rpartition("/")[2]]


def _keys(section: Schema) -> Iterator[tuple[str, Schema]]:
    yield from section["properties"].items()


def _allowed(schema: Schema) -> str:
    """The values a key takes, in a few words: "integer > 0 or null"."""
    if "anyOf" in schema:
        return " or ".join(_allowed(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("format") == "path":
        return "path"
    if schema["type"] == "array":
        return f"list of {_allowed(schema['items'])}s"
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {schema[key]:.15g}" for key, sign in signs.items() if key in schema]
    return " ".join([schema["type"], ", ".join(limits)]).strip()


def _to_text(values: object) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    run_script(main)
