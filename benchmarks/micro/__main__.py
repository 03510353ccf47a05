"""Run the micro benchmarks and print CPU microseconds an operation."""

from __future__ import annotations

import importlib
import platform
import sys

from . import measure

MODULES = ("encode", "offer", "open", "parse", "receive")


def main(names: list[str]) -> int:
    """Run those named, or all."""
    unknown = set(names) - set(MODULES)
    if unknown:
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
        return 2
    print(f"CPython {platform.python_version()}, CPU us an operation")
    print(f"{'':44} {'median':>9} {'best':>9} {'worst':>9}")
    for name in names or MODULES:
        for case in importlib.import_module(f"benchmarks.micro.{name}").cases():
            result = measure(case)
            print(
                f"{name + ': ' + result.name:44} {result.median:9.3f} {result.best:9.3f}"
                f" {result.worst:9.3f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
