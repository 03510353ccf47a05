"""Inputs made of inputs, by changes that keep frames and lines whole, as flipped bytes do not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from playing import EVERYTHING, Script, Step

__all__ = ["mutate"]

_HEAD_BYTES: Final = 9
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_NUMBERS: Final = (0, 1, 2, 3, 5, 127, 128, 255, 16_384, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_FRAME_KINDS: Final = 11


def mutate(data: bytes, random: Random) -> bytes:
    """Some changes, of which the rest of an input mostly survives."""
    if random.random() < 0.1:
        return _bytes(data, random)
    script = Script.read(data)
    steps, peer = list(script.steps), script.peer
    change = _frames if peer.startswith(_PREFACE) else _lines
    for _ in range(random.choice((1, 1, 2, 4))):
        if random.random() < 0.3:
            _steps(steps, random)
        elif random.random() < 0.1:
            peer = _bytes(peer, random)
        else:
            peer = change(peer, random)
    return Script(tuple(steps[:255]), peer).write()


def _steps(steps: list[Step], random: Random) -> None:
    size = random.choice((0, 1, 9, 13, 17, EVERYTHING, random.randrange(256)))
    step = Step(size, random.randrange(16), random.randrange(16))
    place = random.randrange(len(steps) + 1)
    if steps and random.random() < 0.5:
        place = min(place, len(steps) - 1)
        kept = steps[place]
        steps[place] = random.choice((step, step._replace(size=kept.size)))
    else:
        steps.insert(place, step)


def _bytes(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    place = random.randrange(len(changed) + 1)
    if changed and random.random() < 0.6:
        changed[place - 1] = random.randrange(256)
    elif random.random() < 0.5:
        del changed[place : place + random.randrange(1, 9)]
    else:
        changed[place:place] = random.randbytes(random.randrange(1, 9))
    return bytes(changed)


def _shuffle(pieces: list[bytes], random: Random, change: Callable[[bytes], bytes]) -> None:
    """One piece changed, doubled, moved or dropped."""
    if not pieces:
        return
    place = random.randrange(len(pieces))
    kind = random.random()
    if kind < 0.6:
        pieces[place] = change(pieces[place])
    elif kind < 0.75:
        pieces.insert(random.randrange(len(pieces) + 1), pieces[place])
    elif kind < 0.85:
        pieces.insert(random.randrange(len(pieces)), pieces.pop(place))
    elif kind < 0.92:
        pieces[place:place] = [pieces[place]] * random.randrange(1, 30)
    else:
        del pieces[place]


def _frames(peer: bytes, random: Random) -> bytes:
    frames: list[bytes] = []
    at = len(_PREFACE)
    while at < len(peer):
        end = at + _HEAD_BYTES + int.from_bytes(peer[at : at + 3], "big")
        frames.append(peer[at:end])
        at = end
    _shuffle(frames, random, lambda frame: _frame(frame, random))
    return _PREFACE + b"".join(frames)


def _frame(frame: bytes, random: Random) -> bytes:
    """Another kind, flag, stream, or payload with the length that it has."""
    if len(frame) < _HEAD_BYTES:
        return frame
    kind, flags = frame[3], frame[4]
    stream, payload = int.from_bytes(frame[5:9], "big"), frame[9:]
    match random.randrange(6):
        case 0:
            kind = random.randrange(_FRAME_KINDS)
        case 1:
            flags ^= 1 << random.randrange(8)
        case 2:
            stream = (stream + random.choice((-4, -2, -1, 1, 2, 4))) % 2**32
        case 3:
            stream = random.choice((*_NUMBERS[:5], 7, 9, 11))
        case 4 if len(payload) in (4, 6, 12):
            payload = payload[:-4] + random.choice(_NUMBERS).to_bytes(4, "big")
        case _:
            payload = _bytes(payload, random)
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def _lines(peer: bytes, random: Random) -> bytes:
    lines = peer.splitlines(keepends=True)
    _shuffle(lines, random, lambda line: _line(line, random))
    return b"".join(lines)


def _line(line: bytes, random: Random) -> bytes:
    words = (b" ", b":", b"\r", b"\n", b"\t", b",", b"0", b"chunked", b"close", b"\r\n", b"\x00")
    place = random.randrange(len(line) + 1)
    if random.random() < 0.5:
        return _bytes(line, random)
    return line[:place] + random.choice(words) + line[place:]
