"""utils/files.py: whole or absent under kill -9, one writer per folder."""

import hashlib
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from utils.errors import BusyError
from utils.files import (
    LOCK_NAME,
    TEMPORARY_SUFFIX,
    atomic_write,
    copy_file,
    format_bytes,
    remove_stale_temporaries,
    sha256_of,
    sole_writer,
    sync_folder,
    write_json,
)


def start(code: str, *arguments: Path) -> subprocess.Popen[str]:
    """A Python process of its own in the repository's folder."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_a_written_file_has_its_bytes_and_ordinary_permissions(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    with atomic_write(path) as file:
        file.write(b"bytes")
        assert not path.exists()
    assert path.read_bytes() == b"bytes"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_and_fail() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the new")
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_reader_of_a_write_can_seek(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as file:
        file.write(b"0000body")
        file.seek(0)
        file.write(b"head")
        file.seek(0)
        assert file.read() == b"headbody"


WRITE_FOREVER = """
    import sys
    from pathlib import Path
    from utils.files import atomic_write
    path, number = Path(sys.argv[1]), 0
    while True:
        number += 1
        with atomic_write(path) as file:
            for _ in range(64):
                file.write(number.to_bytes(8, "little") * 1024)
        if number == 2:
            print("writing", flush=True)
"""
FILE_BYTES = 64 * 1024 * 8


def test_kill_9_while_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    """Kill a process that never stops rewriting one file, at 12 different moments."""
    path = tmp_path / "file"
    killed_while_writing = 0
    for attempt in range(12):
        with start(WRITE_FOREVER, path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            time.sleep(attempt * 0.0013)
            process.kill()
        content = path.read_bytes()
        assert len(content) == FILE_BYTES
        assert content == content[:8] * (FILE_BYTES // 8)
        killed_while_writing += any(tmp_path.glob(f".*{TEMPORARY_SUFFIX}"))
        with sole_writer(tmp_path, "checking"):  # the next writer cleans up
            assert {entry.name for entry in tmp_path.iterdir()} <= {"file", LOCK_NAME}
    assert killed_while_writing, "no kill came in the middle of a write: the test showed nothing"


def test_stale_temporaries_go_and_other_files_stay(tmp_path: Path) -> None:
    stays = [tmp_path / "notes.tmp", tmp_path / ".hidden", tmp_path / "file"]
    goes = tmp_path / f".file.abc123{TEMPORARY_SUFFIX}"
    for path in (*stays, goes):
        path.write_bytes(b"")
    remove_stale_temporaries(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(stays)


def test_only_ones_own_temporaries_go_where_others_write_too(tmp_path: Path) -> None:
    stays = tmp_path / f".a browser's.download{TEMPORARY_SUFFIX}"
    goes = tmp_path / f".checkpoint_latest.pt.abc123{TEMPORARY_SUFFIX}"
    for path in (stays, goes):
        path.write_bytes(b"")
    with sole_writer(tmp_path, "testing", "checkpoint_*"):
        assert {path.name for path in tmp_path.iterdir()} == {stays.name, LOCK_NAME}


HOLD = """
    import sys, time
    from pathlib import Path
    from utils.files import sole_writer
    with sole_writer(Path(sys.argv[1]), "cleaning"):
        print("holding", flush=True)
        time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with start(HOLD, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        words = f"{tmp_path}: another process is cleaning this folder"
        with pytest.raises(BusyError) as caught, sole_writer(tmp_path, "cleaning"):
            pytest.fail("two writers at once")
        assert caught.value.what == words
        assert "Wait for it to end" in caught.value.hint
        process.send_signal(signal.SIGKILL)
    with sole_writer(tmp_path, "cleaning"):
        pass


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sole_writer(tmp_path / "new", "cleaning"):
        raise ZeroDivisionError
    with sole_writer(tmp_path / "new", "cleaning"):
        pass


def test_many_processes_write_one_file(tmp_path: Path) -> None:
    """Writers without a lock still never mix: the file is one writer's, whole."""
    path = tmp_path / "file"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_letter, args=(path, letter)) for letter in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    content = path.read_bytes()
    assert content in {letter * 100_000 for letter in (b"a", b"b", b"c")}
    assert list(tmp_path.iterdir()) == [path]


def write_letter(path: Path, letter: str) -> None:
    for _ in range(20):
        with atomic_write(path) as file:
            file.write(letter.encode() * 100_000)


def test_json_is_readable_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"name": "Zürich", "numbers": [1, 2]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "Zürich", "numbers": [1, 2]}
    assert "Zürich" in text
    assert text.endswith("}\n")


def test_copy_and_digest(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    source.write_bytes(content)
    copy_file(source, target)
    assert target.read_bytes() == content
    assert sha256_of(target) == hashlib.sha256(content).hexdigest()
    sync_folder(target.parent)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (1_400_000_000, "1.4 GB"),
        (5e13, "50.0 TB"),
    ],
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert format_bytes(count) == text
