"""Runs a target under atheris: guided by coverage, with libFuzzer's mutations and ours.

    uv run --extra fuzz python tests/fuzz/fuzz_http2.py -max_total_time=40

Options are libFuzzer's.  Without a folder, what is found worth keeping goes to corpus/ beside this
file, out of git, and seeds/ are read.  An input that fails is written as corpus/*/crash-...: make a
small seed of it (make_seeds.py), with the fix.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from random import Random

import atheris

_WATCHED = ["h2sse", "h2", "hpack", "hyperframe", "h11"]

with atheris.instrument_imports(include=_WATCHED):
    from mutations import mutate

__all__ = ["fuzz"]

_FOLDER = Path(__file__).parent
_MOST_BYTES = 2_048


def fuzz(kind: str, target: str) -> None:
    """Fuzz the function `target` of the module `<kind>_target`, for as long as the options say."""
    with atheris.instrument_imports(include=_WATCHED):
        play = getattr(import_module(f"{kind}_target"), target)
    argv = [f"-max_len={_MOST_BYTES}", *sys.argv[1:]]
    if all(each.startswith("-") for each in argv):
        corpus = _FOLDER / "corpus" / kind
        corpus.mkdir(parents=True, exist_ok=True)
        argv = [f"-artifact_prefix={corpus}/", *argv, str(corpus), str(_FOLDER / "seeds" / kind)]

    def change(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return mutate(bytes(data), random)[:most]

    scripts = kind != "parser"
    atheris.Setup([sys.argv[0], *argv], play, custom_mutator=change if scripts else None)
    atheris.Fuzz()
