"""`python -m benchmarks`: measure, report, check the harness itself, or probe the servers.

See docs/benchmarks.md, and docs/conformance.md for the last.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from benchmarks import conformance, machine, peers
from benchmarks.display import Progress
from benchmarks.report import write
from benchmarks.results import Store
from benchmarks.runner import Plan, plan, run
from benchmarks.scenarios import Scale, Scenario
from benchmarks.scenarios.browser import browser_scenario
from benchmarks.scenarios.fanout import FANOUT
from benchmarks.scenarios.open import OPEN
from benchmarks.scenarios.ramp import RAMP
from benchmarks.scenarios.stall import STALL
from benchmarks.scenarios.storm import STORM
from benchmarks.selftest import selftest

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent

# The quick run compares what needs no installing; the others join where they are named.
_QUICK_SERVERS = ("h2sse", "hypercorn")
_QUICK_SCENARIOS = ("browser", "fanout", "ramp")


def scenarios(browser: str) -> dict[str, Scenario]:
    """By name, in the order they are run."""
    every: tuple[Scenario, ...] = (browser_scenario(browser), FANOUT, RAMP, OPEN, STORM, STALL)
    return {each.name: each for each in every}


def main(argv: Sequence[str] | None = None) -> int:
    """The command.  Returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        return _list(arguments)
    command: Callable[[argparse.Namespace], int] = {
        "run": _run,
        "report": _report,
        "selftest": _selftest,
        "conformance": _conformance,
    }[arguments.command]
    return command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="How many tabs, at what cost, over HTTP/2 and HTTP/1.1, and beside others.",
        epilog="The quick run takes up to 5 minutes; the full one 80 with all servers.",
    )
    parser.add_argument(
        "command", nargs="?", choices=("run", "report", "selftest", "conformance"), default="run"
    )
    parser.add_argument("--full", action="store_true", help="all scenarios, cases and servers")
    names = ", ".join(scenarios("chromium"))
    parser.add_argument(
        "--scenario", action="append", metavar="NAME", help=f"only these, of {names}"
    )
    parser.add_argument(
        "--server", action="append", metavar="NAME", help=f"only these, of {', '.join(peers.PEERS)}"
    )
    parser.add_argument("--rounds", type=_rounds, help="how often each is measured (3, as a rule)")
    parser.add_argument("--browser", choices=("chromium", "firefox"), default="chromium")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="where results are written: a folder (benchmarks/results/quick or full), which keeps"
        " those of other scenarios; of `conformance` the page (docs/conformance.md)",
    )
    parser.add_argument("--list", action="store_true", help="scenarios and servers, then end")
    return parser


def _rounds(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1")
    return number


def _run(arguments: argparse.Namespace) -> int:
    chosen = _choose(arguments)
    if isinstance(chosen, str):
        print(chosen, file=sys.stderr)
        return 2
    scale = Scale.FULL if arguments.full else Scale.QUICK
    folder = arguments.out or RESULTS / scale.value
    store = Store(folder)
    command = f"uv run python -m benchmarks {shlex.join(sys.argv[1:])}".rstrip()
    store.begin({"command": command, **machine.facts()}, list(chosen[0]))
    work: Plan = plan(
        list(chosen[0].values()),
        list(chosen[1].values()),
        scale,
        rounds=arguments.rounds,
    )
    interrupted = False
    with Progress(len(work.measurements)) as progress:
        try:
            trio.run(partial(run, work, store, progress), strict_exception_groups=True)
        except BaseExceptionGroup as group:
            if group.split(KeyboardInterrupt)[1] is not None:
                raise
            interrupted = True
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        print("interrupted: what is finished is kept", file=sys.stderr)
    print(write(store, folder))
    return 130 if interrupted else 0


def _choose(
    arguments: argparse.Namespace,
) -> tuple[dict[str, Scenario], dict[str, peers.Peer]] | str:
    """What is to run, or what is wrong with what was asked for."""
    every = scenarios(arguments.browser)
    wanted = arguments.scenario or (every if arguments.full else _QUICK_SCENARIOS)
    servers = arguments.server or (peers.PEERS if arguments.full else _QUICK_SERVERS)
    for kind, names, known in (
        ("scenario", wanted, every),
        ("server", servers, peers.PEERS),
    ):
        for name in names:
            if name not in known:
                return f"no such {kind}: {name}; there are {', '.join(known)}"
    return {name: every[name] for name in wanted}, {name: peers.PEERS[name] for name in servers}


def _list(arguments: argparse.Namespace) -> int:
    print("scenarios")
    for name, scenario in scenarios(arguments.browser).items():
        print(f"  {name:10} {scenario.about}")
    print("servers")
    for name, peer in peers.PEERS.items():
        version = peer.version()
        state = version if version is not None else f"not installed: {peer.install}"
        print(f"  {name:10} {peer.title}: {state}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    folder = arguments.out or RESULTS / "full"
    print(write(Store(folder), folder, root=ROOT))
    return 0


def _selftest(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    return 0 if trio.run(selftest) else 1


def _conformance(arguments: argparse.Namespace) -> int:
    wanted = arguments.server or conformance.SUBJECTS
    for name in wanted:
        if name not in conformance.SUBJECTS:
            known = ", ".join(conformance.SUBJECTS)
            print(f"no such server: {name}; there are {known}", file=sys.stderr)
            return 2
    columns = trio.run(conformance.every, [conformance.SUBJECTS[name] for name in wanted])
    text = conformance.page(columns)
    # Of some servers alone the page would lose the others.
    if page := arguments.out or (None if arguments.server else ROOT / "docs" / "conformance.md"):
        page.write_text(text, encoding="utf-8")
        print(f"written: {page}", file=sys.stderr)
    else:
        print(text, end="")
    return 1 if any(each.failure for each in columns) else 0


if __name__ == "__main__":
    sys.exit(main())
