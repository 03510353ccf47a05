"""The ladder's server: h2sse with one page more, in a process of its own.

    python -m benchmarks.browser.server h2 256 DIRECTORY

It says its URL on stdout.  Each line on stdin is published, and answered with what the server
itself sees, whatever the browser thinks: its open streams, and the connections they are on.  It
ends when stdin does, and so never outlives who started it.  `DIRECTORY` is where its development
CA goes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import trio

import h2sse

TOPIC = "ladder"


async def main(protocol: str, max_streams: int, directory: Path) -> None:
    app = h2sse.App()
    app.page("/tab", Path(__file__).with_name("page.html"))
    config = h2sse.Config(
        port=0,
        http1=protocol == "http/1.1",
        limits=h2sse.Limits(max_concurrent_streams=max_streams),
        tls=h2sse.Tls(directory=directory),
    )
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(h2sse.serve, app, config)
        print(listening.url, flush=True)
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as asked:
            # A line is shorter than a pipe's atomic write, and follows the answer to the last.
            async for line in asked:
                app.publish(TOPIC, h2sse.Event(data=line.decode().strip()))
                tabs = app.tabs(TOPIC)
                seen = {
                    "streams": len(tabs),
                    "connections": len({each.connection for each in tabs}),
                    "protocols": sorted({each.protocol for each in tabs}),
                }
                print(json.dumps(seen), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
