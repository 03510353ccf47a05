"""Request bodies that are not whole yet, of all connections together."""

from __future__ import annotations

import math

import trio
from hypothesis import given
from hypothesis import strategies as st
from support import DATA, END_STREAM, RawClient, Served, Stream, frame, serving

import h2sse
from h2sse.uploads import OVER_TOTAL, Uploads

LIMITS = h2sse.Limits(total_body_bytes=100_000)
FORM = ("content-type", "application/x-www-form-urlencoded")
EVENT = b"topic=a&data="
PIECE = 10_000


async def begin(client: RawClient, size: int) -> Stream:
    """Post so many bytes, and no end; when it returns, the server has them."""
    stream, data = client.request("/publish", FORM, method="POST", body=b"")
    opening = data.removesuffix(frame(DATA, END_STREAM, stream.id))
    body = EVENT.ljust(size, b"x")
    pieces = [body[at : at + PIECE] for at in range(0, size, PIECE)]
    await client.send(opening, *[frame(DATA, 0, stream.id, piece) for piece in pieces])
    await client.fetch("/healthz")
    return stream


async def publish(client: RawClient) -> int | None:
    """The status of an event that is sent as fast as it goes."""
    return (await client.fetch("/publish", FORM, method="POST", body=EVENT)).status


def unfinished(served: Served) -> int:
    return served.server.statistics().unfinished_body_bytes


async def test_past_the_bound_on_all_bodies_those_begun_first_are_refused() -> None:
    """Whoever holds them: one whose body comes whole meanwhile notices nothing."""
    async with (
        serving(h2sse.App(), limits=LIMITS) as served,
        served.client() as one,
        served.client() as other,
    ):
        first, second = await begin(one, 30_000), await begin(one, 20_000)
        third = await begin(other, 40_000)
        assert unfinished(served) == 90_000
        assert await publish(other) == 200
        assert not any(each.over for each in (first, second, third))

        fourth = await begin(other, 20_000)
        await one.over(first)
        assert first.status == 503
        assert OVER_TOTAL.encode() in first.body
        assert unfinished(served) == 80_000
        assert not second.over
        assert served.server.statistics().reasons[OVER_TOTAL] == 1

        # What is left of it in the network does not count, and the rest can still come to its end.
        await one.send(frame(DATA, 0, first.id, b"x"))
        assert await publish(one) == 200
        await one.send(frame(DATA, END_STREAM, second.id))
        await other.send(frame(DATA, END_STREAM, third.id), frame(DATA, END_STREAM, fourth.id))
        await one.over(second)
        await other.over(third, fourth)
        assert [each.status for each in (second, third, fourth)] == [200] * 3
        assert unfinished(served) == 0


async def test_over_http1_it_ends_the_connection() -> None:
    async with serving(h2sse.App(), limits=LIMITS) as served, served.client() as client:
        stream = await served.secure("http/1.1")
        head = b"POST /publish HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n"
        await stream.send_all(head + b"x" * 60_000)
        with trio.fail_after(10):
            while unfinished(served) < 60_000:  # noqa: ASYNC110 - it comes by no event
                await trio.sleep(0.01)
        held = await begin(client, 50_000)
        answer = b""
        with trio.fail_after(10):
            async for data in stream:
                answer += data
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert OVER_TOTAL.encode() in answer
        assert not held.over
        assert unfinished(served) == 50_000
        await trio.aclose_forcefully(stream)


async def test_what_a_connection_held_is_free_once_it_is_gone() -> None:
    async with serving(h2sse.App(), limits=LIMITS) as served:
        async with served.client() as client:
            await begin(client, 50_000)
            assert unfinished(served) == 50_000
        with trio.fail_after(10):
            while unfinished(served):  # noqa: ASYNC110 - it comes by no event
                await trio.sleep(0.01)


class Holder:
    """A connection: bodies as `[due, bytes]`, which notes what it has."""

    def __init__(self, uploads: Uploads, refused: list[float]) -> None:
        self.uploads = uploads
        self.refused = refused
        self.bodies: list[tuple[float, int]] = []

    @property
    def body_due(self) -> float:
        return self.bodies[0][0] if self.bodies else math.inf

    def begin(self, due: float, size: int, bound: int) -> None:
        self.bodies.append((due, size))
        self.note()
        self.uploads.relieve(bound)

    def note(self) -> None:
        self.uploads.note(self, sum(size for _, size in self.bodies))

    def refuse_body(self) -> None:
        self.refused.append(self.bodies.pop(0)[0])
        self.note()
        self.uploads.relieve(0)  # as from amid it


@given(
    bodies=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=30),
    bound=st.integers(1, 12),
)
def test_oldest_first_whoever_holds_it_and_no_more_than_it_takes(
    bodies: list[tuple[int, int]], bound: int
) -> None:
    uploads, refused = Uploads(), list[float]()
    holders = [Holder(uploads, refused) for _ in range(4)]
    for due, (holder, size) in enumerate(bodies):
        before = len(refused)
        holders[holder].begin(due, size, bound)
        left = [body for each in holders for body in each.bodies]
        assert uploads.total == sum(size for _, size in left) <= bound
        gone = refused[before:]
        assert gone == sorted(gone)
        if gone:
            # Those that are left and hold anything are younger; one less would not have done.
            held = [
                due
                for each in holders
                if any(size for _, size in each.bodies)
                for due, _ in each.bodies
            ]
            assert all(due > gone[-1] for due in held)
            last = bodies[int(gone[-1])][1]
            assert uploads.total + last > bound - bound // 64
