"""nginx with the nchan module, by nchan.conf.in beside this file, which says how and why."""

from __future__ import annotations

import os
import pwd
import re
import resource
from pathlib import Path
from typing import final

from .peer import HERE, Peer, Setup, debian_version, find, said

__all__ = ["Nchan"]

_TEMPLATE = HERE / "nchan.conf.in"
_MODULE = "ngx_nchan_module.so"

# nginx takes 500 bytes a connection at its start, used or not: a machine that allows a billion
# descriptors is not asked for them.
_MOST_CONNECTIONS = 65_536


@final
class Nchan(Peer):
    name = "nchan"
    title = "nginx + nchan"
    install = "apt install nginx libnginx-mod-nchan"
    publish_path = "/publish?topic=bench"
    publish_form = False
    stated = (
        "Takes the body of a publish as the data, and the topic from the query; gives ids of its"
        " own and remembers the last 1,000 events; answers when the event is stored and handed to"
        " its streams.  Needs `Accept: text/event-stream`, which browsers send."
    )

    def version(self) -> str | None:
        program = find("nginx")
        modules = program and _modules(program)
        if not program or not modules or not (Path(modules) / _MODULE).exists():
            return None
        # "nginx version: nginx/1.22.1"
        nginx = f"nginx {said(program, '-v').rpartition('/')[2]}"
        return ", ".join(filter(None, (debian_version("libnginx-mod-nchan"), nginx)))

    def command(self, setup: Setup) -> list[str]:
        program = find("nginx") or "nginx"
        _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
        values = {
            "modules": _modules(program),
            # Started by root, its worker would be nobody, who may not enter the folder.
            "user": f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else "",
            "descriptors": str(min(descriptors, _MOST_CONNECTIONS)),
            "cert": str(setup.cert),
            "key": str(setup.key),
            "host": setup.host,
            "port": str(setup.port),
            "http2": "http2" if setup.protocol == "h2" else "",
            "max_streams": str(setup.max_streams),
        }
        text = re.sub("@([a-z0-9_]+)@", lambda found: values[found[1]], _TEMPLATE.read_text())
        config = setup.folder / "nginx.conf"
        config.write_text(text)
        # -e: what is wrong before the configuration is read goes there too.
        return [program, "-p", str(setup.folder), "-c", str(config), "-e", "stderr"]


def _modules(program: str) -> str:
    found = re.search(r"--modules-path=(\S+)", said(program, "-V"))
    return found[1] if found else ""
