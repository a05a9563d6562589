# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Text from outside and numbers, made fit to be printed."""

import os
import re


# Commands to a terminal, characters that turn the direction of what follows, and halves of characters, which cannot be
# written. (Not what joins emoji, nor marks that right-to-left scripts need.)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_SECRETS = (
    (re.compile(r"\b(hf_|api_org_)[A-Za-z0-9]{20,}"), r"\1***"),
    (re.compile(r"(?i)\b(bearer )[\w.~+/=-]{8,}"), r"\1***"),
    (re.compile(r"(://)[^/\s:@]*:[^/\s@]+@"), r"\1***@"),
    (re.compile(r"(?i)([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|signature|sig|token|key|policy)=)[^&\s'\"]+"), r"\1***"),
)
_SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def printable(text: str) -> str:
    """The text with its lines, and a replacement character for each that a terminal would take for a command."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def escaped_json(document: str) -> str:
    """The same JSON, in which such characters are written as their numbers: they can only be within strings."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def without_secrets(text: str) -> str:
    """The text without what looks like an access token, a password in an address or the signature of one."""
    for name in _SECRET_VARIABLES:
        if len(secret := os.environ.get(name, "").strip()) >= 8:
            text = text.replace(secret, "***")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def one_line(text: str, limit: int = 60) -> str:
    """The text on one line of so many characters; no control character of it reaches the terminal."""
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def size_in_words(number: float) -> str:
    """Bytes in words."""
    if number < 1000:
        return f"{number:,.0f} B"
    for unit in ("kB", "MB"):
        number /= 1000
        if number < 1000:
            return f"{number:,.1f} {unit}"
    return f"{number / 1000:,.1f} GB"
