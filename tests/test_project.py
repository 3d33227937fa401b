"""The project against itself: imports, dependencies, configuration keys, commands, constants."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY
from utils.config import Config, all_keys

SCRIPT_IMPORTS = {
    "cleaner": {"utils"},
    "tokenizer": {"utils"},
    "model": {"utils"},
    "dataset_prep": {"utils", "tokenizer"},
    "dataloader": {"utils"},
    "train": {"utils", "model", "tokenizer", "dataloader"},
    "Inference": {"utils", "tokenizer"},
    "export": {"utils", "tokenizer"},
    "evaluate": {"utils", "tokenizer", "dataloader"},
}
EXTRAS = {
    Path("utils/cleaning/inputs/parquet_files.py"): "parquet",
    Path("utils/exporting/gguf_file.py"): "export",
}  # files that need one to be imported
TOOLS = {"demo", "bench", "tests"}  # they may import anything of ours; nothing imports them


def git_files() -> list[Path]:
    """Every file that is tracked or would be, less those deleted but not yet committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        text=True,
    )
    if listed.returncode:
        pytest.skip("needs a git checkout")
    paths = (REPOSITORY / name for name in listed.stdout.split("\0") if name)
    return sorted(path for path in paths if path.is_file())


@cache
def python_files() -> dict[Path, ast.Module]:
    """Our own Python files, parsed; paths relative to the repository."""
    patterns = ["*.py", "utils/**/*.py", "demo/*.py", "bench/*.py", "tests/*.py"]
    paths = [path for pattern in patterns for path in sorted(REPOSITORY.glob(pattern))]
    return {
        path.relative_to(REPOSITORY): ast.parse(path.read_text(encoding="utf-8")) for path in paths
    }


def owner(path: Path) -> str:
    """The folder or root script that a file belongs to."""
    return path.parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> set[str]:
    """The top-level names of everything imported, in functions and by pytest too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            names.add(ast.literal_eval(node.args[0]).partition(".")[0])
    return names


def our_names() -> set[str]:
    return {owner(path) for path in python_files()}


def test_every_script_has_its_place() -> None:
    assert our_names() - TOOLS - {"utils"} <= set(SCRIPT_IMPORTS)


@pytest.mark.parametrize("path", [p for p in python_files() if owner(p) not in TOOLS], ids=str)
def test_imports_go_one_way(path: Path) -> None:
    ours = imported(python_files()[path]) & our_names()
    assert ours <= SCRIPT_IMPORTS.get(owner(path), {"utils"})


@cache
def pyproject() -> dict[str, dict[str, Requirement]]:
    """Declared requirements by name: "core", and each extra."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"core": project["dependencies"], **project["optional-dependencies"]}
    return {
        group: {canonicalize_name((r := Requirement(line)).name): r for line in lines}
        for group, lines in groups.items()
    }


@cache
def pins(name: str) -> dict[str, Requirement]:
    """The pinned requirements of a file and of those it includes, by name."""
    found: dict[str, Requirement] = {}
    for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines():
        if included := re.fullmatch(r"-r (\S+)", line):
            found |= pins(included[1])
        elif line and not line.startswith("#"):
            requirement = Requirement(line)
            assert canonicalize_name(requirement.name) not in found, f"{line} stands twice"
            found[canonicalize_name(requirement.name)] = requirement
    return found


@cache
def providers() -> dict[str, set[str]]:
    """The installed distributions that provide a module, by the module's top-level name."""
    installed = metadata.packages_distributions()
    return {module: set(map(canonicalize_name, names)) for module, names in installed.items()}


COMES_WITH_TORCH = {"triton"}  # with its builds for CUDA on Linux; asked for before it is used


@pytest.mark.parametrize("path", python_files(), ids=str)
def test_every_import_is_declared(path: Path) -> None:
    group = {"demo": "demo", "bench": "dev", "tests": "dev"}.get(
        owner(path), EXTRAS.get(path, "core")
    )
    declared = {*pyproject()["core"], *pyproject()[group]}
    elsewhere = {*our_names(), *sys.stdlib_module_names, *COMES_WITH_TORCH}
    for name in imported(python_files()[path]) - elsewhere:
        assert declared & providers().get(name, set()), f"{path} imports {name}"


def test_every_declared_package_is_imported() -> None:
    # These are commands, or plugins of one.
    commands = {"lm-eval", "mypy", "pytest-timeout", "pytest-xdist", "ruff", "tensorboard"}
    used = set().union(*map(imported, python_files().values()))
    imported_packages = set().union(*(providers().get(name, set()) for name in used))
    for group in pyproject().values():
        assert set(group) - commands <= imported_packages


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("core", "requirements.txt"),
        ("demo", "requirements-demo.txt"),
        ("dev", "requirements-dev.txt"),
    ],
)
def test_pins_are_exact_and_in_the_declared_ranges(group: str, name: str) -> None:
    pinned = pins(name)
    for requirement in pinned.values():
        assert [specifier.operator for specifier in requirement.specifier] == ["=="]
    for declared in pyproject()[group].values():
        pin = next(iter(pinned[canonicalize_name(declared.name)].specifier)).version
        assert declared.specifier.contains(pin), f"{declared} against {pin}"


def test_pins_are_complete() -> None:
    """What a pinned package needs is pinned too, on every system, at a version that it takes."""
    pinned = pins("requirements-dev.txt")
    systems = [
        {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": "x86_64"},
        {"platform_system": "Darwin", "sys_platform": "darwin", "platform_machine": "arm64"},
        {"platform_system": "Windows", "sys_platform": "win32", "platform_machine": "AMD64"},
    ]
    for name in pinned:
        try:
            needed = map(Requirement, metadata.requires(name) or [])
        except metadata.PackageNotFoundError:
            continue  # of another system
        for need in needed:
            if name == "torch" and re.match(r"nvidia-|cuda-|triton", need.name):
                continue  # torch itself pins what its GPU build needs
            for system in systems:
                for python in ("3.11", "3.12", "3.13"):
                    environment = {key: str(value) for key, value in default_environment().items()}
                    environment |= {**system, "python_version": python, "extra": ""}
                    if need.marker is None or need.marker.evaluate(environment):
                        pin = pinned.get(canonicalize_name(need.name))
                        assert pin is not None, f"{name} needs {need}"
                        version = next(iter(pin.specifier)).version
                        assert need.specifier.contains(version), f"{name} needs {need}"


def section_of(node: ast.expr | None, aliases: dict[str, str]) -> str | None:
    """The configuration section that an expression is, as far as its spelling tells."""
    if isinstance(node, ast.Attribute) and node.attr in Config.model_fields:
        return node.attr
    return aliases.get(ast.unparse(node)) if node else None


def section_aliases(tree: ast.Module) -> dict[str, str]:
    """Names bound to a section: `settings = config.training`, `config: ModelConfig`."""
    classes = {
        field.annotation.__name__: name
        for name, field in Config.model_fields.items()
        if field.annotation
    }
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
            if section := classes.get(ast.unparse(node.annotation)):
                aliases[name] = section
        elif isinstance(node, ast.Assign):
            targets, values = unpacked(node)
            for target, value in zip(targets, values, strict=False):
                if section := section_of(value, aliases):
                    aliases[ast.unparse(target)] = section
    return aliases


def unpacked(node: ast.Assign) -> tuple[list[ast.expr], list[ast.expr]]:
    """The targets and values of `a, b = x, y`, pairwise."""
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return target.elts, value.elts
    return [target], [value]


def keys_read(path: Path, tree: ast.Module) -> Iterator[str]:
    """`section.attribute` for each attribute read of a section, by dot or by getattr."""
    aliases = section_aliases(tree)
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (section := section_of(node.value, aliases)):
            yield f"{section}.{node.attr}"
            if node.attr == "model_dump":  # into an object with fields of the same names
                yield from (f"{section}.{n.attr}" for n in attributes)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            section = section_of(node.args[0], aliases)
            for literal in string_literals(tree):
                yield f"{section}.{literal}"


def string_literals(tree: ast.Module) -> set[str]:
    """The values of all string constants but docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    }


def test_every_configuration_key_is_read() -> None:
    read = {
        key
        for path, tree in python_files().items()
        if owner(path) not in TOOLS and path != Path("utils/config.py")
        for key in keys_read(path, tree)
    }
    made = {"stride_tokens": "stride", "peak_learning_rate": "learning_rate"}
    for made_from in {"dataset_prep.stride_tokens", "training.peak_learning_rate"} & read:
        section, name = made_from.split(".")  # a property of the section, made from the key
        read.add(f"{section}.{made[name]}")
    assert not [key for key in all_keys() if key not in read]


def test_constants_have_one_home() -> None:
    """A public string constant (a file name, a tag, a key) is spelled out in no other file."""
    homes = {}
    spelled = defaultdict(set)
    for path, tree in python_files().items():
        if owner(path) == "tests":
            continue
        for literal in string_literals(tree):
            spelled[literal].add(str(path))
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                    if len(text) > 3 and not name.startswith("_"):
                        homes[text] = f"{path}: {name}"
    assert homes
    twice = {home: spelled[text] for text, home in homes.items() if len(spelled[text]) > 1}
    assert not twice


def makefile_targets() -> set[str]:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):.*##", makefile, re.MULTILINE))


def documents() -> list[Path]:
    return [path for path in git_files() if path.suffix in {".md", ".yml"} or path.name == "run"]


def test_commands_in_the_documents_exist() -> None:
    named = set()
    for path in documents():
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"(?:`|^\$? ?)make ([a-z]+)", text, re.MULTILINE):
            assert target in makefile_targets(), f"{path.name}: make {target}"
            named.add(target)
        for script in re.findall(r"python3? ([\w/]+\.py)", text):
            assert (REPOSITORY / script).is_file(), f"{path.name}: {script}"
    assert {"demo", "test", "check"} <= named


def test_every_makefile_target_is_phony() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == makefile_targets()


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the user's own setting of pip."""
    hosts = ("pypi", "pythonhosted", "conda.anaconda", "download.pytorch")
    words = [*(f"{host}.org" for host in hosts), "-index" + "-url", "-find" + "-links"]
    for path in git_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not [word for word in words if word in text], path
