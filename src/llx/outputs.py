"""Where a user said that results go: a file, written whole, or a device or pipe, as a stream."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from pathlib import Path

from llx.errors import BadInput
from llx.files import require_writable, write_whole

# Names of what this process has open: they are written as they are, and not opened anew.
STREAM = re.compile(r"/dev/std(out|err)|/(?:dev|proc/self)/fd/([0-9]+)")


def write_out(path: Path, data: bytes) -> None:
    """Write what a user named a file for: whole, or as a stream into a device or a pipe.

    Raises `BadInput` where nobody reads the pipe, and as `write_whole` does.
    """
    number = STREAM.fullmatch(os.path.abspath(path))
    if number:
        sys.stdout.flush()
        handle = os.dup({"out": 1, "err": 2}.get(number[1] or "") or int(number[2]))
    elif _is_stream(path):
        try:  # a pipe that nobody reads would be waited for without end
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            raise BadInput(f"nobody reads {path}", "read from it first, or name a file") from None
        os.set_blocking(handle, True)
    else:
        write_whole(path, data)
        return
    with open(handle, "wb") as stream:
        stream.write(data)


def _is_stream(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def require_output(path: Path) -> Path:
    """The folder of a file that will be written, or where we are for a device or a pipe.

    Raises `BadInput` where it cannot be: before the work whose results it is to hold.
    """
    if STREAM.fullmatch(os.path.abspath(path)) or _is_stream(path):
        return Path()
    if path.is_dir():
        raise BadInput(f"{path} is a folder, where a file is written", "name a file")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK | os.X_OK):
        raise BadInput(f"{path.parent} may not be written", "name a file in another folder")
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise BadInput(f"{above} is a file, and no folder", "name a file in another folder")
    if path.parent.is_dir():
        require_writable(path)
    return path.parent
