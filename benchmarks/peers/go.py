"""Go's net/http, by go.go beside this file, which says how and why.

Built once for each version of the source and of Go, without modules and without the network:
Debian keeps golang.org/x/net as source where GOPATH finds it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import final

from .peer import HERE, Peer, Setup, debian_version, find, said

__all__ = ["Go"]

_SOURCE = HERE / "go.go"
_PACKAGE = "golang.org/x/net/http2"
_DEBIAN_GOPATH = Path("/usr/share/gocode")

# A cold build compiles crypto/tls and net/http; 20 s on two cores.
_BUILD_SECONDS = 300


@final
class Go(Peer):
    name = "go"
    title = "Go net/http"
    install = "apt install golang-go golang-golang-x-net-dev"
    stated = (
        "A small application of its own, without ids or history; answers a publish when the event"
        " waits in the channel of every stream."
    )

    def version(self) -> str | None:
        program = find("go")
        if not program or not _gopath(program):
            return None
        # "go version go1.19.8 linux/amd64"
        _, _, go, *_ = said(program, "version").split() or ("", "", "")
        package = debian_version("golang-golang-x-net-dev")
        return ", x/net ".join(filter(None, (go.removeprefix("go"), package))) or None

    def command(self, setup: Setup) -> list[str]:
        return [
            *(str(_built()), "-protocol", setup.protocol, "-addr", f"{setup.host}:{setup.port}"),
            *("-cert", str(setup.cert), "-key", str(setup.key)),
            *("-max-streams", str(setup.max_streams)),
        ]


def _gopath(program: str) -> str:
    """Where the source of golang.org/x/net is; "" if nowhere."""
    for folder in (*said(program, "env", "GOPATH").split(os.pathsep), str(_DEBIAN_GOPATH)):
        if folder and (Path(folder) / "src" / _PACKAGE).is_dir():
            return folder
    return ""


def _built() -> Path:
    """The server's program, built if it was not yet."""
    program = find("go") or "go"
    version = said(program, "version").encode()
    name = hashlib.sha256(version + _SOURCE.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "h2sse-benchmarks"
    built = cache / f"go-{name}"
    if built.exists():
        return built
    cache.mkdir(parents=True, exist_ok=True)
    # Renamed when it is whole: two may build at once, or be stopped half-way.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        half = Path(folder) / "server"
        # GOPROXY=off: what is missing is an error, not a download.
        mode = {"GO111MODULE": "off", "GOPATH": _gopath(program), "GOPROXY": "off", "GOFLAGS": ""}
        subprocess.run(
            [program, "build", "-o", half, _SOURCE],
            env=os.environ | mode,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=True,
        )
        half.replace(built)
    return built
