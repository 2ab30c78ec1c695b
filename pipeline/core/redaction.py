"""Removes secrets from messages: passwords in URLs, and values of environment variables named like secrets."""

import base64
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"@]*(?=@)")
_USER = re.compile(r"(?<=://)[^/\s@]*@")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")
_USER_PARAMETER = re.compile(r"(?<=[?&])user=[^&]*&?")
_ROLE = re.compile(r'\b(user|role) "[^"]*"')
_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|TOKEN|SECRET|API_KEY|ACCESS_KEY|AUTH_STRING|CREDENTIAL", re.IGNORECASE
).search
_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:(?P<user>[^:@/?#]*):(?P<password>.*)@)?[^@]*")
"""A URL with a password, which may have any character: it ends at the last `@`."""
_AS_PARAMETER = re.compile(r"(?:^|[\s?&])(?:ssl)?password\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)
"""The password in a URL's query, or in the `key=value` form of PostgreSQL."""
_NOTIFY = "NIGHTRECS_NOTIFY"
_PASSWORD = re.compile(r"://[^:/\s@]*:(\S+)@")
_PARAMETER = re.compile(r"(?i)(?<=[?&])((?:ssl)?password)=[^&\s'\"]+")
_SHORTEST = 6
"""Shorter values are common words, which would be replaced in many texts."""
_SHORTEST_PART = 12
"""For a part of a notification URL: `services` is a word, a token is longer."""
_EXAMPLES = re.compile(r"\s*\(?\be\.g\. .*", re.DOTALL)
_IDS = re.compile(r"\b((?:user|item)_id)([ =:]+)[^\s,;)]+")
_QUOTED = re.compile(r"(?<!\w)'[^'\n]*'|\"[^\"\n]*\"")


def masked(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text with `***` in place of each secret of the environment and of user and password in each URL."""
    for secret in sorted(_secrets(environ), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _CREDENTIALS.sub("***", text) if "@" in text else text
    return _PARAMETER.sub(r"\1=***", text) if "=" in text else text


def without_user(address: str) -> str:
    """The URL without user and password, which urllib would read as part of the host."""
    return _USER.sub("", address)


def without_users(tree: Any) -> Any:
    """A tree of settings whose URLs have neither user nor password: `postgresql://reader@host/shop` loses `reader@`.

    Also the parameters `user` of URLs. Texts that only contain a URL, e.g. queries, stay.
    """
    if isinstance(tree, dict):
        return {key: without_users(value) for key, value in tree.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(tree, list):
        return [without_users(value) for value in tree]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(tree, str) and _URL.fullmatch(tree):
        return _USER_PARAMETER.sub("", without_user(tree)).rstrip("?&")
    return tree


def without_role(message: str) -> str:
    """A message of PostgreSQL without the name of the user: `authentication failed for user "***"`."""
    return _ROLE.sub(r'\1 "***"', message)


def without_examples(text: str) -> str:
    """A message for external services: without example rows and without quoted text, which may be ids."""
    return "\n".join(_IDS.sub(r"\1\2…", _QUOTED.sub("'…'", _EXAMPLES.sub("", line))) for line in text.splitlines())


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if name.startswith(_NOTIFY) and "://" in value:
            yield from _parts(value)
        elif len(value) < _SHORTEST:
            continue
        elif _SECRET_NAME(name):
            yield value
            if "AUTH_STRING" in name.upper():  # as in a request's header
                yield base64.b64encode(value.encode()).decode()
        elif "://" in value or "password" in value.lower():
            yield from _passwords(value)


def _passwords(address: str) -> Iterator[str]:
    """Passwords in the URL of a database, as they are there, decoded and encoded."""
    in_url = _IN_URL.fullmatch(address.strip())
    in_text = _PASSWORD.search(address)
    found = [in_url["password"]] if in_url and in_url["password"] else [in_text[1]] if in_text else []
    found += [each.strip("'") for each in _AS_PARAMETER.findall(address)]
    for password in found:
        yield from (form for form in {password, unquote(password), quote(password, safe="")} if len(form) >= _SHORTEST)


def _parts(value: str) -> Iterator[str]:
    """Secrets in notification URLs: each URL, what follows its host, and every part that is as long as a token."""
    for address in re.split(r"[\s,]+", value):
        after = address.partition("://")[2]
        path = after[re.search(r"[/?]|$", after).start() :]  # type: ignore[union-attr]
        yield from (part for part in (address, path) if len(part) >= _SHORTEST)
        for part in re.split(r"[/?&=:@]", after):
            yield from (form for form in {part, unquote(part)} if len(form) >= _SHORTEST_PART)
