"""Keeps secrets out of what is said and written: passwords in addresses, and values of variables named as secrets."""

import base64
import os
import re

_IN_ADDRESS = re.compile(r"(?<=://)[^/\s'\"@]*(?=@)")
_USER = re.compile(r"(?<=://)[^/\s@]*@")
_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|API_KEY|AUTH_STRING|CREDENTIAL", re.IGNORECASE).search
_SHORTEST = 6
"""Shorter values are words that stand in many texts."""


def masked(text: str) -> str:
    """The text with `***` for each secret of the environment and for user and password of each address."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_NAME(name):
            text = text.replace(value, "***")
            if "AUTH_STRING" in name.upper():  # as it stands in the header of a request
                text = text.replace(base64.b64encode(value.encode()).decode(), "***")
    return _IN_ADDRESS.sub("***", text) if "@" in text else text


def without_user(address: str) -> str:
    """The address without user and password, which urllib takes for a part of the host."""
    return _USER.sub("", address)
