"""TLS a step at a time: real OpenSSL at both ends of a socket pair."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, repeat

import pytest
from support import certificates, waiting

from benchmarks.key_updates import key_updates, telling
from h2sse.tls import development_certificate
from h2sse.tls_socket import LONG_STEP_BYTES, STEP_BYTES, TlsSocket


@dataclass
class Link:
    """A client, and the server's end, which is what is tested."""

    server: TlsSocket
    below: socket.socket
    client: ssl.SSLSocket

    def server_hears(self, count: int) -> bytes:
        """What the client has sent, as far as it has come."""
        heard = b""
        while len(heard) < count:
            try:
                heard += self.server.recv(65_536)
            except ssl.SSLWantReadError:
                assert waiting(self.below), "no more comes"
        return heard

    def client_hears(self, count: int) -> bytes:
        """What the server has sealed; it flushes what the socket did not take at first."""
        heard = b""
        while len(heard) < count:
            self.server.flush()
            try:
                heard += self.client.recv(65_536)
            except ssl.SSLWantReadError:
                assert self.server.unsent, "no more comes"
        return heard


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


@contextmanager
def ends(context: ssl.SSLContext | None = None) -> Iterator[Link]:
    """Both, before the handshake."""
    made = development_certificate(certificates())
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(made.cert, made.key)
    server_context.set_alpn_protocols(["h2"])
    a, below = socket.socketpair()
    with a, below:
        for end in (a, below):
            end.setblocking(False)
        context = context or client_context()
        with context.wrap_socket(a, do_handshake_on_connect=False) as client:
            yield Link(TlsSocket(below, server_context), below, client)


@contextmanager
def linked(context: ssl.SSLContext | None = None) -> Iterator[Link]:
    """Both, after it."""
    with ends(context) as link:
        client, server = link.client, link.server
        for _ in range(3):
            for shake in (client.do_handshake, server.do_handshake):
                with suppress(ssl.SSLWantReadError):
                    shake()
        assert server.selected_alpn_protocol() == client.selected_alpn_protocol() == "h2"
        yield link


@pytest.mark.parametrize("size", [1, 16_383, 16_384, 16_385, 1_000_000])
def test_what_is_sealed_arrives(size: int) -> None:
    """However much the socket takes at once, and in its order."""
    data = bytes(range(251)) * (size // 251 + 1)
    with linked() as link:
        link.server.seal(b"before")
        link.server.seal(data)
        assert link.server.flush() == (size < 100_000)
        link.server.seal(b"after")
        assert link.client_hears(len(data) + 11) == b"before" + data + b"after"
        assert link.server.unsent == b""
        assert link.server.flush()


@pytest.mark.parametrize("size", [1, 4_096, 16_384, 50_000])
def test_what_the_client_says_is_heard(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    with linked() as link:
        assert link.client.send(data) == len(data)
        assert link.server_hears(len(data)) == data
        assert link.server.idle_bytes == 0
        assert not link.server.pending
        with pytest.raises(ssl.SSLWantReadError):
            link.server.recv(1)


def test_records_of_one_step_are_pending() -> None:
    """The socket would not tell of them any more."""
    with linked() as link:
        for number in range(3):
            link.client.send(b"%d" % number)
        assert link.server.recv(100) == b"0"
        assert not waiting(link.below)
        assert link.server.pending
        assert link.server_hears(2) == b"12"
        assert not link.server.pending


def test_data_earns_larger_steps() -> None:
    with linked() as link:
        link.client.send(b"x" * 60_000)
        steps = []
        while left := waiting(link.below):
            with suppress(ssl.SSLWantReadError):
                link.server.recv(16_384)
            steps.append(left - waiting(link.below))
        assert steps[0] == STEP_BYTES
        assert max(steps) > 16_384


def test_what_is_read_as_fast_as_it_comes_earns_nothing() -> None:
    """Nor is it dear: requests now and then wait for no turn, however many they are."""
    with linked() as link:
        for _ in range(100):
            link.client.send(b"x" * 700)
            assert link.server_hears(700)
            assert not link.server.dear


def test_what_is_left_of_a_step_is_dear_too() -> None:
    """It is behind the data of a record, and may all be records without data."""
    context = client_context()
    with telling(context) as secret, linked(context) as link:
        data = [b"x", *repeat(b"", 100)]
        socket.socket.sendall(link.client, b"".join(key_updates(secret(), data)))
        waiting_before = waiting(link.below)
        assert link.server.recv(100, LONG_STEP_BYTES) == b"x"
        assert waiting_before - waiting(link.below) > STEP_BYTES
        assert link.server.dear


def test_data_amid_much_else_earns_nothing() -> None:
    """But for the first of it, whose sender may have an upload in mind."""
    context = client_context()
    with telling(context) as secret, linked(context) as link:
        data = [b"x" * 9_000, *repeat(b"", 640)] * 5
        socket.socket.sendall(link.client, b"".join(key_updates(secret(), data)))
        steps = []
        while left := waiting(link.below):
            with suppress(ssl.SSLWantReadError):
                link.server.recv(16_384)
            steps.append(left - waiting(link.below))
        assert sum(step > STEP_BYTES for step in steps) == 1


@pytest.mark.parametrize("step", [STEP_BYTES, LONG_STEP_BYTES])
def test_a_step_is_bounded_though_there_is_no_end_of_records_without_data(step: int) -> None:
    context = client_context()
    with telling(context) as secret, linked(context) as link:
        before = waiting(link.below)
        records = b"".join(islice(key_updates(secret()), 2_000))
        socket.socket.sendall(link.client, records)  # past TLS
        assert waiting(link.below) == before + len(records)
        taken = 0
        while waiting(link.below):
            with pytest.raises(ssl.SSLWantReadError):
                link.server.recv(100, step)
            left = waiting(link.below)
            assert 0 < before + len(records) - taken - left <= step
            taken = before + len(records) - left
        assert link.server.idle_bytes == len(records)


def test_what_comes_behind_a_handshake_is_not_taken_with_it() -> None:
    """It would all be gone through at once, and twenty peers may do so at a time."""
    context = client_context()
    with telling(context) as secret, ends(context) as link:
        for shake in (link.client.do_handshake, link.server.do_handshake):
            with pytest.raises(ssl.SSLWantReadError):
                shake()
        link.client.do_handshake()
        socket.socket.sendall(link.client, b"".join(islice(key_updates(secret()), 500)))
        before = waiting(link.below)
        link.server.do_handshake()
        assert before - waiting(link.below) <= STEP_BYTES


def test_the_end_is_told_with_a_word_and_without() -> None:
    with linked() as link:
        with pytest.raises(ssl.SSLWantReadError):
            link.client.unwrap()
        assert link.server.recv(1) == b""
        link.server.say_goodbye()
        with pytest.raises(ssl.SSLZeroReturnError):
            link.client.recv(1)
    with linked() as link:
        with pytest.raises(ssl.SSLWantReadError):
            link.client.recv(1)  # the session tickets: a socket closed with input is reset
        link.client.close()
        for _ in range(2):
            with pytest.raises(ssl.SSLEOFError):
                link.server.recv(1)


def test_goodbye_is_said_to_one_who_has_not() -> None:
    with linked() as link:
        link.server.seal(b"last")
        link.server.say_goodbye()
        assert link.client_hears(4) == b"last"
        assert link.client.recv(1) == b""


def test_a_broken_socket_is_an_error() -> None:
    with linked() as link:
        link.client.close()
        link.server.seal(b"x")
        with pytest.raises(OSError, match="Broken pipe"):
            link.server.flush()


def test_a_handshake_that_fails_tells_the_client_why() -> None:
    context = ssl.create_default_context()
    context.maximum_version = context.minimum_version = ssl.TLSVersion.TLSv1_2
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.minimum_version = ssl.TLSVersion.TLSv1_3
    a, below = socket.socketpair()
    with a, below:
        for end in (a, below):
            end.setblocking(False)
        with context.wrap_socket(a, server_hostname="x", do_handshake_on_connect=False) as client:
            server = TlsSocket(below, server_context)
            with pytest.raises(ssl.SSLWantReadError):
                server.do_handshake()
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
                server.do_handshake()
            with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
                client.do_handshake()
