"""Real OpenSSL on both sides of each handshake; certificates made for the test by trustme."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from h2sse import tls
from h2sse.config import Tls
from h2sse.errors import ConfigError
from h2sse.hello import HELLO_BYTES, NO_APPLICATION_PROTOCOL_ALERT, Hello, offered_protocols
from h2sse.tls import Certificates, development_certificate, how_to_trust

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
PRIVATE = {"ca-key.pem", "localhost-key.pem"}
PUBLIC = {"ca.pem", "localhost.pem"}


# -- helpers


@dataclass(frozen=True)
class Shaken:
    """What both ends of a finished handshake agree on."""

    protocol: str | None
    version: str | None
    cipher: str
    certificate: bytes


def shake(server: ssl.SSLContext, client: ssl.SSLContext, *, host: str = "localhost") -> Shaken:
    """A handshake over a socket pair.  Raises the ssl.SSLError of whoever refuses."""
    a, b = socket.socketpair()
    with a, b:
        for end in (a, b):
            end.setblocking(False)
        wrapped = (
            client.wrap_socket(a, server_hostname=host, do_handshake_on_connect=False),
            server.wrap_socket(b, server_side=True, do_handshake_on_connect=False),
        )
        with wrapped[0] as near, wrapped[1] as far:
            for _ in range(4):  # TLS 1.2 takes two turns each, TLS 1.3 fewer
                for end in (near, far):
                    with contextlib.suppress(ssl.SSLWantReadError):
                        end.do_handshake()
            cipher = near.cipher()
            certificate = near.getpeercert(binary_form=True)
            assert cipher is not None
            assert certificate is not None
            assert near.selected_alpn_protocol() == far.selected_alpn_protocol()
            return Shaken(near.selected_alpn_protocol(), near.version(), cipher[0], certificate)


def client_context(*, ca: Path | None = None, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by default
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


class Issuer:
    """Files as an administrator would put them there."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.cert = directory / "site.pem"
        self.key = directory / "site-key.pem"

    @property
    def tls(self) -> Tls:
        return Tls(cert=self.cert, key=self.key)

    def leaf(
        self,
        *,
        key_type: trustme.KeyType = trustme.KeyType.ECDSA,
        not_before: datetime = NOW - DAY,
        not_after: datetime = NOW + 60 * DAY,
    ) -> trustme.LeafCert:
        return self.ca.issue_cert(
            "localhost", key_type=key_type, not_before=not_before, not_after=not_after
        )

    def put(self, leaf: trustme.LeafCert) -> None:
        self.put_cert(leaf)
        self.put_key(leaf)

    def put_cert(self, leaf: trustme.LeafCert) -> None:
        replace(self.cert, leaf.cert_chain_pems[0].bytes())

    def put_key(self, leaf: trustme.LeafCert) -> None:
        replace(self.key, leaf.private_key_pem.bytes())


def replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


def leaf_of(leaf: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


def message_of(tls_: Tls, *, now: datetime = NOW) -> str:
    """The one line that says why there is nothing to serve."""
    with pytest.raises(ConfigError) as caught:
        Certificates(tls_, now=now)
    message = str(caught.value)
    assert "\n" not in message
    return message


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """A directory of a user who is not root, and that user's rights."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if os.geteuid() != 0:
            yield directory
            return
        os.chown(directory, 65534, 65534)
        os.seteuid(65534)
        try:
            yield directory
        finally:
            os.seteuid(0)


# -- the development certificate


def test_development_certificate_serves_each_of_its_names(tmp_path: Path) -> None:
    made = development_certificate(tmp_path)
    assert made.made
    server = Certificates(Tls(directory=tmp_path)).context
    for host in ("localhost", "127.0.0.1", "::1"):
        # The client verifies the chain and the name.
        assert shake(server, client_context(ca=made.ca), host=host).certificate == der(made.cert)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(server, client_context(ca=made.ca), host="example.org")


def test_development_certificate_lasts_90_days_and_no_clock_is_too_slow(tmp_path: Path) -> None:
    made = development_certificate(tmp_path, now=NOW)
    leaf = x509.load_pem_x509_certificate(made.cert.read_bytes())
    assert made.not_after == leaf.not_valid_after_utc == NOW.replace(microsecond=0) + 90 * DAY
    assert leaf.not_valid_before_utc == NOW.replace(microsecond=0) - timedelta(hours=1)


def test_development_ca_issues_no_further_cas(tmp_path: Path) -> None:
    ca = x509.load_pem_x509_certificate(development_certificate(tmp_path).ca.read_bytes())
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (basic.ca, basic.path_length) == (True, 0)


def test_private_files_are_private_from_their_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    born: dict[str, int] = {}
    really_open = os.open

    def spy(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = really_open(path, flags, mode)
        info = os.fstat(descriptor)
        born[Path(path).name] = stat.S_IMODE(info.st_mode)
        assert info.st_size == 0
        return descriptor

    monkeypatch.setattr(os, "open", spy)
    old = os.umask(0)
    try:
        development_certificate(tmp_path)
    finally:
        os.umask(old)
    # Each is written under a name of its own (git-ignored by *.pem), then takes its place.
    assert {name for name, mode in born.items() if mode == 0o600} >= {f".{n}" for n in PRIVATE}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.pem")}
    assert modes == dict.fromkeys(PRIVATE, 0o600) | dict.fromkeys(PUBLIC, 0o644)


def test_a_directory_we_create_ignores_itself(tmp_path: Path) -> None:
    ours = tmp_path / "deep" / "certs"
    development_certificate(ours)
    assert (ours / ".gitignore").read_text().splitlines()[-1] == "*"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    development_certificate(theirs)
    assert not (theirs / ".gitignore").exists()


def test_development_certificate_is_kept_while_it_is_good(tmp_path: Path) -> None:
    first = development_certificate(tmp_path, now=NOW)
    files = {path: path.read_bytes() for path in tmp_path.glob("*.pem")}
    again = development_certificate(tmp_path, now=NOW + 59 * DAY)
    assert not again.made
    assert again.not_after == first.not_after
    assert files == {path: path.read_bytes() for path in tmp_path.glob("*.pem")}


@pytest.mark.parametrize("days", [61, 91, -1], ids=["due", "expired", "not yet valid"])
def test_renewal_keeps_the_ca(tmp_path: Path, days: int) -> None:
    first = development_certificate(tmp_path, now=NOW)
    leaf, ca = first.cert.read_bytes(), first.ca.read_bytes()
    renewed = development_certificate(tmp_path, now=NOW + days * DAY)
    assert renewed.made
    assert renewed.not_after == first.not_after + days * DAY
    assert renewed.cert.read_bytes() != leaf
    assert renewed.ca.read_bytes() == ca
    # Issued by it, too: whoever trusts that CA trusts this.
    x509.load_pem_x509_certificate(renewed.cert.read_bytes()).verify_directly_issued_by(
        x509.load_pem_x509_certificate(ca)
    )


@pytest.mark.parametrize("name", ["localhost.pem", "localhost-key.pem"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "another"])
def test_a_damaged_certificate_is_made_again_under_the_same_ca(
    tmp_path: Path, name: str, damage: str
) -> None:
    first = development_certificate(tmp_path / "certs")
    ca = first.ca.read_bytes()
    harm(tmp_path / "certs" / name, damage)
    again = development_certificate(tmp_path / "certs")
    assert again.made
    assert again.ca.read_bytes() == ca
    shake(Certificates(Tls(directory=tmp_path / "certs")).context, client_context(ca=again.ca))


def harm(path: Path, damage: str) -> None:
    match damage:
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(path.read_bytes()[:150])
        case _:
            other = development_certificate(path.parent.parent / "other")
            path.write_bytes((other.ca.parent / path.name).read_bytes())


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "another"])
def test_a_damaged_ca_is_made_again(tmp_path: Path, damage: str) -> None:
    first = development_certificate(tmp_path / "certs")
    harm(first.ca, damage)
    broken = first.ca.read_bytes() if first.ca.exists() else None
    again = development_certificate(tmp_path / "certs")
    assert again.made
    assert again.ca.read_bytes() != broken
    shake(Certificates(Tls(directory=tmp_path / "certs")).context, client_context(ca=again.ca))


def test_a_ca_without_its_key_serves_until_renewal(tmp_path: Path) -> None:
    first = development_certificate(tmp_path, now=NOW)
    ca = first.ca.read_bytes()
    (tmp_path / "ca-key.pem").unlink()  # as the careful do
    assert not development_certificate(tmp_path, now=NOW).made
    renewed = development_certificate(tmp_path, now=NOW + 80 * DAY)
    assert renewed.made
    assert renewed.ca.read_bytes() != ca


def foreign_ca(kind: str) -> tuple[bytes, bytes]:
    """A certificate and key that load, and that cannot issue what we need."""
    if kind == "not a CA":
        leaf = trustme.CA().issue_cert("localhost")
        return leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes()
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    if kind == "Ed25519":  # trustme signs with SHA-256 only
        key, digest = ed25519.Ed25519PrivateKey.generate(), None
    else:
        key, digest = ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "foreign")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + (80 * DAY if kind == "ends too soon" else 3650 * DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if kind != "no key identifier":
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    return (
        builder.sign(key, digest).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


@pytest.mark.parametrize("kind", ["not a CA", "ends too soon", "no key identifier", "Ed25519"])
def test_a_foreign_ca_is_moved_aside_not_destroyed(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = foreign_ca(kind)
    (tmp_path / "ca.pem").write_bytes(cert)
    (tmp_path / "ca-key.pem").write_bytes(key)
    (tmp_path / "localhost.pem").write_bytes(b"someone's own")
    made = development_certificate(tmp_path, now=NOW)
    assert made.made
    assert (tmp_path / "ca.old.pem").read_bytes() == cert
    assert (tmp_path / "ca-key.old.pem").read_bytes() == key
    assert (tmp_path / "localhost.old.pem").read_bytes() == b"someone's own"
    assert len(warnings_in(caplog)) == 3  # one a file
    shake(Certificates(Tls(directory=tmp_path)).context, client_context(ca=made.ca))


MAKE = """
import json, sys
from pathlib import Path
from h2sse.tls import development_certificate
print("ready", flush=True)
sys.stdin.readline()
made = development_certificate(Path(sys.argv[1]))
print(json.dumps([made.made, made.not_after.isoformat(), made.cert.read_text(),
                  made.key.read_text(), made.ca.read_text()]))
"""


@contextlib.contextmanager
def makers(directory: Path, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that will make the certificate as soon as they are sent a line."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def result(process: subprocess.Popen[str]) -> tuple[bool, list[str]]:
    out, _ = process.communicate(timeout=60)
    made, *rest = json.loads(out)
    return made, rest


def test_processes_that_start_at_once_share_one_certificate(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    with makers(directory, 4) as processes:
        for process in processes:
            start(process)
        results = [result(process) for process in processes]
    assert sorted(made for made, _ in results) == [False, False, False, True]
    assert all(files == results[0][1] for _, files in results)
    shake(Certificates(Tls(directory=directory)).context, client_context(ca=directory / "ca.pem"))
    assert {path.name for path in directory.iterdir()} == (
        PRIVATE | PUBLIC | {".gitignore", "h2sse.lock"}
    )


def test_who_waited_for_the_lock_takes_what_was_made_meanwhile(tmp_path: Path) -> None:
    with makers(tmp_path, 1) as processes:
        with tls._locked(tmp_path / "h2sse.lock"):
            start(processes[0])
            # Whether it already waits or comes later: it must find ours, and not make its own.
            made = tls._made(tmp_path, NOW)
        other_made, (_, cert, _, ca) = result(processes[0])
    assert not other_made
    assert (cert, ca) == (made.cert.read_text(), made.ca.read_text())


def test_a_lock_that_is_never_let_go_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOCK_SECONDS", 0.05)
    with (
        tls._locked(tmp_path / "h2sse.lock"),
        pytest.raises(ConfigError, match=r"another process has held .*h2sse\.lock for 0\.05 s"),
    ):
        development_certificate(tmp_path)


def test_good_files_need_no_lock_and_no_write(tmp_path: Path) -> None:
    development_certificate(tmp_path)
    with tls._locked(tmp_path / "h2sse.lock"):
        assert not development_certificate(tmp_path).made


def test_a_directory_that_cannot_be_written_is_one_line() -> None:
    with unprivileged() as home:
        certs = home / "certs"
        certs.mkdir(mode=0o500)
        message = message_of(Tls(directory=certs))
        assert str(certs) in message
        assert "Permission denied" in message
        assert "choose one that can be written" in message
        assert str(certs / "deeper") in message_of(Tls(directory=certs / "deeper"))


def test_a_file_in_place_of_the_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "certs").write_text("")
    assert str(tmp_path / "certs") in message_of(Tls(directory=tmp_path / "certs"))
    assert str(tmp_path / "certs" / "x") in message_of(Tls(directory=tmp_path / "certs" / "x"))


def test_how_to_trust_names_the_file_for_each_system() -> None:
    text = how_to_trust(Path("my certs/ca.pem"))
    assert "curl --cacert 'my certs/ca.pem' https://localhost:8443/" in text
    for word in ("curl -k", "Chrome", "Firefox", "Debian, Ubuntu", "macOS", "Windows"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


def test_importing_the_module_imports_no_cryptography() -> None:
    code = "import sys, h2sse.tls; print({'trustme', 'cryptography'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"


# -- the context


@pytest.mark.parametrize(
    ("http1", "offered", "chosen"),
    [
        (False, ("h2", "http/1.1"), "h2"),
        (False, ("http/1.1", "h2"), "h2"),
        (False, ("http/1.1",), "http/1.1"),
        (False, (), None),
        (True, ("h2", "http/1.1"), "http/1.1"),
        (True, (), None),
    ],
)
def test_b55_alpn_chooses(
    issuer: Issuer, http1: bool, offered: tuple[str, ...], chosen: str | None
) -> None:
    issuer.put(issuer.leaf())
    certificates = Certificates(issuer.tls, http1=http1)
    shaken = shake(certificates.context, client_context(alpn=offered))
    assert (shaken.protocol, shaken.version) == (chosen, "TLSv1.3")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_b55_tls_1_1_is_refused(issuer: Issuer) -> None:
    issuer.put(issuer.leaf())
    client = client_context()
    client.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL would not even say TLS 1.1
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        shake(Certificates(issuer.tls).context, client)


def test_tls_1_2_has_only_what_http2_allows(issuer: Issuer) -> None:
    issuer.put(issuer.leaf())
    server = Certificates(issuer.tls).context
    client = client_context(alpn=("h2",))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    shaken = shake(server, client)
    assert (shaken.protocol, shaken.version) == ("h2", "TLSv1.2")
    # RFC 9113 9.2.2: CBC is on its list, so is every key exchange without forward secrecy.
    client.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM")
    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
        shake(server, client)
    for suite in server.get_ciphers():
        assert suite["protocol"] == "TLSv1.3" or suite["name"].startswith("ECDHE-")
        assert any(aead in suite["name"] for aead in ("GCM", "CHACHA20"))


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"])
def test_the_client_chooses_the_cipher(issuer: Issuer, suite: str) -> None:
    issuer.put(issuer.leaf())
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(f"ECDHE-ECDSA-{suite}:ECDHE+AESGCM:ECDHE+CHACHA20")
    assert shake(Certificates(issuer.tls).context, client).cipher == f"ECDHE-ECDSA-{suite}"


def test_options_of_rfc_9113_9_2_1(issuer: Issuer) -> None:
    issuer.put(issuer.leaf())
    context = Certificates(issuer.tls).context
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.num_tickets == 1


# -- files that cannot be served


def test_no_pair_at_all(issuer: Issuer) -> None:
    assert message_of(issuer.tls).startswith(f"tls.cert: cannot read {issuer.cert} (No such file")
    issuer.put_cert(issuer.leaf())
    assert message_of(issuer.tls).startswith(f"tls.key: cannot read {issuer.key} (No such file")


@pytest.mark.parametrize("which", ["cert", "key"])
def test_a_directory_or_pipe_in_place_of_a_file(issuer: Issuer, which: str) -> None:
    issuer.put(issuer.leaf())
    path = {"cert": issuer.cert, "key": issuer.key}[which]
    path.unlink()
    path.mkdir()
    assert message_of(issuer.tls).startswith(f"tls.{which}: {path} is a directory;")
    path.rmdir()
    os.mkfifo(path)  # which to read would wait for a writer
    assert message_of(issuer.tls).startswith(f"tls.{which}: {path} is not a regular file;")


@pytest.mark.parametrize("which", ["cert", "key"])
def test_a_file_that_may_not_be_read(which: str) -> None:
    with unprivileged() as home:
        issuer = Issuer(home)
        issuer.put(issuer.leaf())
        path = {"cert": issuer.cert, "key": issuer.key}[which]
        path.chmod(0)
        expected = f"tls.{which}: cannot read {path} (Permission denied);"
        assert message_of(issuer.tls).startswith(expected)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x30\x82\x01\x00", b"-----BEGIN "])
def test_a_file_that_is_not_pem(issuer: Issuer, content: bytes) -> None:
    issuer.put(issuer.leaf())
    issuer.key.write_bytes(content)
    assert message_of(issuer.tls).startswith(f"tls.key: {issuer.key} is not a PEM private key;")
    issuer.cert.write_bytes(content)
    assert message_of(issuer.tls).startswith(f"tls.cert: {issuer.cert} is not a PEM certificate;")


def test_a_certificate_of_no_known_version(issuer: Issuer) -> None:
    leaf = issuer.leaf()
    issuer.put(leaf)
    v3, v8 = b"\xa0\3\2\1\2", b"\xa0\3\2\1\7"
    odd = leaf_of(leaf).replace(v3, v8, 1)
    issuer.cert.write_text(ssl.DER_cert_to_PEM_cert(odd))
    assert message_of(issuer.tls).startswith(f"tls.cert: {issuer.cert} is not a PEM certificate;")


def test_cert_and_key_swapped(issuer: Issuer) -> None:
    issuer.put(issuer.leaf())
    swapped = Tls(cert=issuer.key, key=issuer.cert)
    assert message_of(swapped).startswith(f"tls.cert: {issuer.key} is not a PEM certificate;")


def test_a_broken_chain(issuer: Issuer) -> None:
    issuer.put(issuer.leaf())
    whole = issuer.cert.read_bytes()
    issuer.cert.write_bytes(
        whole + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    assert message_of(issuer.tls).startswith(f"tls.cert: {issuer.cert} is not a PEM certificate;")
    issuer.cert.write_bytes(whole + whole[:100])
    assert message_of(issuer.tls).startswith(f"tls.cert: OpenSSL refuses {issuer.cert}: ")


@pytest.mark.parametrize("key_type", list(trustme.KeyType))
def test_a_key_of_another_certificate(issuer: Issuer, key_type: trustme.KeyType) -> None:
    issuer.put_cert(issuer.leaf())
    issuer.put_key(issuer.leaf(key_type=key_type))
    message = message_of(issuer.tls)
    assert message.startswith(f"tls.key: {issuer.key} does not belong to the first certificate")
    assert str(issuer.cert) in message


def test_the_chain_before_the_certificate(issuer: Issuer) -> None:
    issuer.put(issuer.leaf())
    issuer.cert.write_bytes(issuer.ca.cert_pem.bytes() + issuer.cert.read_bytes())
    assert "put the server's own first" in message_of(issuer.tls)


@pytest.mark.parametrize(
    "form",
    [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL],
    ids=["PKCS8", "traditional"],
)
def test_an_encrypted_key_is_refused_without_asking(
    issuer: Issuer, form: serialization.PrivateFormat
) -> None:
    leaf = issuer.leaf()
    issuer.put(leaf)
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    issuer.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            form,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    message = message_of(issuer.tls)
    assert message.startswith(f"tls.key: {issuer.key} is encrypted;")
    assert "openssl pkey" in message


def test_an_expired_certificate(issuer: Issuer) -> None:
    end = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
    issuer.put(issuer.leaf(not_before=end - 90 * DAY, not_after=end))
    assert message_of(issuer.tls, now=end + timedelta(seconds=1)) == (
        f"tls.cert: {issuer.cert} expired on 2026-03-04 05:06 UTC; renew it"
    )
    # RFC 5280 4.1.2.5: that second itself is still good.
    assert Certificates(issuer.tls, now=end).not_after == end


def test_a_certificate_of_the_future(issuer: Issuer) -> None:
    begin = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
    issuer.put(issuer.leaf(not_before=begin, not_after=begin + DAY))
    message = message_of(issuer.tls, now=begin - timedelta(seconds=1))
    assert message.startswith(f"tls.cert: {issuer.cert} is not valid before 2026-03-04 05:06 UTC;")


def test_a_path_cannot_break_the_line(tmp_path: Path) -> None:
    odd = tmp_path / "a\nb.pem"
    assert repr(str(odd)) in message_of(Tls(cert=odd, key=odd))


def test_one_file_may_hold_both(issuer: Issuer) -> None:
    leaf = issuer.leaf()
    issuer.cert.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    certificates = Certificates(Tls(cert=issuer.cert, key=issuer.cert))
    assert shake(certificates.context, client_context()).certificate == leaf_of(leaf)


# -- files that change


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert all(r.name == "h2sse.tls" for r in caplog.records)
    assert not any("\n" in line for line in found)
    return found


def test_a_changed_certificate_is_served_to_the_next_client(issuer: Issuer) -> None:
    first, second = issuer.leaf(), issuer.leaf(not_after=NOW.replace(microsecond=0) + 9 * DAY)
    issuer.put(first)
    certificates = Certificates(issuer.tls)
    assert shake(certificates.context, client_context()).certificate == leaf_of(first)
    assert not certificates.check()
    issuer.put(second)
    assert certificates.check()
    assert not certificates.check()
    shaken = shake(certificates.context, client_context(alpn=("h2",)))
    assert (shaken.certificate, shaken.protocol) == (leaf_of(second), "h2")
    assert certificates.not_after == NOW.replace(microsecond=0) + 9 * DAY


def test_a_file_written_in_place_is_seen_too(issuer: Issuer) -> None:
    first, second = issuer.leaf(), issuer.leaf()
    issuer.put(first)
    certificates = Certificates(issuer.tls)
    times = [(path, path.stat()) for path in (issuer.cert, issuer.key)]
    issuer.cert.write_bytes(second.cert_chain_pems[0].bytes())
    issuer.key.write_bytes(second.private_key_pem.bytes())
    for path, info in times:  # as `cp -p` and rsync set them
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert certificates.check()
    assert shake(certificates.context, client_context()).certificate == leaf_of(second)


def test_nothing_is_left_of_a_certificate_with_another_key_type(issuer: Issuer) -> None:
    issuer.put(issuer.leaf(key_type=trustme.KeyType.RSA))
    certificates = Certificates(issuer.tls)
    only_rsa = client_context()
    only_rsa.maximum_version = ssl.TLSVersion.TLSv1_2
    only_rsa.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    shake(certificates.context, only_rsa)
    issuer.put(issuer.leaf(key_type=trustme.KeyType.ECDSA))
    assert certificates.check()
    # One context loaded twice would go on serving the RSA certificate to this client.
    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
        shake(certificates.context, only_rsa)


@pytest.mark.parametrize("cert_first", [True, False])
def test_a_mismatch_heals_when_the_other_file_follows(
    issuer: Issuer, cert_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = issuer.leaf(), issuer.leaf()
    issuer.put(first)
    certificates = Certificates(issuer.tls)
    steps = [issuer.put_cert, issuer.put_key]
    if not cert_first:
        steps.reverse()
    steps[0](second)
    assert not certificates.check()
    assert not certificates.check()
    assert shake(certificates.context, client_context()).certificate == leaf_of(first)
    assert len(warnings_in(caplog)) == 1
    assert "does not belong" in warnings_in(caplog)[0]
    steps[1](second)
    assert certificates.check()
    assert shake(certificates.context, client_context()).certificate == leaf_of(second)
    assert len(warnings_in(caplog)) == 1


def test_a_bad_replacement_is_told_once_and_again_when_it_changes(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = issuer.leaf(), issuer.leaf()
    issuer.put(first)
    certificates = Certificates(issuer.tls)
    context = certificates.context
    for count, content in enumerate((b"junk", b"more junk", b"")):
        replace(issuer.cert, content)
        assert not certificates.check()
        assert not certificates.check()
        assert len(warnings_in(caplog)) == count + 1
    issuer.cert.unlink()
    assert not certificates.check()
    assert "No such file" in warnings_in(caplog)[-1]
    assert certificates.context is context
    assert shake(context, client_context()).certificate == leaf_of(first)
    issuer.put(second)
    assert certificates.check()
    assert shake(certificates.context, client_context()).certificate == leaf_of(second)


def test_a_replacement_of_tomorrow_is_taken_tomorrow(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = issuer.leaf(), issuer.leaf(not_before=NOW + DAY)
    issuer.put(first)
    certificates = Certificates(issuer.tls, now=NOW)
    issuer.put(second)
    assert not certificates.check(NOW)
    assert not certificates.check(NOW + timedelta(hours=1))
    assert len(warnings_in(caplog)) == 1
    assert certificates.check(NOW + 2 * DAY)
    assert shake(certificates.context, client_context()).certificate == leaf_of(second)


def test_a_bad_replacement_taken_back_is_forgotten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    issuer = Issuer(site)
    issuer.put(issuer.leaf())
    certificates = Certificates(issuer.tls)
    away = site.with_name("away")
    for count in (1, 2):
        site.rename(away)  # the files' own times stay as they are
        assert not certificates.check()
        assert len(warnings_in(caplog)) == count
        away.rename(site)
        assert not certificates.check()


def test_a_running_server_renews_its_development_certificate(tmp_path: Path) -> None:
    certificates = Certificates(Tls(directory=tmp_path), now=NOW)
    first = certificates.development
    assert first is not None
    assert first.made
    old = first.cert.read_bytes()
    assert not certificates.check(NOW + 59 * DAY)
    assert first.cert.read_bytes() == old
    assert certificates.check(NOW + 61 * DAY)
    assert certificates.not_after == first.not_after + 61 * DAY
    assert certificates.development is not None
    assert certificates.development.not_after == certificates.not_after
    assert shake(certificates.context, client_context()).certificate == der(first.cert)
    assert first.cert.read_bytes() != old
    assert not certificates.check(NOW + 62 * DAY)


def test_a_running_server_makes_a_lost_development_certificate_again(tmp_path: Path) -> None:
    certificates = Certificates(Tls(directory=tmp_path))
    ca = (tmp_path / "ca.pem").read_bytes()
    (tmp_path / "localhost.pem").unlink()
    assert certificates.check()
    shaken = shake(certificates.context, client_context(ca=tmp_path / "ca.pem"))
    assert shaken.certificate == der(tmp_path / "localhost.pem")
    assert (tmp_path / "ca.pem").read_bytes() == ca


def test_a_renewal_that_fails_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with unprivileged() as home:
        certificates = Certificates(Tls(directory=home), now=NOW)
        (home / "h2sse.lock").unlink()
        home.chmod(0o500)
        assert not certificates.check(NOW + 61 * DAY)
        assert not certificates.check(NOW + 62 * DAY)
        assert len(warnings_in(caplog)) == 1
        assert "Permission denied" in warnings_in(caplog)[0]
        home.chmod(0o700)
        assert certificates.check(NOW + 63 * DAY)
        assert certificates.not_after > NOW + 152 * DAY


def test_b55_no_common_protocol_is_an_alert(issuer: Issuer) -> None:
    """Over loopback, as a server would: peek, decide, alert."""
    issuer.put(issuer.leaf())
    certificates = Certificates(issuer.tls)
    client = client_context(alpn=("spdy/3",))
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as plain,
        client.wrap_socket(plain, do_handshake_on_connect=False) as near,
        listener.accept()[0] as far,
    ):
        near.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            near.do_handshake()
        offer = offered_protocols(far.recv(HELLO_BYTES, socket.MSG_PEEK))
        assert offer == Hello((b"spdy/3",))
        assert not offer.accepts(certificates.protocols)
        far.sendall(NO_APPLICATION_PROTOCOL_ALERT)
        near.settimeout(10)
        with pytest.raises(ssl.SSLError, match="alert no application protocol"):
            near.do_handshake()
    # Why all this: asked to, OpenSSL finishes the handshake with no protocol at all.
    assert shake(certificates.context, client).protocol is None
