"""TLS over a raw, non-blocking socket, a bounded step at a time.

    socket --STEP_BYTES a step, more of data--> MemoryBIO -> OpenSSL -> recv
    seal -> OpenSSL -> MemoryBIO -> unsent --flush, in one call--> socket

On a socket of its own OpenSSL reads until it has data for us.  A peer whose records carry none (key
updates, RFC 8446 4.6.3) keeps it there for as long as it can send, and every tab waits: one such
peer did that for seconds.  So what is read passes through memory, and a step reads no more than
takes about 0.6 ms, or more of who has waited for its turn.  What is written does so too: it
leaves in one call and in as few packets as can be, where OpenSSL would make a call and a packet of
each record.

What is sealed is sent, in its order, before anything else, so a full socket is told by `unsent`
and by what `flush` returns, never by an exception.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    import socket

__all__ = ["LONG_STEP_BYTES", "STEP_BYTES", "TlsSocket"]

# Forty of the smallest records, at up to 15 us each: twenty peers may come with as much at once.
STEP_BYTES: Final = 1024
# For one at a time.
LONG_STEP_BYTES: Final = 4 * 1024
# Who sends data faster than it is read, and little else, earns larger steps, up to a whole record
# with what TLS puts around it: an upload takes half the time.
_LARGE_STEP_BYTES: Final = 17 * 1024
# What a record holds (RFC 8446 5.1).  Sealed one by one, no more is left allocated in a MemoryBIO.
_RECORD_BYTES: Final = 16 * 1024


@final
class TlsSocket:
    """The server's end of TLS.  The socket stays its owner's, who waits for it and closes it.

    `idle_bytes` is how many bytes came since the last that were data.
    """

    __slots__ = ("_earned", "_in", "_more", "_out", "_sock", "_tls", "idle_bytes", "unsent")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self.unsent = b""  # sealed, and not taken by the socket yet
        self.idle_bytes = 0
        self._earned = 0  # by data, for a larger step
        self._more = False  # may wait in the socket

    def do_handshake(self) -> None:
        """Take one step.

        Raises `ssl.SSLWantReadError` or `ssl.SSLWantWriteError` if another is to follow, once the
        socket can be read or written to; OSError (`ssl.SSLError` too) if it fails.
        """
        try:
            # The ClientHello is large; what follows is small, and key updates may come with it.
            self._step(STEP_BYTES if self.idle_bytes else LONG_STEP_BYTES)
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            if self._answer():
                raise
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                self._answer()  # why it fails
            raise
        else:
            self.idle_bytes = 0
            if self._answer():
                return
        raise ssl.SSLWantWriteError

    def selected_alpn_protocol(self) -> str | None:
        """What was agreed on (RFC 7301)."""
        return self._tls.selected_alpn_protocol()

    def recv(self, size: int, step: int = STEP_BYTES) -> bytes:
        """What the peer said next, up to `size` bytes of what a `step` brings; b"" at its end.

        Raises `ssl.SSLWantReadError` if nothing came of this step, which need not mean that the
        socket is empty; `ssl.SSLEOFError` if the peer ended without a word; OSError.
        """
        try:
            self._step(step)
            data = self._tls.read(size)
        finally:
            if self._out.pending:
                with contextlib.suppress(OSError):  # what is sent next will tell
                    self._answer()
        came, self.idle_bytes = self.idle_bytes, 0
        if self._more and 2 * len(data) >= came:
            self._earned = min(self._earned + 2 * len(data), _LARGE_STEP_BYTES)
        return data

    @property
    def dear(self) -> bool:
        """Whether the next step may take long, so that it wants a turn."""
        return max(self.idle_bytes, self._earned, self._in.pending) > STEP_BYTES

    @property
    def pending(self) -> bool:
        """Whether there may be more to `recv` without looking at the socket."""
        return bool(self._in.pending or self._tls.pending())

    def seal(self, data: bytes) -> None:
        """Encrypt, to be sent by `flush`."""
        if len(data) <= _RECORD_BYTES:
            self._tls.write(data)
            sealed = self._out.read()
        else:
            records, whole = [], memoryview(data)
            for at in range(0, len(data), _RECORD_BYTES):
                self._tls.write(whole[at : at + _RECORD_BYTES])
                records.append(self._out.read())
            sealed = b"".join(records)
        self.unsent = self.unsent + sealed if self.unsent else sealed

    def flush(self) -> bool:
        """Give the socket what it takes; whether that was all.  Raises OSError."""
        unsent = self.unsent
        if not unsent:
            return True
        try:
            sent = self._sock.send(unsent)
        except BlockingIOError:
            return False
        self.unsent = unsent[sent:]
        return not self.unsent

    def say_goodbye(self) -> None:
        """Say that this was all (close_notify); the peer's own is not waited for."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._answer()

    def _step(self, step: int) -> None:
        if self._in.pending:
            return  # of the last step
        try:
            data = self._sock.recv(size := max(step, self._earned))
        except BlockingIOError:
            return
        self._more = len(data) == size
        self._earned = max(0, self._earned - size)
        if data:
            self._in.write(data)
            self.idle_bytes += len(data)
        else:
            self._in.write_eof()

    def _answer(self) -> bool:
        """Send what OpenSSL has to say by itself; see `flush`."""
        self.unsent += self._out.read()
        return self.flush()
