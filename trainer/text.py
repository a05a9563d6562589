# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Text from outside, made fit to be printed."""


def one_line(text: str, limit: int = 60) -> str:
    """The text on one line of so many characters; no control character of it reaches the terminal."""
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
