"""TLS 1.3 key updates without end (RFC 8446 4.6.3), which neither `ssl` nor OpenSSL's peer offers.

Each is a record of 27 bytes that carries no data and costs who reads it a new key; there may be
records of data between them.  All keys follow from the secret of the handshake, which `ssl` tells
(NSS key log format), so what OpenSSL would send one by one is made at once, to be given to the
socket beneath it.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

__all__ = ["key_updates", "telling"]

_HEAD: Final = bytes.fromhex("17 0303")  # application_data, TLS 1.2 as ever
_KEY_UPDATE: Final = bytes.fromhex("18 000001 00")  # update_not_requested
_HANDSHAKE, _DATA = b"\x16", b"\x17"
_TAG_BYTES: Final = 16


@contextmanager
def telling(context: ssl.SSLContext) -> Iterator[Callable[[], bytes]]:
    """Have the context tell, once a handshake is done, what the keys of its client follow from."""
    with tempfile.TemporaryDirectory(prefix="h2sse-benchmark-") as directory:
        key_log = Path(directory, "keys")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.keylog_filename = str(key_log)

        def secret() -> bytes:
            lines = (line.split() for line in key_log.read_text().splitlines())
            found = {words[0]: words[-1] for words in lines}
            return bytes.fromhex(found["CLIENT_TRAFFIC_SECRET_0"])

        yield secret


def key_updates(secret: bytes, data: Iterable[bytes] = repeat(b"")) -> Iterator[bytes]:
    """Records, of which the first is the first after the handshake.

    Before each update goes a record of what `data` has for it, up to 16 KiB, unless that is empty.
    For the cipher suites of AES-GCM: with TLS_AES_256_GCM_SHA384 secrets are 48 bytes long.
    """
    key_bytes = 32 if len(secret) == SHA384.digest_size else 16
    for each in data:
        cipher = AESGCM(_derived(secret, b"key", key_bytes))
        nonce = _derived(secret, b"iv", 12)  # of the first record of its key (RFC 8446 5.3)
        if each:
            yield _record(cipher, nonce, each + _DATA)
            nonce = nonce[:-1] + bytes((nonce[-1] ^ 1,))
        yield _record(cipher, nonce, _KEY_UPDATE + _HANDSHAKE)
        secret = _derived(secret, b"traffic upd", len(secret))


def _record(cipher: AESGCM, nonce: bytes, inner: bytes) -> bytes:
    head = _HEAD + (len(inner) + _TAG_BYTES).to_bytes(2, "big")
    return head + cipher.encrypt(nonce, inner, head)


def _derived(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label without context (RFC 8446 7.1)."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0"
    algorithm = SHA384() if len(secret) == SHA384.digest_size else SHA256()
    return HKDFExpand(algorithm, size, info).derive(secret)
