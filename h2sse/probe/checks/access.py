"""Who may ask, and how: other methods, other types, other origins."""

from __future__ import annotations

from functools import partial
from typing import Final

from h2sse.probe.connection import Stream
from h2sse.probe.lab import Lab
from h2sse.probe.verdict import Fault, Finding, Lost, Silent, Unclear, check, passed, warned

__all__ = ["CHECKS"]

# Nobody's: RFC 2606 reserves the name.
_STRANGER: Final = "https://h2sse-probe.invalid"
# No server knows it, so nothing can come of it.
_METHOD: Final = "PROBE"

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
    async with lab.connect() as peer:
        await lab.listen(peer)
    return Fault(seen)


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
    does=f"Sends a method that nobody knows, {_METHOD}.",
    notice="Who mistakes the method gets a stream, or an error that does not say what is allowed.",
    mend="Answer 405 with Allow (or 501).",
)
async def unknown_method(lab: Lab) -> Finding:
    stream = await _ask(lab, method=_METHOD)
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
    stream = await _ask(lab, ("accept", "text/event-stream"), ("origin", origin))
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
    stream = await _ask(lab, ("accept", "text/event-stream"), ("origin", _STRANGER))
    allowed = ", ".join(stream.values("access-control-allow-origin"))
    credentials = "true" in stream.values("access-control-allow-credentials")
    if allowed == _STRANGER and credentials:
        raise Fault("any origin is echoed, and may use the user's credentials")
    if allowed == "*" and credentials:
        raise Fault("`*` together with access-control-allow-credentials, which browsers refuse")
    return passed("an unknown origin gets none")


@access(
    "cors-vary",
    clause="Fetch 3.3.4",
    does="Looks for Vary where the answer depends on Origin.",
    notice="A cache gives the answer for one origin to another: it fails now and then.",
    mend="Send `vary: origin` with every answer that depends on it, also to requests without it.",
)
async def cors_vary(lab: Lab) -> Finding:
    origin = lab.options.origin or _STRANGER
    stream = await _ask(lab, ("accept", "text/event-stream"), ("origin", origin))
    allowed = ", ".join(stream.values("access-control-allow-origin"))
    vary = ", ".join(stream.values("vary")).lower()
    if allowed == "*":
        return passed("access-control-allow-origin is *, for all alike")
    if not allowed:
        raise Unclear("pages of other origins may not read it; name one that may, with --origin")
    if "origin" not in vary and vary != "*":
        raise Fault(f"{allowed} is allowed, and vary is {vary or 'missing'}")
    return passed(f"vary: {vary}")


@access(
    "preflight",
    clause="Fetch 4.9",
    does="Sends the preflight of a request with Last-Event-ID.",
    notice="Clients that ask first, as Fetch wants for long ids, cannot come back from where they"
    " were.",
    mend="Answer OPTIONS with access-control-allow-headers: last-event-id.",
)
async def preflight(lab: Lab) -> Finding:
    origin = lab.options.origin or _STRANGER
    asked = ("access-control-request-method", "GET")
    wanted = ("access-control-request-headers", "last-event-id")
    get = await _ask(lab, ("accept", "text/event-stream"), ("origin", origin))
    if not get.values("access-control-allow-origin"):
        raise Unclear("pages of other origins may not read it; name one that may, with --origin")
    stream = await _ask(lab, ("origin", origin), asked, wanted, method="OPTIONS")
    headers = ", ".join(stream.values("access-control-allow-headers")).lower()
    if not 200 <= stream.status < 300 or not stream.values("access-control-allow-origin"):
        raise await _blamed(lab, f"the preflight is refused: {stream}")
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
