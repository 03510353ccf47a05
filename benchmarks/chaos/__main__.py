"""The command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from benchmarks import machine

from .plan import plan
from .report import report
from .run import Chaos, chaos

__all__ = ["main"]

# On a machine of a few cores more would only stand in each other's way.
_PROCESSES = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if every tab saw, or was told, what it must."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description="Break what can break, and see whether any tab missed an event.",
    )
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="(default: 10)")
    parser.add_argument("--tabs", type=int, default=1_000, metavar="N", help="(default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report there, too")
    arguments = parser.parse_args(argv)
    record = Chaos(
        tabs=arguments.tabs,
        processes=min(_PROCESSES, arguments.tabs),
        seconds=arguments.minutes * 60,
        seed=arguments.seed,
    )
    facts = machine.facts()
    trio.run(chaos, record, plan(record.seconds, record.seed, record.processes))
    text = report(record, facts)
    print(f"\n{text}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(f"{text}\n", encoding="utf-8")
    return 0 if record.held else 1


if __name__ == "__main__":
    sys.exit(main())
