"""Stages of a stream that work at the same time."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def read_ahead(items: Generator[T, None, None]) -> Iterator[Iterator[T]]:
    """The same items, none of them None; while one is in use, a thread makes the next.

    So no more than one waits in memory. An error in making an item comes in its turn. Leaving the
    block closes `items`, once the item that is being made is done.
    """
    with closing(items), ThreadPoolExecutor(1) as thread:
        yield _ahead(items, thread)


def _ahead(items: Iterator[T], thread: ThreadPoolExecutor) -> Iterator[T]:
    following = thread.submit(next, items, None)
    while (item := following.result()) is not None:
        following = thread.submit(next, items, None)
        yield item
