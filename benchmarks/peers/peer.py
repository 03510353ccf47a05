"""What the harness knows of a server it does not know, and how one is found on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from benchmarks.model import ProtocolName

__all__ = ["HERE", "Peer", "Setup", "debian_version", "find", "package_version", "said"]

HERE = Path(__file__).parent

# A program that only says its version.
_SAY_SECONDS = 10


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a server is started with.

    `protocol` "http/1.1" means that it offers nothing else by ALPN.  `folder` is empty and the
    server's own, for configuration and what else it must write; `max_streams` is the
    SETTINGS_MAX_CONCURRENT_STREAMS it is to offer.
    """

    protocol: ProtocolName
    host: str
    port: int
    cert: Path
    key: Path
    folder: Path
    max_streams: int


class Peer(Protocol):
    """A server that can be started.  What is set here holds for those that do not say otherwise."""

    # As in `--server`, and as in a table.
    name: str
    title: str
    # The command that installs it.
    install: str
    protocols: tuple[ProtocolName, ...] = ("h2", "http/1.1")
    events_path: str = "/events?topic=bench"
    publish_path: str = "/publish"
    # A form with `topic` and `data`; else the body is the event's data, as it is.
    publish_form: bool = True
    # How its application or its publish path differs from the others', in a sentence or two.
    stated: str = ""

    @abstractmethod
    def version(self) -> str | None:
        """What is installed; None if it, or something it needs, is not."""

    @abstractmethod
    def command(self, setup: Setup) -> list[str]:
        """What starts it, in the foreground; writes what that needs into `setup.folder`.

        May take long (a compiler) and raises CalledProcessError or OSError when that fails.
        """


def find(program: str) -> str | None:
    """Where a program is; also in sbin, where nginx is and which only root's PATH names."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    also = [f"{folder.removesuffix('/bin')}/sbin" for folder in folders if folder.endswith("/bin")]
    return shutil.which(program, path=os.pathsep.join(folders + also))


def said(*command: str) -> str:
    """What a command writes, to stdout or stderr; "" if it fails or is not there."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SAY_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def package_version(name: str) -> str | None:
    """The version of an installed Python package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def debian_version(package: str) -> str:
    """The upstream version of an installed Debian package; "" where there is none, or no dpkg."""
    # [epoch:]upstream[+repack][-revision]
    full = said("dpkg-query", "--show", "--showformat=${Version}", package)
    return full.rpartition(":")[2].partition("-")[0].partition("+")[0]
