"""What the figures were measured on, as it is kept beside them (results/machine.json).

Enough to say why another machine differs, and nothing that says whose this one is: no names of
hosts or users, no paths.  Each fact is read anew when asked for; Linux only, like the rest.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import ssl
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

from .peers import PEERS

__all__ = ["Fact", "facts"]

Fact: TypeAlias = str | float | dict[str, str] | None

_ROOT = Path(__file__).parents[1]
# What the server and its client stand on; the peers speak for themselves.
_PACKAGES = ("h2", "hpack", "h11", "trio", "priority", "numpy")
# What a figure depends on: not the results, which a run itself writes, nor the pages made of them.
_MEASURED = ("h2sse", "benchmarks", "pyproject.toml", ":!benchmarks/results", ":!*.md")

_GIT_SECONDS = 10


def facts() -> dict[str, Fact]:
    """What this machine and this checkout are, for JSON; takes a second for asking the peers.

    None is what could not be found out; `packages` and `peers` are those installed.
    """
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "virtual": bool(
            re.search(r"^flags\s*:.*\bhypervisor\b", _read("/proc/cpuinfo"), re.MULTILINE)
        ),
        "cores": os.cpu_count() or 0,
        # What a container or taskset leaves of them.
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_gib": _memory_gib(),
        "kernel": _kernel(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "tls": ssl.OPENSSL_VERSION,
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "peers": {name: found for name, peer in PEERS.items() if (found := peer.version())},
        "descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control").strip() or None,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": _dirty(),
    }


def _cpu() -> str:
    # ARM has no model name.
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _memory_gib() -> float | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return round(int(found[1]) / 1024**2, 1) if found else None


def _kernel() -> str:
    # Without what follows the numbers, which whoever built it chose.
    found = re.match(r"[\d.]+", platform.release())
    return f"{platform.system()} {found[0] if found else ''} {platform.machine()}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _dirty() -> bool | None:
    """Whether the code measured is not the commit's."""
    changed = _git("status", "--porcelain", "--", *_MEASURED)
    return None if changed is None else bool(changed)


def _git(*arguments: str) -> str | None:
    """What git says of this checkout; None if there is no git, or no checkout."""
    try:
        done = subprocess.run(
            # Without optional locks: asking must not disturb a git that works here just now.
            ("git", "--no-optional-locks", *arguments),
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
