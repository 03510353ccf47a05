"""Who may ask, and how: other methods, other types, other origins."""

from __future__ import annotations

from functools import partial
from typing import Final

from h2sse.probe.connection import Stream
from h2sse.probe.lab import Lab
from h2sse.probe.verdict import Fault, Finding, Lost, Silent, check, passed, warned

__all__ = ["CHECKS", "METHOD"]

# Nobody's: RFC 2606 reserves the name.
_STRANGER: Final = "https://h2sse-probe.invalid"
# No server knows it, so nothing can come of it.
METHOD: Final = "PROBE"

access = partial(check, group="access")


async def _ask(lab: Lab, *fields: tuple[str, str], method: str = "GET") -> Stream:
    """A request with the user's fields and these, answered; silence is its fault."""
    async with lab.connect() as peer:
        try:
            stream = await peer.open(lab.target.path, *lab.fields(*fields)[1:], method=method)
            await peer.until(lambda: stream.answered, "response")
        except (Silent, Lost) as error:
            raise await _blamed(lab, str(error)) from None
        if method == "HEAD":
            await peer.watch(min(lab.patience, 0.5))
        return stream


async def _blamed(lab: Lab, seen: str) -> Exception:
    """A fault of this request.  Raises Unclear, Silent or Lost if every request has it."""
    async with lab.listening():
        return Fault(seen)


def _origins(lab: Lab) -> list[str]:
    """Whom to ask as: --origin, the endpoint's own, which many lists have, and a stranger."""
    wanted = lab.options.origin
    return [*([wanted] if wanted else []), f"https://{lab.target.authority}", _STRANGER]


async def _asked_as(lab: Lab, origin: str) -> Stream:
    """What a page of that origin is answered; "" sends no Origin."""
    fields = (("origin", origin),) if origin else ()
    return await _ask(lab, ("accept", "text/event-stream"), *fields)


def _allowed(stream: Stream) -> str:
    return ", ".join(stream.values("access-control-allow-origin"))


def _credentials(stream: Stream) -> bool:
    return "true" in stream.values("access-control-allow-credentials")


def _varies(stream: Stream) -> bool:
    names = ",".join(stream.values("vary")).lower().replace(" ", "").split(",")
    return bool({"origin", "*"} & set(names))


@access(
    "no-accept",
    clause="HTML 9.2.2, RFC 9110 12.5.1",
    does="Asks without an Accept field.",
    notice="Clients that leave it out, as they may, are refused.",
    mend="Treat a missing Accept as `*/*`.",
)
async def no_accept(lab: Lab) -> Finding:
    stream = await _ask(lab)
    if not stream.is_event_stream:
        raise await _blamed(lab, str(stream))
    return passed("200, as with it")


@access(
    "not-acceptable",
    clause="RFC 9110 15.5.7",
    does="Asks for image/png.",
    notice="A mistaken request, an image's say, is told that the server is broken.",
    mend="Answer 406, or send the event stream all the same; both are allowed.",
)
async def not_acceptable(lab: Lab) -> Finding:
    stream = await _ask(lab, ("accept", "image/png"))
    if stream.status == 406:
        return passed("406")
    if stream.is_event_stream:
        return passed("the event stream all the same, which is allowed")
    if stream.status >= 500 or not stream.status:
        raise await _blamed(lab, str(stream))
    return warned(f"{stream}, not 406")


@access(
    "head",
    clause="RFC 9110 9.3.2, 9.1",
    does="Sends HEAD.",
    notice="Monitors and link checkers that use HEAD hang, or report the endpoint as broken.",
    mend="Answer HEAD with the fields of GET, END_STREAM on them, and no body.",
)
async def head(lab: Lab) -> Finding:
    get = await _ask(lab, ("accept", "text/event-stream"))
    stream = await _ask(lab, ("accept", "text/event-stream"), method="HEAD")
    if stream.body.size:
        raise Fault(f"{stream.body.size} bytes of body")
    if stream.status != get.status:
        raise Fault(f"{stream}, where GET has {get}")
    if not stream.over:
        raise Fault("the stream is not ended")
    return passed(f"{stream.status} and no body")


@access(
    "options",
    clause="RFC 9110 9.3.7",
    does="Sends OPTIONS.",
    notice="Clients that ask before they connect are told nothing, or that the server is broken.",
    mend="Answer 204 with Allow.",
)
async def options(lab: Lab) -> Finding:
    stream = await _ask(lab, method="OPTIONS")
    allow = ", ".join(stream.values("allow"))
    if not stream.status or stream.status >= 500 or stream.is_event_stream:
        raise await _blamed(lab, f"{stream}{', the event stream' * stream.is_event_stream}")
    if not allow:
        return warned(f"{stream}, without Allow")
    return passed(f"{stream}, Allow: {allow}")


@access(
    "unknown-method",
    clause="RFC 9110 15.5.6, 15.6.2",
    does=f"Sends a method that nobody knows, {METHOD}.",
    notice="Who mistakes the method gets a stream, or an error that does not say what is allowed.",
    mend="Answer 405 with Allow (or 501).",
)
async def unknown_method(lab: Lab) -> Finding:
    stream = await _ask(lab, method=METHOD)
    allow = ", ".join(stream.values("allow"))
    match stream.status:
        case 501:
            return passed("501")
        case 405 if allow:
            return passed(f"405, Allow: {allow}")
        case 405:
            return warned("405 without Allow")
        case status if status in (0, 200) or status >= 500:
            raise await _blamed(lab, str(stream))
        case _:
            return warned(f"{stream}, not 405")


@access(
    "cors",
    clause="Fetch 3.3.4",
    does="Asks as a page of another origin does (--origin names one that should be allowed).",
    notice="The EventSource of that page fails, CLOSED after one request.",
    mend="Send one access-control-allow-origin, with that very origin or `*`.",
)
async def cors(lab: Lab) -> Finding:
    wanted = lab.options.origin
    origin = wanted or _STRANGER
    stream = await _asked_as(lab, origin)
    allowed = stream.values("access-control-allow-origin")
    if stream.status >= 500 or not stream.status:
        raise await _blamed(lab, f"a request with Origin is answered: {stream}")
    if len(allowed) > 1 or "," in "".join(allowed):
        raise Fault(f"access-control-allow-origin is {', '.join(allowed)}: browsers want one value")
    if wanted and not {wanted, "*"} & set(allowed):
        raise Fault(f"access-control-allow-origin is {', '.join(allowed) or 'missing'}")
    if not allowed:
        return passed("pages of other origins may not read it")
    return passed(f"access-control-allow-origin: {allowed[0]}")


@access(
    "cors-credentials",
    clause="Fetch 3.3.4",
    does=f"Asks as a page of {_STRANGER} does, and reads what it is allowed with credentials.",
    notice="With an origin that is echoed, any page can read the user's stream with the user's"
    " cookies; with `*`, `withCredentials` fails.",
    mend="Send access-control-allow-credentials for origins on a list only, and never beside `*`.",
)
async def cors_credentials(lab: Lab) -> Finding:
    stream = await _asked_as(lab, _STRANGER)
    allowed, credentials = _allowed(stream), _credentials(stream)
    if allowed == _STRANGER and credentials:
        raise Fault("any origin is echoed, and may use the user's credentials")
    if allowed == "*" and credentials:
        raise Fault("`*` together with access-control-allow-credentials, which browsers refuse")
    return passed("an unknown origin gets none")


@access(
    "cors-vary",
    clause="Fetch 3.3.4",
    does="Asks without Origin, as the endpoint's own origin, as a stranger and as --origin, and"
    " looks for Vary if the answers differ.",
    notice="A cache gives the answer for one origin to another: it fails now and then.",
    mend="Send `vary: origin` with every answer that depends on it, also to requests without it.",
)
async def cors_vary(lab: Lab) -> Finding:
    answers = {origin: await _asked_as(lab, origin) for origin in ("", *_origins(lab))}
    told = {(_allowed(each), _credentials(each)) for each in answers.values()}
    if len(told) == 1:
        may = _allowed(answers[""]) or "none"
        return passed(f"the same answer to every origin asked with: {may} may read it")
    missing = {origin: each for origin, each in answers.items() if not _varies(each)}
    if not missing:
        return passed("vary: origin, on every answer")
    # What is said to one origin alone needs Vary in any case; other answers, if a cache keeps them.
    harmful = [
        origin or "no origin"
        for origin, each in missing.items()
        if _allowed(each) not in ("", "*")
        or "no-store" not in "".join(each.values("cache-control"))
    ]
    if harmful:
        may = ", ".join(sorted({allowed for allowed, _ in told if allowed}))
        raise Fault(f"allowed by Origin: {may}; vary is missing for {', '.join(harmful)}")
    return passed("where vary is missing, no cache may keep the answer")


@access(
    "preflight",
    clause="Fetch 4.9",
    does="Sends the preflight of a request with Last-Event-ID, as an origin that is allowed, or"
    " else as one that is not.",
    notice="Clients that ask first, as Fetch wants for long ids, cannot come back from where they"
    " were; or they are told yes, and then no.",
    mend="Answer OPTIONS with access-control-allow-headers: last-event-id, for the origins that"
    " GET allows and for no others.",
)
async def preflight(lab: Lab) -> Finding:
    for origin in _origins(lab):
        may = bool(_allowed(await _asked_as(lab, origin)))
        if may:
            break
    fields = (
        ("origin", origin),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "last-event-id"),
    )
    stream = await _ask(lab, *fields, method="OPTIONS")
    headers = ", ".join(stream.values("access-control-allow-headers")).lower()
    agreed = 200 <= stream.status < 300 and bool(_allowed(stream))
    if not stream.status or stream.status >= 500 or agreed < may:
        raise await _blamed(lab, f"the preflight is refused: {stream}")
    if agreed > may:
        return warned(f"{origin} may not read it, and its preflight says that it may")
    if not may:
        return passed("no origin that is asked as may read it, and the preflight agrees")
    if "last-event-id" not in headers and headers != "*":
        raise Fault(f"access-control-allow-headers is {headers or 'missing'}")
    return passed(f"access-control-allow-headers: {headers}")


CHECKS = (
    no_accept,
    not_acceptable,
    head,
    options,
    unknown_method,
    cors,
    cors_credentials,
    cors_vary,
    preflight,
)
