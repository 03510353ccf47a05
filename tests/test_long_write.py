"""What leaves in few packets, and that none of it is held back."""

from __future__ import annotations

import socket
import ssl

import pytest
from support import INITIAL_WINDOW_SIZE, Served, serving, window_update
from test_connection import fill_socket, narrow_client, small_buffers  # noqa: F401 - a fixture

import h2sse
from h2sse.long_write import RECORD_BYTES

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "TCP_CORK"), reason="only Linux has TCP_CORK (tcp(7))"
)


def corked(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK))


def none_is(served: Served) -> bool:
    """Whether no connection holds anything back."""
    return not any(corked(each._sock) for each in served.server.connections)


@pytest.mark.parametrize("topics", ["topic=a", "topic=a&topic=b"], ids=["in unison", "alone"])
async def test_more_than_a_record_is_corked_while_it_is_written(
    topics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[bool, bool]] = []
    send = ssl.SSLSocket.send

    def noting(sock: ssl.SSLSocket, data: bytes) -> int:
        sent.append((len(data) > RECORD_BYTES, corked(sock)))
        return send(sock, data)

    settings = {INITIAL_WINDOW_SIZE: 2**20}
    async with serving(h2sse.App()) as served, served.client(settings=settings) as client:
        stream = await client.listen(f"/events?{topics}")
        if topics != "topic=a":
            await client.listen("/events?topic=c")
        await client.send(window_update(0, 2**20))
        await client.settle()
        monkeypatch.setattr(ssl.SSLSocket, "send", noting)
        for size in (1, 60_000, 1, 60_000):
            served.app.publish("a", h2sse.Event(data="x" * size))
            await client.heard(len(stream.data) + 1, stream)
            assert none_is(served)
        assert {large for large, _ in sent} == {False, True}
        assert all(large == held for large, held in sent)


@pytest.mark.usefixtures("small_buffers")
async def test_a_full_socket_holds_nothing_back() -> None:
    async with serving(h2sse.App()) as served, narrow_client(served) as client:
        stream = await client.listen("/events?topic=a")
        await fill_socket(served, "a")
        assert none_is(served)
        served.app.publish("a", h2sse.Event(data="last"))
        await client.read_until(lambda: stream.data[-1:] == ["last"])
        assert none_is(served)
