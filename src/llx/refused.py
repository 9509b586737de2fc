"""What the system refuses, as an error of ours: no memory, no room, no permission, a limit."""

from __future__ import annotations

import errno
import re
import resource
from collections.abc import Iterator

from llx.errors import BadInput, Lacking, LlxError, one_line

# How libraries say in their own words, on any class of exception, that the system gave them none.
OF_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|bad_alloc|out of memory|not enough memory|"
    r"failed to map segment|unable to allocate|failed to allocate memory|alloc_cpu|enomem",
    re.IGNORECASE,
)
OF_THREADS = re.compile(
    r"can't start new thread|pthread_create|resource temporarily unavailable|"
    r"thread constructor failed|could not create.*thread",
    re.IGNORECASE,
)
OF_FILES = re.compile(r"too many open files|error 24\b", re.IGNORECASE)

MEMORY = (
    "the memory that this process may have is used up",
    "raise its limit (`ulimit -v`, a container's), or choose a smaller model, --context or -b",
)
THREADS = (
    "the system starts no more threads or processes for this user",
    "raise the limit (`ulimit -u`), or end others",
)
THREADS_OR_MEMORY = (
    "the system starts no more threads: this process may have no memory for their stacks, or this "
    "user no more of them",
    "raise the limit on memory (`ulimit -v`, `ulimit -d`), then on processes (`ulimit -u`)",
)
FILES = ("this process may not open more files", "raise the limit: `ulimit -n 1024`")


def refused(error: BaseException) -> LlxError | None:
    """An exception of Python or of a library that says what the system refused, as one of ours.

    None where it says nothing of the kind.
    """
    if any(isinstance(one, MemoryError) for one in _chain(error)):
        return Lacking(*MEMORY)
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    words = str(error)
    for told, pattern in ((MEMORY, OF_MEMORY), (_threads(), OF_THREADS), (FILES, OF_FILES)):
        if pattern.search(words):
            return Lacking(*told)
    if isinstance(error, OSError):
        return BadInput(one_line(error), "check the path and its permissions")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it was raised from: libraries make others of a MemoryError."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def require_room(purpose: str, addresses: int, data_bytes: int) -> None:
    """Raise `Lacking` where this process may not use so many addresses, or so much memory.

    For libraries that end the process where the system refuses them either.
    """
    for kind, needed, option in (
        (resource.RLIMIT_AS, addresses, "-v"),
        (resource.RLIMIT_DATA, data_bytes, "-d"),
    ):
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY and most < needed:
            raise Lacking(
                f"{purpose} needs more memory than the {most >> 20} MiB that this process may have",
                f"raise the limit: `ulimit {option} unlimited`",
            )


def _threads() -> tuple[str, str]:
    """A thread without memory for its stack fails with the same number as one too many (EAGAIN)."""
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    free = all(limit == resource.RLIM_INFINITY for limit in limits)
    return THREADS if free else THREADS_OR_MEMORY


def _of_system(error: OSError) -> LlxError:
    where = f"{_name(error.filename)}: " if error.filename else ""
    why = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        full = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
        return Lacking(
            f"{where}{full}",
            "free space, or choose another -o" if where else "free space where output goes",
        )
    if error.errno == errno.EFBIG:
        return Lacking(
            f"{where}a file may not become that large here",
            "raise the limit: `ulimit -f unlimited`",
        )
    if error.errno == errno.ENOMEM:
        return Lacking(*MEMORY)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return Lacking(*FILES)
    if error.errno == errno.EAGAIN and not where:
        return Lacking(*_threads())
    if error.errno == errno.EROFS:
        return BadInput(f"{where}the disk is read-only", "choose a folder that can be written")
    if error.errno == errno.EIO:
        return Lacking(
            f"{where}the system cannot read or write it ({why})", "see to the disk or the terminal"
        )
    return BadInput(f"{where}{why}", "check the path and its permissions")


def _name(path: object) -> str:
    return path.decode(errors="replace") if isinstance(path, bytes) else str(path)
