import threading
from collections.abc import Generator

import pytest

from utils.preparing.read_ahead import read_ahead


class Source:
    """Makes the numbers below `count`, and remembers how far it is and whether it was closed."""

    def __init__(self, count: int) -> None:
        self.count, self.made, self.closed = count, 0, False
        self.threads: set[int] = set()

    def items(self) -> Generator[int, None, None]:
        try:
            for number in range(self.count):
                self.threads.add(threading.get_ident())
                self.made += 1
                yield number
        finally:
            self.closed = True


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_all_items_come_in_order_from_one_other_thread(count: int) -> None:
    source = Source(count)
    with read_ahead(source.items()) as ahead:
        assert list(ahead) == list(range(count))
    assert source.closed
    assert len(source.threads) == min(count, 1)
    assert threading.get_ident() not in source.threads


def test_the_next_item_is_made_while_one_is_in_use() -> None:
    made = threading.Semaphore(0)

    def items() -> Generator[int, None, None]:
        for number in range(3):
            made.release()
            yield number

    with read_ahead(items()) as ahead:
        assert next(ahead) == 0
        for _ in range(2):
            assert made.acquire(timeout=10), "made without being asked for"
        assert not made.acquire(timeout=0.1), "no more than one ahead"


def test_stages_follow_each_other() -> None:
    def doubled(source: Source) -> Generator[int, None, None]:
        with read_ahead(source.items()) as ahead:
            for number in ahead:
                yield 2 * number

    source = Source(100)
    with read_ahead(doubled(source)) as ahead:
        assert list(ahead) == [2 * number for number in range(100)]
    left = Source(100)
    with read_ahead(doubled(left)) as ahead:
        next(ahead)
    assert source.closed
    assert left.closed
    assert left.made <= 5


def test_an_error_comes_after_the_items_before_it() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        yield 2
        raise ZeroDivisionError

    with read_ahead(failing()) as ahead:
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(ZeroDivisionError):
            next(ahead)


def test_an_error_of_the_user_closes_the_source() -> None:
    def use_one(source: Source) -> None:
        with read_ahead(source.items()) as ahead:
            raise ZeroDivisionError(next(ahead))

    source = Source(100)
    with pytest.raises(ZeroDivisionError):
        use_one(source)
    assert source.closed
    assert source.made <= 2
