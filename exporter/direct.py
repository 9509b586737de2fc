"""Writing past the page cache, where the file system can.

A copy through the page cache costs a core more time than the disk needs, and pushes out what others
keep there. See open(2) on O_DIRECT: memory, offsets and lengths must be aligned.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path
from types import TracebackType

BLOCK_BYTES = 8 << 20
DIRECT = getattr(os, "O_DIRECT", 0)


class DirectWriter:
    """A new file, written from its beginning to its end; what is written is on the disk at `close`.

    Raises `OSError` as any file does: a full disk, a folder that may not be written.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            self._file = os.open(path, flags | DIRECT, 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._file = os.open(path, flags, 0o644)
        self._block = memoryview(mmap.mmap(-1, BLOCK_BYTES))  # begins on a page
        self._filled = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        at = 0
        while at < len(data):
            count = min(BLOCK_BYTES - self._filled, len(data) - at)
            self._block[self._filled : self._filled + count] = data[at : at + count]
            self._filled, at = self._filled + count, at + count
            if self._filled == BLOCK_BYTES:
                self._flush()

    def _flush(self) -> None:
        written = 0
        while written < self._filled:
            try:
                written += os.write(self._file, self._block[written : self._filled])
            except OSError as error:
                if error.errno != errno.EINVAL or not self._through_the_cache():
                    raise
        self._filled = 0

    def _through_the_cache(self) -> bool:
        """Go on as other files do; False where this one does already."""
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~DIRECT)
        return bool(flags & DIRECT)

    def close(self) -> None:
        """Write the rest, whose length need not be aligned, and wait for the disk."""
        try:
            self._through_the_cache()
            self._flush()
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def __enter__(self) -> DirectWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            os.close(self._file)
