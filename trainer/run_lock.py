# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""One run to a folder: two would delete and overwrite each other's checkpoints."""

import errno
import json
import os
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.utils import logging


logger = logging.get_logger(__name__)

LOCK_NAME = ".run.lock"
OWNER_NAME = ".run.json"

# What a file system answers that knows no locks: some network and FUSE mounts.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class RunLock:
    """
    Keeps a folder for the run of this process.

    The operating system holds the lock for the process, not for its children, and lets go of it however the process
    ends: nothing has to be cleared away after a kill. The file `.run.lock` says nothing by being there; `.run.json`
    says whose the lock is or was. On a network file system the lock holds between machines only if the
    file system passes locks on, as NFS 4 does.

    Args:
        folder (`str` or `os.PathLike`): The folder. It need not exist.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._lock = FileLock(self.folder / LOCK_NAME, thread_local=False)

    def acquire(self) -> str:
        """
        Takes the lock, and returns the folder.

        Raises:
            ValueError: if another run has it. The message names its process, machine and start.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=1, poll_interval=0.1)
        except Timeout:
            raise ValueError(
                f"`output_dir` {self.folder} is in use: {self._owner()} is training into it, and two runs would "
                "delete and overwrite each other's checkpoints. Wait for it or stop it, or give this run a folder of "
                "its own."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning(
                f"The file system of {self.folder} knows no locks ({error.strerror}): see to it that no other run "
                "trains into that folder."
            )
            return str(self.folder)
        # On a full disk the message of another run is poorer for it, and nothing else.
        with suppress(OSError):
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": _now()}
            (self.folder / OWNER_NAME).write_text(json.dumps(owner) + "\n", encoding="utf-8")
        return str(self.folder)

    def release(self) -> None:
        """Lets go of the lock, if this process has it."""
        if self._lock.is_locked:
            # While it is held: whoever waits for a lock file that is gone asks for a new one.
            for name in (OWNER_NAME, LOCK_NAME):
                with suppress(OSError):
                    (self.folder / name).unlink()
            self._lock.release(force=True)

    def _owner(self) -> str:
        try:
            owner = json.loads((self.folder / OWNER_NAME).read_text(encoding="utf-8"))
            return f"process {owner['pid']} on {owner['host']}, since {owner['started']},"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return "another process"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
