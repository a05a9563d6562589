# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a text in the place of an image stands for: a web address, the image in base64, or a path below a folder."""

import base64
import binascii
import functools
import os
import posixpath
import re
from collections.abc import Mapping
from typing import Any

from transformers.utils import logging

from ..paths import leads_outside
from ..text import without_secrets


logger = logging.get_logger(__name__)

_WEB = ("http://", "https://")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
# How files begin: JPEG, PNG, GIF, WebP (and what else is RIFF), BMP, TIFF.
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def is_web_address(text: str) -> bool:
    """Whether the text is what an image is fetched from over the network."""
    return text[:8].lower().startswith(_WEB)


class ImageLocator:
    """
    Turns what a source says of an image into `{"bytes": ..., "path": ...}`.

    Texts may be web addresses, base64, or paths. A path is looked up below one folder and nowhere else: data from
    somewhere must not decide which files of this machine are read.

    Args:
        root (`str`, *optional*):
            The folder, or its URL on an object store. Without it a path is refused.
        trusted (`bool`, *optional*, defaults to `False`):
            Whether paths are left as they are if there is no folder.
        follow_links (`bool`, *optional*, defaults to `False`):
            Whether a path in the folder may be a link to what is outside of it.
        has_options (`bool`, *optional*, defaults to `False`):
            Whether the source itself is reached with options. They are not written into each row, where secrets would
            travel, so images are reached without them; this is said once.
    """

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        *,
        trusted: bool = False,
        follow_links: bool = False,
        has_options: bool = False,
    ):
        self.follow_links = follow_links
        self.has_options = has_options
        self.trusted = trusted and root is None
        self.root = None if root is None else os.fspath(root)
        self.is_remote = self.root is not None and "://" in self.root
        if self.root is not None:
            self.root = self.root.rstrip("/") if self.is_remote else os.path.abspath(os.path.expanduser(self.root))

    def __call__(self, image: Any) -> Any:
        """
        Args:
            image: A text, or `{"bytes": ..., "path": ...}`. Everything else is returned as it is.

        Returns:
            `dict`, or what was given.

        Raises:
            ValueError: The path leads out of the folder, or there is no folder.
        """
        if isinstance(image, Mapping) and image.get("bytes") is None and isinstance(image.get("path"), str):
            text = image["path"]
        elif isinstance(image, str):
            text = image
        else:
            return image
        if is_web_address(text):
            return {"bytes": None, "path": text}
        content = self._decoded(text)
        if content is not None:
            return {"bytes": content, "path": None}
        return {"bytes": None, "path": text if self.trusted or not text else self.below_root(text)}

    @staticmethod
    def _decoded(text: str) -> bytes | None:
        """The image that the text is in base64, if it is one."""
        if not _BASE64.match(text) or len(text) % 4 not in (0, 2, 3):
            return None
        # The letters of addresses stand for the same.
        padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
        try:
            begins_like_a_file = base64.b64decode(padded[:24]).startswith(_BEGINNINGS)
            return base64.b64decode(padded, validate=True) if begins_like_a_file else None
        except (binascii.Error, ValueError):
            return None

    def below_root(self, path: str) -> str:
        """The path of a file that is in the folder, however it is written."""
        if self.root is None:
            raise ValueError(
                f"The source names the image {path!r:.200}, and no folder in which paths may lie: pass it as "
                "`image_root=...`."
            )
        join, normalise = (posixpath.join, _normalise_url) if self.is_remote else (os.path.join, os.path.normpath)
        if "\0" in path or ("://" in path and not self.is_remote) or "::" in path:
            found = ""
        else:
            found = normalise(path if "://" in path else join(self.root, path))
        if not found.startswith(self.root.rstrip("/") + "/"):
            raise ValueError(
                f"The source names the image {path!r:.200}, which does not lie in {self.root!r}. If that is meant, "
                "pass the folder that holds all images as `image_root=...`."
            )
        if self.is_remote and self.has_options:
            logger.warning_once(
                f"Images below {without_secrets(self.root)!r} are opened when batches are made, with what the "
                "environment says of their place (`AWS_ENDPOINT_URL`, `FSSPEC_S3_ENDPOINT_URL` ...): "
                "`storage_options` are for the files of the source alone."
            )
        if not (self.is_remote or self.follow_links) and _is_link_outside(found, self.root):
            raise ValueError(
                f"{found!r} is a link to something outside of {self.root!r}. If you have put it there, pass "
                "`follow_links=True`; if not, ask who has."
            )
        return found


def _is_link_outside(path: str, root: str) -> bool:
    # There are few folders and many files, of which hardly one is a link.
    return _folder_leads_outside(os.path.dirname(path), root) or (os.path.islink(path) and leads_outside(path, root))


@functools.lru_cache(maxsize=4096)
def _folder_leads_outside(folder: str, root: str) -> bool:
    return leads_outside(folder, root)


def _normalise_url(url: str) -> str:
    scheme, _, path = url.partition("://")
    return f"{scheme}://{posixpath.normpath(path)}"
