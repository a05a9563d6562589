# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A corpus as the web has it: one pair for each thing that can be wrong with an image or a caption."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from datasets import Dataset, Features, Image, List, Value


# What a picture of sound pairs shows: red on the left, blue on the right. (Row, column, colour.)
LEFT, RIGHT = (200, 40, 40), (40, 40, 200)


class DirtyPair(NamedTuple):
    """Content of an image file, a caption, and the reason for which the pair is left out; `None` if it is used."""

    content: bytes | None
    caption: str | None = "a red and a blue half"
    reason: str | None = None


def picture(size: tuple[int, int] = (48, 32)) -> PIL.Image.Image:
    image = PIL.Image.new("RGB", size, LEFT)
    image.paste(RIGHT, (size[0] // 2, 0, *size))
    return image


def encode(image: PIL.Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG file of a few hundred bytes that says it has so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )


def turned() -> bytes:
    """The picture on its side, with the note (EXIF) that puts it upright."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return encode(picture().rotate(90, expand=True), "JPEG", exif=exif, quality=95)


def images() -> dict[str, DirtyPair]:
    """What can be wrong with images, by name."""
    sound = encode(picture())
    jpeg = encode(picture((256, 256)), "JPEG")
    deep = PIL.Image.fromarray(np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(np.uint16))
    unreadable = "unreadable image"
    return {
        "truncated_jpeg": DirtyPair(jpeg[: len(jpeg) // 2], reason=unreadable),
        "truncated_png": DirtyPair(sound[:60], reason=unreadable),
        "zero_bytes": DirtyPair(b"", reason=unreadable),
        "text": DirtyPair(b"<html><body>404 Not Found</body></html>", reason=unreadable),
        "no_image": DirtyPair(None, reason="no image"),
        "bomb": DirtyPair(bomb(30_000, 30_000), reason="too large image"),
        "large": DirtyPair(bomb(10_000, 10_000), reason="too large image"),
        "cmyk": DirtyPair(encode(picture().convert("CMYK"), "JPEG")),
        "sixteen_bits": DirtyPair(encode(deep)),
        "palette": DirtyPair(encode(picture().convert("P", palette=PIL.Image.Palette.ADAPTIVE))),
        "transparent": DirtyPair(encode(picture().convert("RGBA"))),
        "grey": DirtyPair(encode(picture().convert("L"))),
        "bilevel": DirtyPair(encode(picture().convert("1"))),
        "animated": DirtyPair(
            encode(picture(), "GIF", save_all=True, append_images=[PIL.Image.new("RGB", (48, 32), "green")])
        ),
        "one_pixel": DirtyPair(encode(picture((1, 1)))),
        "one_row": DirtyPair(encode(picture((3000, 1)))),
        "turned": DirtyPair(turned()),
    }


def captions() -> dict[str, DirtyPair]:
    """What can be wrong with captions, by name."""
    sound = encode(picture())
    none = "no caption"
    return {
        "empty": DirtyPair(sound, "", none),
        "blank": DirtyPair(sound, " \t\r\n\u00a0\u2003", none),
        "missing": DirtyPair(sound, None, none),
        "invisible": DirtyPair(sound, "\u200b\u200e\u202e\ufeff\x00", none),
        "long": DirtyPair(sound, "a red bus and a blue bus, " * 4000),
        "one_long_word": DirtyPair(sound, "a" * 100_000),
        "control_characters": DirtyPair(sound, "a red\x00 bus\x07\x1b[31m"),
        "right_to_left": DirtyPair(sound, "a \u202eder\u202c bus"),
        "zero_width": DirtyPair(sound, "a r\u200be\u200dd b\ufeffus"),
    }


def corpus() -> dict[str, DirtyPair]:
    """Everything that can be wrong, by name: the name is the pair's id too."""
    return {**images(), **captions()}


def sound_pairs(count: int) -> dict[str, DirtyPair]:
    return {f"sound_{number}": DirtyPair(encode(picture((40 + number, 32)))) for number in range(count)}


def to_dataset(pairs: dict[str, DirtyPair], **columns: list[Any]) -> Dataset:
    """Undecoded pairs as a data set, with further columns."""
    features = {"image": Image(decode=False), "caption": Value("string"), "pair_id": Value("string")}
    features |= {name: List(Value("float32")) for name in columns}
    rows = {
        "image": [None if pair.content is None else {"bytes": pair.content, "path": None} for pair in pairs.values()],
        "caption": [pair.caption for pair in pairs.values()],
        "pair_id": list(pairs),
        **columns,
    }
    return Dataset.from_dict(rows, features=Features(features))


def to_folder(pairs: dict[str, DirtyPair], folder: Path) -> Dataset:
    """The same as files, each with the wrong suffix, and one that is not there."""
    folder.mkdir()
    for name, pair in pairs.items():
        if pair.content is not None:
            (folder / f"{name}.webp").write_bytes(pair.content)
    paths = {name: str(folder / f"{name}.webp") if pair.content is not None else None for name, pair in pairs.items()}
    rows = {
        "image": [*paths.values(), str(folder / "absent.png")],
        "caption": [*(pair.caption for pair in pairs.values()), "a red bus"],
        "pair_id": [*pairs, "absent"],
    }
    return Dataset.from_dict(rows).cast_column("image", Image(decode=False))
