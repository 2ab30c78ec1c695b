"""Tells somebody who is not watching: a webhook, an e-mail, or both, as the environment says.

NIGHTRECS_NOTIFY_WEBHOOK: URL that gets a JSON object by POST, with `text` as Slack and others read it.
NIGHTRECS_NOTIFY_EMAIL: address or addresses, by commas.
NIGHTRECS_NOTIFY_SMTP: how to send it, smtp://user:password@host:port or smtps://…; 127.0.0.1:25 where unset.
"""

import json
import os
import smtplib
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

SECONDS = 10
VARIABLES = ("NIGHTRECS_NOTIFY_WEBHOOK", "NIGHTRECS_NOTIFY_EMAIL", "NIGHTRECS_NOTIFY_SMTP")


def tell(text: str, about: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Send `text` wherever it is wanted; what went wrong, in words, and never an exception."""
    problems = []
    webhook, addresses = environ.get(VARIABLES[0]), environ.get(VARIABLES[1])
    if webhook:
        try:
            post(webhook, {"text": text, **about})
        except (OSError, ValueError) as error:
            problems.append(f"the webhook did not take the message: {type(error).__name__}: {_reason(error)}")
    if addresses:
        try:
            mail(text, about, addresses, environ.get(VARIABLES[2], "smtp://127.0.0.1:25"))
        except (OSError, ValueError, smtplib.SMTPException) as error:
            problems.append(f"the e-mail could not be sent: {type(error).__name__}: {_reason(error)}")
    return problems


def post(url: str, payload: dict[str, Any]) -> None:
    """One JSON object by POST."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("a webhook begins with http:// or https://")
    body = json.dumps(payload, default=str).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS):
        pass


def mail(text: str, about: Mapping[str, Any], addresses: str, smtp: str) -> None:
    """One plain message."""
    place = urlsplit(smtp)
    message = EmailMessage()
    message["Subject"] = text.splitlines()[0][:150]
    message["From"] = unquote(place.username or "") if "@" in (place.username or "") else "nightrecs@localhost"
    message["To"] = addresses
    message.set_content(text + "\n\n" + "\n".join(f"{key}: {value}" for key, value in about.items()))
    kind = smtplib.SMTP_SSL if place.scheme == "smtps" else smtplib.SMTP
    with kind(place.hostname or "127.0.0.1", place.port or 0, timeout=SECONDS) as server:
        if place.username and place.password:
            if place.scheme != "smtps":
                server.starttls()
            server.login(unquote(place.username), unquote(place.password))
        server.send_message(message)


def _reason(error: Exception) -> str:
    """Without the URL, which may hold a secret."""
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__)
