# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Text from outside and numbers, made fit to be printed."""


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
