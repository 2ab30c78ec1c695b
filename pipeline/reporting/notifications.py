"""Sends a message about a night to webhooks, chats, e-mail and pagers, configured by environment variables.

NIGHTRECS_NOTIFY: addresses, separated by commas or spaces. Those that apprise supports (slack://, msteams://, mailto://,
pagerduty://, json:// …; https://github.com/caronc/apprise/wiki) get a title and a text; any other http:// or https://
address gets the JSON object of the generic webhook.
NIGHTRECS_NOTIFY_WEBHOOK: URL of a generic webhook: a JSON object by POST, with `text` as Slack and others read it.
NIGHTRECS_NOTIFY_EMAIL: one or more addresses, separated by commas.
NIGHTRECS_NOTIFY_SMTP: how to send it, smtp://user:password@host:port or smtps://…; 127.0.0.1:25 where unset.

No message names users, and no failure here changes how a night ends.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from pipeline.core.redaction import masked, without_examples

SECONDS = 10
"""Time limit for all targets together; they are called in parallel."""
ADDRESSES, WEBHOOK, EMAIL, SMTP = (f"NIGHTRECS_NOTIFY{end}" for end in ("", "_WEBHOOK", "_EMAIL", "_SMTP"))
LOCAL_SMTP = "smtp://127.0.0.1:25"
_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9.+-]*://)")

Send = Callable[[], None]
"""Sends to one target; raises where that fails."""


class NotTaken(Exception):
    """A target did not accept the message."""


def send(text: str, about: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Send `text` to all targets; returns the problems, without secrets. Never raises."""
    try:
        return _send(without_examples(text), about, environ)
    except Exception as error:
        return [f"no message could be sent: {type(error).__name__}"]


def _send(text: str, about: Mapping[str, object], environ: Mapping[str, str]) -> list[str]:
    waiting: list[tuple[str, threading.Thread, list[str]]] = []
    for name, send in _targets(text, about, environ):
        outcome: list[str] = []
        thread = threading.Thread(target=_attempt, args=(send, outcome), daemon=True)
        thread.start()
        waiting.append((name, thread, outcome))
    end, problems = time.monotonic() + SECONDS, []
    for name, thread, outcome in waiting:
        thread.join(max(end - time.monotonic(), 0))
        why = outcome[0] if outcome else f"no answer within {SECONDS} s"
        if why:
            problems.append(masked(f"{name} did not take the message: {why}", environ))
    return problems


def _targets(text: str, about: Mapping[str, object], environ: Mapping[str, str]) -> list[tuple[str, Send]]:
    """Each target's display name, and the function that sends to it."""
    payload = {"text": text, **about}
    found: list[tuple[str, Send]] = []
    if webhook := environ.get(WEBHOOK, "").strip():
        found.append((f"the webhook of {WEBHOOK}", lambda: post(webhook, payload)))
    if addresses := environ.get(EMAIL, "").strip():
        smtp = environ.get(SMTP, LOCAL_SMTP)
        found.append((f"the e-mail server of {EMAIL}", lambda: by_apprise(mail_url(addresses, smtp), text, about)))
    several = [url for url in _BETWEEN.split(environ.get(ADDRESSES, "").strip(" \t\r\n,")) if url]
    for number, url in enumerate(several, 1):
        kind = url.partition("://")[0] if "://" in url else "no address"
        found.append((f"address {number} of {ADDRESSES} ({kind[:20]})", lambda url=url: deliver(url, text, about)))
    return found


def _attempt(send: Send, outcome: list[str]) -> None:
    try:
        send()
        outcome.append("")
    except NotTaken as error:
        outcome.append(str(error))
    except BaseException as error:  # of a library, in a thread of its own: it must not reach the night
        outcome.append(f"{type(error).__name__}: {_reason(error)}")


def deliver(url: str, text: str, about: Mapping[str, object]) -> None:
    """Send to one address: through apprise where it supports it, else as a generic webhook."""
    if is_known(url):
        by_apprise(url, text, about)
    elif urlsplit(url).scheme in ("http", "https"):
        post(url, {"text": text, **about})
    else:
        raise NotTaken("apprise does not know such an address; see https://github.com/caronc/apprise/wiki")


def post(url: str, payload: dict[str, Any]) -> None:
    """POST one JSON object."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise NotTaken("a webhook begins with http:// or https://")
    import urllib.request  # most nights have nothing to send, and it imports ssl and http

    body = json.dumps(payload, default=str).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS):
        pass


def is_known(url: str) -> bool:
    """Whether apprise supports an address."""
    return _apprise().Apprise.instantiate(url, suppress_exceptions=True) is not None


def by_apprise(url: str, text: str, about: Mapping[str, object]) -> None:
    """Send one message through apprise; the first line is its title."""
    apprise = _apprise()
    target = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if target is None:
        raise NotTaken("apprise does not take such an address")
    body = text + "\n\n" + "\n".join(f"{key}: {value}" for key, value in about.items())
    if not target.notify(body=body, title=text.splitlines()[0][:150], notify_type=apprise.NotifyType.FAILURE):
        raise NotTaken("it can't be reached, or refused the message")


def mail_url(addresses: str, smtp: str) -> str:
    """The e-mail variables as an apprise address."""
    place = urlsplit(smtp)
    user, password = unquote(place.username or ""), unquote(place.password or "")
    mode = "ssl" if place.scheme == "smtps" else "starttls" if user and password else "insecure"
    sender = user if "@" in user else "nightrecs@localhost"
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user and password else ""
    port = f":{place.port}" if place.port else ""
    to = ",".join(address.strip() for address in addresses.split(","))
    query = {"from": f"Nightrecs <{sender}>", "to": to, "mode": mode, "format": "text"}
    scheme = "mailto" if mode == "insecure" else "mailtos"
    return f"{scheme}://{login}{place.hostname or '127.0.0.1'}{port}?{urlencode(query, quote_via=quote)}"


def _apprise() -> Any:
    """The library, imported on first use. Its log may hold secrets, so it is dropped."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    import apprise

    return apprise


def _reason(error: BaseException) -> str:
    """The reason of an error, without the URL, which may hold a secret."""
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or "it is no answer of a webhook")
