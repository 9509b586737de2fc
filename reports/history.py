"""Results over time: a line for each in one small file, such as a branch's `history.jsonl`.

Lines are added to the end, under a lock, and are on the disk before that is said: of several that
add at once none loses another's. A line that a kill or a power cut left half-written is taken out
by the next who adds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec

from llx.errors import BadInput, one_line, utf8
from llx.reports.measures import Measure, followed, measures
from llx.result import Result
from llx.typed import refuse_newer

BEGINNING = b'{"schema":"llx.history/1"'  # of every line
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What of a result is followed. `label`: what was measured, such as a commit, of `branch`.

    `result`: of the whole result a hash, which older lines lack, as they do the artifact's and the
    threads.
    """

    schema: Literal["llx.history/1"] = "llx.history/1"
    created: str
    label: str
    engine: str
    precision: str
    artifact: str
    device: str
    device_fingerprint: str
    measures: list[Measure]
    result: str = ""
    branch: str = ""
    artifact_sha256: str = ""
    threads: int | None = None

    def is_of(self, other: Entry) -> bool:
        """Whether both are of one result: two of the same second are not, unless all is equal."""
        if self.result and other.result:
            return self.result == other.result
        return self._in_short() == other._in_short()

    def _in_short(self) -> tuple[object, ...]:
        """What lines had from the beginning."""
        numbers = {(one.of, one.slug): one.value for one in self.measures if one.slug != "ppl"}
        return (self.created, self.engine, self.precision, self.artifact, numbers)


@dataclass(frozen=True)
class Remembered:
    """All entries of a history in order of time, and how many of them were added now."""

    entries: list[Entry]
    added: int


def remember(
    results: Sequence[Result],
    path: Path,
    label: str = "",
    tell: Tell = lambda _: None,
    branch: str = "",
) -> Remembered:
    """Add results to a history, those that it has not yet.

    Of two that were measured in turns the candidate is kept. `tell` is told of a line that was
    half-written, and is taken out. Raises `BadInput` where the file is no history, or that of
    another branch.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [_entry(result, label, branch) for result in followed(results) if not result.error]
    with _locked(path) as handle:
        data = _read_all(handle)
        whole, known = _parsed(path, data)
        if whole < len(data):
            tell(f"{path} ended in a line that was never written to its end: it is taken out")
        new: list[Entry] = []
        for entry in found:
            if not any(entry.is_of(other) for other in (*known, *new)):
                new.append(entry)
        require_one_branch(path, [entry.branch for entry in (*known, *new)])
        _add(handle, whole, len(data), new)
    return Remembered(_in_order(known + new), len(new))


def read_history(path: Path) -> list[Entry]:
    """Every entry of a history in order of time. Raises `BadInput` where the file is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror})", "name a history's file"
        ) from None
    return _in_order(_parsed(path, data)[1])


def _in_order(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.created)


def require_one_branch(path: Path, branches: Sequence[str]) -> None:
    """Raise `BadInput` where a file has lines of several branches, whose steps would be mixed."""
    branches = list(dict.fromkeys(filter(None, branches)))
    if len(branches) > 1:
        raise BadInput(
            f"a history is of one branch, and {path} would be of {', '.join(branches)}",
            "keep each in a file of its own",
        )


def _parsed(path: Path, data: bytes) -> tuple[int, list[Entry]]:
    """How many bytes are whole lines, and their entries. Raises `BadInput`."""
    found = _entries(path, data)
    require_one_branch(path, [entry.branch for entry in found[1]])
    return found


def _entries(path: Path, data: bytes) -> tuple[int, list[Entry]]:
    end = data.rfind(b"\n") + 1
    try:
        entries = msgspec.json.Decoder(Entry).decode_lines(data[:end])
        rest = data[end:]
        if not rest.strip(b"\0"):  # what a power cut leaves of bytes that never arrived
            return end, entries
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return len(data), [*entries, msgspec.json.decode(rest, type=Entry)]
        if not rest.startswith(BEGINNING):
            msgspec.json.decode(rest, type=Entry)  # says what is wrong with it
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        refuse_newer(path, data, "llx.history")
        raise BadInput(
            f"{path} is no history ({one_line(error)})",
            "name a file that `llx report --history` wrote",
        ) from None
    return end, entries


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, open to be read and added to, and locked against all who do the same."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except IsADirectoryError:
            raise BadInput(f"{path} is a folder", "name a file to keep the history in") from None
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise BadInput(f"{path} is no regular file", "name a file to keep the history in")
            _lock(handle)
            if not _stands(path, handle):  # another program put another file in its place
                continue
            yield handle
            return
        finally:
            os.close(handle)


def _stands(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:  # a file system without locks: adding is one write all the same
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _read_all(handle: int) -> bytes:
    with open(handle, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _add(handle: int, whole: int, size: int, new: Sequence[Entry]) -> None:
    """Add lines behind the whole ones, and see that they are on the disk; all of them or none."""
    if whole < size:
        os.ftruncate(handle, whole)
    if not new:
        return
    before = b"" if whole == 0 or os.pread(handle, 1, whole - 1) == b"\n" else b"\n"
    data = before + msgspec.json.Encoder().encode_lines(new)
    try:
        if os.write(handle, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, whole)
        raise


def _entry(result: Result, label: str, branch: str) -> Entry:
    return Entry(
        created=result.created,
        label=utf8(label),
        engine=result.engine,
        precision=result.precision,
        artifact=result.artifact.name,
        device=result.environment.device,
        device_fingerprint=result.environment.device_fingerprint,
        measures=[_finite(one) for one in measures(result) if math.isfinite(one.value)],
        result=hash_of(result),
        branch=utf8(branch),
        artifact_sha256=result.artifact.sha256,
        threads=result.environment.threads,
    )


def hash_of(result: Result) -> str:
    """What tells a result from all others."""
    return sha256(msgspec.json.encode(result)).hexdigest()[:16]


def _finite(measure: Measure) -> Measure:
    """A measure that JSON can hold: no interval where an end of it is past all numbers."""
    if measure.interval is None or all(map(math.isfinite, measure.interval)):
        return measure
    return replace(measure, interval=None)
