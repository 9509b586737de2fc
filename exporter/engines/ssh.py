"""Another machine over SSH: a Python there, files sent by content, files fetched with bounds.

The host's key is always verified. Nothing that was typed reaches a shell unquoted, and all that
comes back is untrusted: bounded in size, and stripped of control characters before it is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from llx.bundle import clean
from llx.errors import BadInput, Lacking, LlxError, require_modules
from llx.probe import partial_name

if TYPE_CHECKING:
    import asyncssh

CHUNK_BYTES = 1 << 20
LINE_CHARACTERS = 1 << 16
SMALL_AT_ONCE = 8
# Seconds until a connection stands; between signs of life, of which so many may be missed (a build
# may be silent for hours, and is alive all the same); until a piece of a file is there; until a
# Python there has answered a question, which may be the hashes of all files.
CONNECT_S, KEEPALIVE_S, KEEPALIVES_MISSED = 30.0, 15.0, 4
PIECE_S, ANSWER_S, CLOSE_S = 120.0, 3600.0, 5.0
SAID_CHARACTERS = 64 << 20  # in all, of one program
BROKE = "run it again: what has arrived is kept"


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A machine as it was named: `user` and `port` are OpenSSH's own defaults where None."""

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"

    @property
    def name(self) -> str:
        """The machine as it was typed."""
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def command(self) -> str:
        """How a person would connect to it."""
        return f"ssh {f'-p {self.port} ' if self.port else ''}{shlex.quote(self.name)}"


def remote_named(text: str, python: str = "python3") -> Remote:
    """The machine that `--remote [USER@]HOST[:PORT]` means; IPv6 in brackets. Raises `BadInput`."""
    remedy = "write --remote user@host or user@host:port"
    user, at, host = text.rpartition("@")
    port: int | None = None
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        digits = rest.removeprefix(":") if bracket and rest[:1] in ("", ":") else "none"
    else:
        host, _, digits = host.partition(":")
    if digits or text.endswith(":"):
        if not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 65536):
            raise BadInput(f"--remote {clean(text)!r} has no valid port", remedy)
        port = int(digits)
    for part in (host, user if at else "user", python):
        if (
            not part
            or part.startswith("-")
            or any(c.isspace() or not c.isprintable() for c in part)
        ):
            raise BadInput(f"--remote {clean(text)!r} names no machine and Python", remedy)
    return Remote(host=host, user=user if at else None, port=port, python=python)


class Broken(Lacking):
    """The connection ended before the work did. Exit code 3."""


@dataclass(frozen=True)
class There:
    """A machine that is connected."""

    remote: Remote
    connection: asyncssh.SSHClientConnection
    sftp: asyncssh.SFTPClient  # its files are opened for bytes

    async def python(self, script: str) -> str:
        """Run a script in the Python there and return the last line that it printed.

        Raises `Lacking` where it fails.
        """
        lines: list[str] = []

        def keep(line: str) -> None:
            lines[:] = [*lines[-1:], line] if line.strip() else lines

        code = await self._within(ANSWER_S, self.run([self.remote.python, "-"], keep, script))
        said = clean(lines[-1]) if lines else "it said nothing"
        if code:
            raise Lacking(
                f"{self.remote.python} on {self.remote.name} ended with {code}: {said}",
                "name a Python that works there with --python",
            )
        return lines[-1] if lines else ""

    async def run(self, words: list[str], hear: Callable[[str], None], said: str = "") -> int:
        """Run a program with `said` as its input; `hear` each line it prints. Its exit code.

        Raises `Broken` where the connection ends first, `Lacking` where the program is killed.
        """
        import asyncssh

        process = await self._within(
            PIECE_S,
            self.connection.create_process(
                shlex.join(words), stderr=asyncssh.STDOUT, encoding="utf-8", errors="replace"
            ),
        )
        if said:
            process.stdin.write(said)
        process.stdin.write_eof()
        rest, said_characters = "", 0
        while chunk := await process.stdout.read(LINE_CHARACTERS):
            *lines, rest = (rest + chunk).split("\n")
            said_characters += len(chunk)
            if len(rest) > LINE_CHARACTERS:
                raise self.hostile("a line without an end")
            if said_characters > SAID_CHARACTERS:
                raise self.hostile("words without an end")
            for line in lines:
                hear(line)
        if rest:
            hear(rest)
        await process.wait()
        if process.exit_signal:
            raise Lacking(
                f"{words[0]} on {self.remote.name} was killed by {process.exit_signal[0]}",
                "free memory there, or choose a smaller --context, --max-prefill or --batch",
            )
        if process.exit_status is None:
            raise self.broken("its program ended without a word")
        return process.exit_status

    async def send(
        self,
        folder: str,
        name: str,
        source: Path | bytes,
        content: tuple[int, str],
        begun: int,
        sent: Callable[[int], None],
    ) -> None:
        """Send a file whose first `begun` bytes have arrived. It appears whole or not at all."""
        size, digest = content
        partial = f"{folder}/{partial_name(name, digest)}"
        begun = begun if begun <= size else 0
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            file.seek(begun)
            async with self._opened(partial, "r+b" if begun else "wb") as there:
                for at in range(begun, size, CHUNK_BYTES):
                    chunk = file.read(CHUNK_BYTES)
                    await self._within(PIECE_S, there.write(chunk, at))
                    sent(len(chunk))
        await self._within(PIECE_S, self.sftp.posix_rename(partial, f"{folder}/{name}"))

    async def fetch_small(self, path: str, most_bytes: int) -> bytes | None:
        """A file of at most so many bytes, or None; `BadInput` where it is larger."""
        import asyncssh

        try:
            async with self._opened(path, "rb") as file:
                data: bytes = b""
                while len(data) <= most_bytes:
                    size = min(CHUNK_BYTES, most_bytes + 1 - len(data))
                    piece = await self._within(PIECE_S, file.read(size, len(data)))
                    if not piece:
                        break
                    data += piece
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            return None
        if len(data) > most_bytes:
            raise self.hostile(f"a {PurePosixPath(path).name} of more than {most_bytes} bytes")
        return data

    async def fetch(
        self, path: str, target: Path, content: tuple[int, str], got: Callable[[int], None]
    ) -> None:
        """Fetch a file of a known size and hash. Raises `BadInput` where it has others."""
        size, wanted = content
        digest, at = sha256(), 0
        async with self._opened(path, "rb") as there:
            with target.open("wb") as file:
                while at < size:
                    piece = there.read(min(CHUNK_BYTES, size - at), at)
                    chunk: bytes = await self._within(PIECE_S, piece)
                    if not chunk:
                        break
                    digest.update(chunk)
                    file.write(chunk)
                    at += len(chunk)
                    got(len(chunk))
        if digest.hexdigest() != wanted:
            raise self.hostile(f"a {PurePosixPath(path).name} that is not the one it recorded")

    async def forget(self, path: str) -> None:
        """Remove a file, if it is there."""
        if await self._within(PIECE_S, self.sftp.exists(path)):
            await self._within(PIECE_S, self.sftp.remove(path))

    @asynccontextmanager
    async def _opened(self, path: str, mode: Literal["rb", "wb", "r+b"]) -> AsyncIterator[Any]:
        """A file there, closed in the end if anybody still answers."""

        async def opened() -> Any:
            return await self.sftp.open(path, mode)

        file = await self._within(PIECE_S, opened())
        try:
            yield file
        except BaseException:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(file.close(), CLOSE_S)
            raise
        await self._within(PIECE_S, file.close())

    async def _within(self, seconds: float, work: Awaitable[T]) -> T:
        """What work comes to. Raises `Broken` where that takes longer: nobody answers."""
        try:
            return await asyncio.wait_for(work, seconds)
        except asyncio.TimeoutError:
            raise self.broken(f"no answer within {seconds:g} s") from None

    def hostile(self, what: str) -> BadInput:
        """What came back is none of what a bundle writes."""
        return BadInput(
            f"{self.remote.name} answered with {what}", "do not trust it before you know why"
        )

    def broken(self, why: str) -> Broken:
        """The connection is gone."""
        return Broken(f"the connection to {self.remote.name} broke ({why})", BROKE)


@asynccontextmanager
async def connected(remote: Remote) -> AsyncIterator[There]:
    """Connect as `ssh` would: keys, agent, `~/.ssh/config`. The host's key must be known.

    Raises `Lacking` where the machine cannot be reached or lets nobody in, `BadInput` where its key
    is not the known one, `Broken` where the connection ends.
    """
    require_modules("--remote", "remote", "asyncssh")
    import asyncssh

    connection = await _connect(remote)
    try:
        sftp = await asyncio.wait_for(connection.start_sftp_client(), CONNECT_S)
        yield There(remote, connection, sftp)
    except asyncio.TimeoutError:
        raise Broken(f"the connection to {remote.name} broke (no answer)", BROKE) from None
    except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
        raise Broken(
            f"the connection to {remote.name} broke ({clean(str(error))})", BROKE
        ) from None
    except asyncssh.SFTPError as error:
        raise Lacking(
            f"{remote.name} refuses a file ({clean(error.reason)})",
            "see to the space and the permissions of ~/.cache/llx there",
        ) from None
    except (asyncssh.Error, ConnectionError) as error:
        raise Broken(
            f"the connection to {remote.name} broke ({clean(str(error))})", BROKE
        ) from None
    finally:
        await _close(connection)


async def _close(connection: asyncssh.SSHClientConnection) -> None:
    """Close a connection, or drop it where nobody there takes leave."""
    connection.close()
    try:
        await asyncio.wait_for(connection.wait_closed(), CLOSE_S)
    except Exception:
        connection.abort()


async def _connect(remote: Remote) -> asyncssh.SSHClientConnection:
    import asyncssh

    named: dict[str, Any] = {"username": remote.user, "port": remote.port}
    given = {option: value for option, value in named.items() if value is not None}
    try:
        options = await asyncssh.SSHClientConnectionOptions.construct(
            host=remote.host,
            config=(),  # the user's own, which would otherwise be read too late for the check below
            connect_timeout=CONNECT_S,
            login_timeout=CONNECT_S,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVES_MISSED,
            **given,
        )
        if options.known_hosts is None:
            raise BadInput(
                f"~/.ssh/config turns the check of {remote.name}'s key off",
                "take its UserKnownHostsFile none out",
            )
        return await asyncio.wait_for(asyncssh.connect(remote.host, options=options), CONNECT_S)
    except asyncssh.HostKeyNotVerifiable:
        raise BadInput(
            f"the key of {remote.name} is unknown or has changed",
            f"connect once with `{remote.command}`, which shows it, and confirm it if it is right",
        ) from None
    except asyncssh.PermissionDenied:
        raise Lacking(
            f"{remote.name} lets nobody in with your keys",
            f"make `{remote.command}` work without a password: `ssh-copy-id`",
        ) from None
    except (asyncssh.ConfigParseError, asyncssh.KeyImportError) as error:
        raise BadInput(f"~/.ssh cannot be read ({clean(str(error))})", "mend it") from None
    except (asyncssh.Error, OSError, asyncio.TimeoutError) as error:
        why = clean(str(error)) or "no answer"
        raise Lacking(
            f"{remote.name} cannot be reached ({why})", f"see whether `{remote.command}` works"
        ) from None


def message_of(line: str) -> tuple[str, Any]:
    """What a line of a bundle's `run.py --json` says: its kind and its content; "" for neither."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return "", None
    if not isinstance(message, dict) or len(message) != 1:
        return "", None
    ((kind, content),) = message.items()
    return kind, content


def error_of(content: Any, remote: Remote) -> LlxError:
    """An error of there as one of here: `[message, remedy, exit code]`."""
    if not isinstance(content, list) or len(content) != 3:
        content = ["it failed and does not say why", "run it there by hand", 3]
    message, remedy, code = content
    kind = BadInput if code == BadInput.exit_code else Lacking
    return kind(f"{remote.name}: {clean(message)}", clean(remedy))
