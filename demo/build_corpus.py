"""Build the demo's raw corpus from the documentation that ships with Python.

Each page is one record in the shape of Wikimedia's Structured Contents, so that the cleaner has
its real work to do: a page for every help() topic, every standard-library module (its docstring,
then a section per documented class and function, with the source code) and every text file that
lies among them. The modules are parsed, never imported. The same Python gives the same bytes.
"""

import ast
import importlib
import json
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain, dropwhile, starmap
from pathlib import Path, PurePath

from demo import DEMO_CONFIG_PATH
from demo.prose import paragraphs, titled_sections
from utils.cli import config_from, run_script, script_parser
from utils.errors import DataError
from utils.files import atomic_write, format_bytes, sole_writer
from utils.terminal import Progress, say

FILE_NAME = "python_docs_{number}.jsonl"
FILES = 4

# Not documentation: tests, other people's packages, data tables, and what differs by machine.
SKIPPED_FOLDERS = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "encodings",
        "idle_test",
        "lib-dynload",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
    }
)
SKIPPED_PREFIXES = ("_sysconfigdata", "config-", "sitecustomize", "usercustomize")
TEXT_SUFFIXES = (".txt", ".rst")

Part = dict[str, object]
Record = dict[str, object]
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def main(arguments: Sequence[str]) -> None:
    parser = script_parser(__doc__.partition("\n")[0])
    parser.set_defaults(config=DEMO_CONFIG_PATH)
    config = config_from(parser.parse_args(arguments))
    raw_dir = config.paths.raw_dir
    refuse_foreign_files(raw_dir)
    with sole_writer(raw_dir, "writing"):
        pages = list(all_pages(Path(sysconfig.get_path("stdlib"))))
        written_bytes = write_pages(raw_dir, pages)
    say(f"{len(pages):,} pages, {format_bytes(written_bytes)} in {FILES} files: {raw_dir}")


def refuse_foreign_files(raw_dir: Path) -> None:
    """Raise DataError if the folder holds files that this script did not write."""
    own = {FILE_NAME.format(number=number) for number in range(FILES)}
    files = raw_dir.iterdir() if raw_dir.is_dir() else ()
    foreign = sorted(path.name for path in files if path.name[0] != "." and path.name not in own)
    if foreign:
        raise DataError(
            f"{raw_dir}: holds other files, such as {foreign[0]}",
            "Give the demo a folder of its own: paths.raw_dir in its configuration.",
        )


def all_pages(stdlib: Path) -> Iterator[Record]:
    """Every page in a fixed order: topics by label, then modules and text files by path."""
    labels = {text: label for label, text in read_topics().items()}  # some texts have two
    topics = sorted((label, text) for text, label in labels.items())
    files = documented_files(stdlib)
    pages = chain(starmap(topic_page, topics), (file_page(stdlib, path) for path in files))
    with Progress("reading Python's documentation", len(topics) + len(files), "pages") as progress:
        for page in pages:
            progress.advance()
            if page is not None:
                yield page


def read_topics() -> dict[str, str]:
    """The help() topics: reStructuredText by label."""
    try:
        module = importlib.import_module("pydoc_data.topics")
    except ImportError:
        raise DataError(
            "this Python comes without its help() topics (module pydoc_data.topics)",
            "On Debian and Ubuntu they are in the package libpython3-stdlib"
            " (libpython3.X-stdlib for python3.X); a Python from python.org has them.",
        ) from None
    topics: dict[str, str] = module.topics
    return topics


def documented_files(stdlib: Path) -> list[Path]:
    """Modules and text files of the standard library, in the order of their paths."""
    files = [path for path in stdlib.rglob("*") if is_documented(path.relative_to(stdlib))]
    modules = sum(path.suffix == ".py" for path in files)
    if modules < 100:
        raise DataError(
            f"{stdlib}: only {modules} modules of the standard library lie here as .py files",
            "This Python ships without its sources; use one from python.org or your system.",
        )
    return sorted(files, key=lambda path: path.relative_to(stdlib).as_posix())


def is_documented(path: PurePath) -> bool:
    """Whether a path inside the standard library is a module or a text for people."""
    if any(part in SKIPPED_FOLDERS or part.startswith(SKIPPED_PREFIXES) for part in path.parts):
        return False
    is_text = path.suffix in TEXT_SUFFIXES and not path.stem.endswith("Grammar")
    return path.suffix == ".py" or is_text or path.name == "README"


def file_page(stdlib: Path, path: Path) -> Record | None:
    """The page of a module or text file, or None if it documents nothing."""
    name = path.relative_to(stdlib)
    if path.suffix == ".py":
        return module_page(module_name(name), path)
    text = path.read_text(encoding="utf-8", errors="replace")
    return page(" ".join(name.with_suffix("").parts), titled_sections(text, first="Abstract"))


def topic_page(label: str, text: str) -> Record | None:
    """The page of one help() topic, whose text begins with its underlined title."""
    sections = titled_sections(text, first="Abstract")
    if len(sections) == 1:
        return page(label, sections)
    (abstract, before), (title, lead), *rest = sections
    return page(title, [(abstract, before + lead), *rest])


def module_name(path: PurePath) -> str:
    """The dotted name of a module: "asyncio/__init__.py" is "asyncio"."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_page(name: str, path: Path) -> Record | None:
    """The module's docstring as the lead, then its documented classes and functions."""
    with tokenize.open(path) as file:  # honours the coding line
        source = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes in other people's string literals
        tree = ast.parse(source, filename=str(path))
    lead = paragraphs(ast.get_docstring(tree) or "")
    sections = list(definition_sections(tree.body, source.splitlines(), prefix=""))
    return page(name, [("Abstract", lead)], sections)


def definition_sections(body: list[ast.stmt], lines: list[str], prefix: str) -> Iterator[Part]:
    """A section for each documented definition; a class holds those of its methods."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            methods = list(definition_sections(node.body, lines, prefix=f"{prefix}{node.name}."))
            docstring = ast.get_docstring(node)
            if docstring or methods:
                values = [code(lines, node, node.body[0].lineno - 1), *paragraphs(docstring or "")]
                yield section(f"class {prefix}{node.name}", values, methods)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
            docstring := ast.get_docstring(node)
        ):
            values = [*paragraphs(docstring), code(lines, node, node.end_lineno)]
            yield section(f"{prefix}{node.name}()", values)


def code(lines: list[str], node: Definition, end: int | None) -> str:
    """The source of a definition up to line `end` (1-based, included), without its docstring."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    end = max(end or 0, node.lineno)
    kept = lines[first - 1 : end]
    docstring = node.body[0]
    if ast.get_docstring(node) and docstring.lineno > node.lineno:
        body = dropwhile(lambda line: not line.strip(), lines[docstring.end_lineno : end])
        kept = [*lines[first - 1 : docstring.lineno - 1], *body]
    return textwrap.dedent("\n".join(kept)).strip("\n")


def section(name: str, values: Sequence[str], sections: Sequence[Part] = ()) -> Part:
    parts = [{"type": "paragraph", "value": value} for value in values]
    return {"type": "section", "name": name, "has_parts": [*parts, *sections]}


def page(
    name: str, sections: Sequence[tuple[str, list[str]]], more: Sequence[Part] = ()
) -> Record | None:
    """A record of titled paragraphs, the lead first; None if there are none at all."""
    if not more and not any(values for _, values in sections):
        return None
    lead = sections[0][1]
    return {
        "name": name,
        "abstract": lead[0] if lead else "",
        "sections": [*(section(title, values) for title, values in sections), *more],
    }


def write_pages(raw_dir: Path, pages: Sequence[Record]) -> int:
    """Deal the pages out to the files, one JSON object per line; returns the bytes written."""
    written_bytes = 0
    for number in range(FILES):
        with atomic_write(raw_dir / FILE_NAME.format(number=number)) as file:
            for identifier in range(number, len(pages), FILES):
                record = {"identifier": identifier, **pages[identifier]}
                line = json.dumps(record, ensure_ascii=False) + "\n"
                written_bytes += file.write(line.encode("utf-8", errors="replace"))
    return written_bytes


if __name__ == "__main__":
    run_script(main)
