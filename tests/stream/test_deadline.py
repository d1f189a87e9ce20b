import asyncio
from collections.abc import Awaitable

import pytest

from streamapp.stream.deadline import within


async def stubborn(release: asyncio.Event) -> None:
    """Ignore being cancelled, as a client without its broker may."""
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            continue


async def answer() -> int:
    return 7


async def fail() -> int:
    raise OSError("disk full")


def test_result_and_error_of_the_work_come_through() -> None:
    assert asyncio.run(within(1.0, answer())) == 7
    with pytest.raises(OSError, match="disk full"):
        asyncio.run(within(1.0, fail()))


def test_work_that_ignores_being_cancelled_is_left_to_itself() -> None:
    async def main() -> None:
        release = asyncio.Event()
        with pytest.raises(TimeoutError):
            await within(0.01, stubborn(release))
        release.set()

    asyncio.run(main())


def test_being_cancelled_cancels_the_work_without_waiting_for_it() -> None:
    async def main() -> None:
        release = asyncio.Event()
        work: Awaitable[None] = within(60.0, stubborn(release))
        waiting = asyncio.ensure_future(work)
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        release.set()

    asyncio.run(main())
