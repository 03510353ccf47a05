"""TLS: a development certificate, and certificates that change under a running server.

`development_certificate` keeps a CA and a 90-day certificate for localhost in a directory: the
certificate is renewed in time, the CA stays, so whoever trusts it need not do so again.

`Certificates` turns PEM files into `context` and follows the files.  A change makes a *new*
context and swaps it in when it is whole: no handshake sees half a change, a bad replacement leaves
the old certificate serving, and nothing lingers (OpenSSL keeps one certificate per key type, so an
ECDSA one loaded over an RSA one would only stand beside it).  Read `context` anew for each
connection.

All of it is synchronous and takes microseconds, or a few milliseconds where a file is read or made.
"""

from __future__ import annotations

import logging
import os
import shlex
import ssl
import stat
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias, final

from .errors import ConfigError

if sys.platform != "win32":
    import fcntl

# At run time trustme and cryptography are imported where they are used: they take 0.1 s, which
# commands such as `h2sse publish` need not wait.
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme
    from cryptography import x509

    from .config import Tls

__all__ = [
    "Certificates",
    "DevelopmentCertificate",
    "development_certificate",
    "how_to_trust",
]

log = logging.getLogger(__name__)

# -- the development certificate

# What Let's Encrypt gives; macOS refuses more than 825, even from a CA its user trusts.
LEAF_DAYS = 90
# A third of it, as ACME clients do: a server that starts once a month still renews in time.
RENEW_DAYS = 30
# Clocks of virtual machines and containers run behind their host's.
BACKDATE_HOURS = 1
# Making all files takes milliseconds; a holder that needs longer is stopped or hangs on its disk.
LOCK_SECONDS = 5.0

_NAMES = ("localhost", "127.0.0.1", "::1")
_CA, _CA_KEY, _LEAF, _LEAF_KEY = "ca.pem", "ca-key.pem", "localhost.pem", "localhost-key.pem"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DevelopmentCertificate:
    """Files of a certificate for localhost: `cert` is the chain, `ca` is what to trust.

    `made` says that this call made or renewed it; it ends at `not_after` (UTC).
    """

    ca: Path
    cert: Path
    key: Path
    made: bool
    not_after: datetime


def development_certificate(
    directory: Path, *, now: datetime | None = None
) -> DevelopmentCertificate:
    """The certificate for localhost, 127.0.0.1 and ::1 in `directory`, made or renewed if need be.

    It is made when it is missing, broken, or has under 30 days left; the CA only when it is itself
    missing, broken or near its end (files in its place are moved to *.old.pem).  Private keys are
    readable by their owner alone.  `now` must be aware; it is the clock by default.

    Raises ConfigError if something must be written and cannot be.
    """
    now = now or datetime.now(UTC)
    # Without the lock first: good files in a read-only directory are good files.
    kept = _kept(directory, now)
    if kept is not None:
        return kept
    try:
        _make_directory(directory)
        with _locked(directory / "h2sse.lock"):
            # Another process may have made them while we waited.
            return _kept(directory, now) or _made(directory, now)
    except OSError as error:
        raise ConfigError(
            f"tls.directory: cannot keep a development certificate in {_shown(directory)}"
            f" ({error.strerror}); choose one that can be written, or give tls.cert and tls.key"
        ) from None


def _kept(directory: Path, now: datetime) -> DevelopmentCertificate | None:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    ca, cert, key = directory / _CA, directory / _LEAF, directory / _LEAF_KEY
    try:
        _, leaf = _load(cert, key, now)
        issuer = x509.load_pem_x509_certificate(_read("tls.directory", ca))
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return None
    not_after = leaf.not_valid_after_utc
    if _is_due(not_after, now):
        return None
    return DevelopmentCertificate(ca=ca, cert=cert, key=key, made=False, not_after=not_after)


def _is_due(not_after: datetime, now: datetime) -> bool:
    return not_after - now < timedelta(days=RENEW_DAYS)


def _made(directory: Path, now: datetime) -> DevelopmentCertificate:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import ExtensionNotFound

    # Certificates count whole seconds.
    not_after = now.replace(microsecond=0) + timedelta(days=LEAF_DAYS)
    not_before = not_after - timedelta(days=LEAF_DAYS, hours=BACKDATE_HOURS)

    def issue(ca: trustme.CA) -> trustme.LeafCert:
        return ca.issue_cert(
            *_NAMES,
            organization_name="h2sse",
            organization_unit_name="development certificate",
            not_before=not_before,
            not_after=not_after,
        )

    try:
        leaf = issue(_old_ca(directory, now, until=not_after))
    except (ValueError, TypeError, ExtensionNotFound, UnsupportedAlgorithm) as error:
        log.debug("no development CA to renew under: %s", error)
        leaf = issue(_new_ca(directory))
    # A reader that falls between the two finds a mismatch, as it would with any renewal.
    _write(directory / _LEAF_KEY, leaf.private_key_pem.bytes(), mode=0o600)
    _write(directory / _LEAF, b"".join(p.bytes() for p in leaf.cert_chain_pems), mode=0o644)
    return DevelopmentCertificate(
        ca=directory / _CA,
        cert=directory / _LEAF,
        key=directory / _LEAF_KEY,
        made=True,
        not_after=not_after,
    )


def _old_ca(directory: Path, now: datetime, *, until: datetime) -> trustme.CA:
    import trustme
    from cryptography import x509

    cert, key = directory / _CA, directory / _CA_KEY
    _, certificate = _load(cert, key, now)
    if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise ConfigError(f"{_shown(cert)} is not the certificate of a CA")
    if certificate.not_valid_after_utc < until:
        raise ConfigError(f"{_shown(cert)} ends before what it is to issue")
    return trustme.CA.from_pem(cert.read_bytes(), key.read_bytes())


def _new_ca(directory: Path) -> trustme.CA:
    import trustme

    for name in (_CA, _CA_KEY, _LEAF, _LEAF_KEY):
        # They may be someone's own: mkcert, for one, calls its files localhost.pem.
        path = directory / name
        with suppress(FileNotFoundError):
            aside = path.replace(path.with_suffix(".old.pem"))
            log.warning("%s could not be used; it is %s now", path, aside)
    # Path length 0: it may issue certificates, not further CAs.  The random part keeps two of
    # them apart in a trust store.
    ca = trustme.CA(
        path_length=0,
        organization_name="h2sse",
        organization_unit_name=f"development CA {os.urandom(4).hex()}",
    )
    _write(directory / _CA_KEY, ca.private_key_pem.bytes(), mode=0o600)
    _write(directory / _CA, ca.cert_pem.bytes(), mode=0o644)
    return ca


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        if not directory.is_dir():
            raise
    else:
        (directory / ".gitignore").write_text("# Private keys live here.\n*\n")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Windows has no flock: two first starts in the same instant may there need a third.
        if sys.platform != "win32":
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise ConfigError(
                            f"tls.directory: another process has held {_shown(path)} for"
                            f" {LOCK_SECONDS:g} s; end it, or choose another directory"
                        ) from None
                    time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes, *, mode: int) -> None:
    """Replace a file as a whole.  Under the lock, so that one name for the new one will do."""
    new = path.with_name(f".{path.name}")
    new.unlink(missing_ok=True)
    # With its mode from the first byte: a later chmod would leave a moment to read the key in.
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    new.replace(path)


def how_to_trust(ca: Path) -> str:
    """What to tell a user, in plain lines: where the CA in file `ca` has to be made known."""
    file = shlex.quote(str(ca))
    return f"""\
For a quick look nothing is needed: `curl -k`, or click through the browser's warning (EventSource
then works too; Firefox asks once for each port).  To be rid of the warning, trust {ca}:

  curl            curl --cacert {file} https://localhost:8443/
  Chrome, Linux   chrome://certificate-manager > Custom > Installed by you > Import; or
                  certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n h2sse -i {file}
  Firefox         Settings > Privacy & Security > View Certificates > Authorities > Import
  Debian, Ubuntu  sudo cp {file} /usr/local/share/ca-certificates/h2sse.crt
                  sudo update-ca-certificates
  macOS           security add-trusted-cert \\
                    -k ~/Library/Keychains/login.keychain-db {file}
  Windows         certutil -addstore -user Root {file}

On macOS and Windows the browsers follow the system.  Whoever holds {_CA_KEY} can pose as any site
to those who trust this CA: keep it to yourself, and take the CA out again when you are done.
"""


# -- certificates in use


@final
class Certificates:
    """The certificate a listener serves, kept in step with its files.

    `context` is for the server's side of the next connection: TLS 1.2 or later, ALPN `protocols`.
    `development` is set when no cert and key were given; `not_after` is the end of the one in use.

    Raises ConfigError, one line that names the file and what to do, if there is none to serve.
    """

    context: ssl.SSLContext
    not_after: datetime

    def __init__(self, tls: Tls, *, http1: bool = False, now: datetime | None = None) -> None:
        # curl --http1.0 and others as old offer http/1.0, and nothing else.
        old = ("http/1.1", "http/1.0")
        self.protocols: tuple[str, ...] = old if http1 else ("h2", *old)
        self.development: DevelopmentCertificate | None = None
        self._directory = None if tls.cert else tls.directory
        self._cert = tls.cert or tls.directory / _LEAF
        self._key = tls.key or tls.directory / _LEAF_KEY
        self._warned: tuple[_Stamp, str] | None = None
        self._take(now or datetime.now(UTC))

    def check(self, now: datetime | None = None) -> bool:
        """Take up changed files, and renew a development certificate that is due.

        True if there is a new `context`.  Never raises: what cannot be served is logged, once, and
        tried again at every check, because certificate and key are seldom replaced in one instant.
        Costs two stat calls while nothing changes; meant to be called every few seconds.
        """
        now = now or datetime.now(UTC)
        stamp = _stamp(self._cert, self._key)
        # A clock that was set back may have left us with one of the future.
        due = self.development is not None and (
            _is_due(self.not_after, now) or now < self._not_before
        )
        if stamp == self._taken and not due:
            self._warned = None
            return False
        try:
            self._take(now)
        except Exception as error:  # noqa: BLE001 - a file may hold anything, and libraries have faults
            why = str(error) if isinstance(error, ConfigError) else repr(error)
            if self._warned != (stamp, why):
                self._warned = (stamp, why)
                log.warning("the old certificate stays in use: %s", why)
            return False
        self._warned = None
        log.info("new certificate from %s, until %s", self._cert, _day(self.not_after))
        return True

    def _take(self, now: datetime) -> None:
        development = (
            None if self._directory is None else development_certificate(self._directory, now=now)
        )
        # Before reading: what changes while we read differs from this at the next check.
        stamp = _stamp(self._cert, self._key)
        context, leaf = _load(self._cert, self._key, now)
        context.set_alpn_protocols(self.protocols)
        self.context, self.not_after = context, leaf.not_valid_after_utc
        self._not_before = leaf.not_valid_before_utc
        self.development, self._taken = development, stamp


# What changes when a file does, be it replaced, written to, or copied over with its old times.
_Stamp: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]


def _stamp(*paths: Path) -> _Stamp:
    def one(path: Path) -> tuple[int, int, int, int] | None:
        try:
            info = path.stat()
        except OSError:
            return None
        return info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns

    return tuple(map(one, paths))


def _load(cert: Path, key: Path, now: datetime) -> tuple[ssl.SSLContext, x509.Certificate]:
    """A server's context for these files, and the first certificate in them.

    OpenSSL judges; the rest is there to say in words what is wrong.  Raises ConfigError.
    """
    from cryptography import x509

    pem = _read("tls.cert", cert)
    _read("tls.key", key)
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
    except (ValueError, x509.InvalidVersion):
        raise ConfigError(
            f"tls.cert: {_shown(cert)} is not a PEM certificate; it must hold"
            " '-----BEGIN CERTIFICATE-----', the server's own first, then its chain"
        ) from None
    if now > leaf.not_valid_after_utc:
        raise ConfigError(
            f"tls.cert: {_shown(cert)} expired on {_day(leaf.not_valid_after_utc)}; renew it"
        )
    if now < leaf.not_valid_before_utc:
        raise ConfigError(
            f"tls.cert: {_shown(cert)} is not valid before {_day(leaf.not_valid_before_utc)};"
            " wait until then, or set this machine's clock"
        )

    def no_password() -> str:
        # Without this OpenSSL would ask on the terminal, and a server would wait there for ever.
        raise ConfigError(
            f"tls.key: {_shown(key)} is encrypted; write it without a passphrase:"
            " openssl pkey -in KEY -out NEW"
        )

    context = _context()
    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        raise ConfigError(_refusal(cert, key, error.reason)) from None
    except OSError as error:  # taken away since it was read
        raise ConfigError(f"tls.cert: {_shown(cert)}: {error.strerror}; try again") from None
    return context, leaf


def _refusal(cert: Path, key: Path, reason: str | None) -> str:
    match reason:
        # The second and third are how versions of OpenSSL put an RSA key to an ECDSA certificate.
        case "KEY_VALUES_MISMATCH" | "KEY_TYPE_MISMATCH" | "NO_CERTIFICATE_ASSIGNED":
            return (
                f"tls.key: {_shown(key)} does not belong to the first certificate in"
                f" {_shown(cert)}; give the key of that one, and put the server's own first"
            )
        case None:  # "PEM lib"; the certificates have been read by then
            return (
                f"tls.key: {_shown(key)} is not a PEM private key; it must hold"
                " '-----BEGIN PRIVATE KEY-----', or the EC or RSA form of it"
            )
        case _:
            why = reason.lower().replace("_", " ")
            return f"tls.cert: OpenSSL refuses {_shown(cert)}: {why}; issue it anew"


def _read(setting: str, path: Path) -> bytes:
    try:
        # A pipe would be empty when OpenSSL reads it again, or block.
        if not stat.S_ISREG(path.stat().st_mode):
            what = "a directory" if path.is_dir() else "not a regular file"
            raise ConfigError(f"{setting}: {_shown(path)} is {what}; name a PEM file")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{setting}: cannot read {_shown(path)} ({error.strerror});"
            " name a PEM file that this user may read"
        ) from None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # TLS 1.2: forward secrecy and AEAD, which is what RFC 9113 9.2.2 leaves; TLS 1.3 has no other.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    # All of these are strong, so the client chooses: it knows whether its processor does AES.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    # RFC 9113 9.2.1 forbids both.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # A browser comes back on one connection; OpenSSL would send two tickets.
    context.num_tickets = 1
    return context


def _shown(path: Path) -> str:
    # A message is one line, whatever a path holds.
    return str(path) if str(path).isprintable() else repr(str(path))


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
