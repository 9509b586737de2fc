"""Text for strangers' eyes: no token, no address, and no name of its user, machine or folders.

What can be told beforehand is taken out by its value: the user's name, the host's, and whatever
stands in an environment variable that is called like a secret. The rest goes by its form, and
rather too much than too little: a long word that looks drawn at random is taken for a token.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SECRET = "[secret]"
ADDRESS = "[address]"
USER, HOST = "[user]", "[host]"
MOST_CHARACTERS = 2000  # of one text
MOST_ENTRIES = 64  # of one list or object
LEAST_RANDOM = 12  # characters of a part that looks drawn at random
LEAST_SECRET = 5  # characters: what is shorter is in every text

SECRET_NAME = re.compile(
    r"token|secret|passw|passphrase|pwd|passwd|credential|cookie|auth|proxy|webhook|dsn|database_url"
    r"|index_url|api_?key|access_?key|private_?key|signing_?key|_key$|^key$|bearer|session_id",
    re.I,
)
# Tokens by how their issuers write them.
TOKENS = re.compile(
    r"""(?x)
    -----BEGIN[ ][A-Z ]*KEY-----.*?(?:-----END[ ][A-Z ]*KEY-----|\Z)  # PEM
    | ssh-(?:rsa|dss|ed25519)\s+\S+ | ecdsa-sha2-\S+\s+\S+            # public keys
    | \bhf_\w{6,} | \bapi_org_\w{6,}                                  # Hugging Face
    | \bgh[pousr]_\w{6,} | \bgithub_pat_\w{6,} | \bglpat-[\w-]{6,}    # GitHub, GitLab
    | \bsk-[\w-]{8,} | \bpk-[\w-]{8,} | \brk-[\w-]{8,}                # OpenAI, Anthropic, Stripe
    | \b(?:AKIA|ASIA)[0-9A-Z]{12,} | \bAIza[\w-]{10,}                 # AWS, Google
    | \bxox[a-z]-[\w-]{6,} | \bnpm_\w{6,} | \bpypi-[\w-]{6,} | \bdop_v1_\w{6,} | \bnvapi-[\w-]{6,}
    | \beyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?                                # JSON Web Tokens
    """,
    re.S,
)
_CALLED = (
    r"[\w-]*(?:token|secret|passw(?:or)?d|passphrase|pwd|credentials?|cookie"
    r"|(?:api|access|private)[_-]?key|auth(?:orization)?|key)"
)
KEY = re.compile(_CALLED, re.I)
NAMED = re.compile(  # --token X, password=X, "api_key": "X", Authorization: Bearer X
    rf"(?i)((?:--{_CALLED}(?:\s+|=)|\b{_CALLED}[\"']?\s*[=:]\s*)[\"']?(?:(?:bearer|basic)\s+)?)"
    r"(?!\[)[^\s\"',;&)]+"
)
BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.I)
REMOTE = re.compile(r"(--remote[ =]|\bremote=)['\"]?[^\s'\",)]+['\"]?")
QUERY = re.compile(r"([a-z][a-z0-9+.-]*://[^\s?#'\"]*)[?#][^\s'\"]*", re.I)
USERINFO = re.compile(r"([a-z][a-z0-9+.-]*://)[^\s/'\"]*@", re.I)
LOCAL_URL = re.compile(
    r"([a-z][a-z0-9+.-]*://)(?!(?:[\w-]+\.)?(?:huggingface\.co|github\.com|pypi\.org"
    r"|hf\.co|pytorch\.org|nvidia\.com)(?![\w.-]))[^\s/'\"]+",
    re.I,
)
AT = re.compile(r"[^\s@'\"<>(),;:=/]+@[^\s@'\"<>(),;/]+")  # e-mail, user@host:path
MAC = re.compile(r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b", re.I)
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?:%\w+)?(?![\w:])", re.I)
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
UUID = re.compile(r"\b(?:GPU-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.I)
HOMES = re.compile(
    r"(?<![\w.~-])/(?:root|(?:home|Users|var/home|export/home)/[^/\s'\"]+)(?=[/\s'\"]|$)"
)
PATHS = re.compile(r"(?<![\w.~…/:-])/(?:[^/\s'\",:;()`]+/)+(?=[^/\s'\"]|$)")
QUOTED = re.compile(r"(?<=['\"=])/[^'\"\n]*/(?=[^/'\"\n]*['\"])")  # with a space in it
# Of Windows: a drive, or a share of a machine, and its folders. A result may come from there.
WINDOWS = re.compile(
    r"(?:(?<![A-Za-z0-9])[A-Za-z]:(?=[\\/](?![/]))|(?<![\\\w])\\\\(?=[^\s\\]))"
    r"(?:[\\/]?[^\\/\s'\",;()`]+(?: [^\\/\s'\",;()`]+)*(?=[\\/]))*[\\/]?"
)
WINDOWS_HOME = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z]:[\\/](?i:users|documents and settings)[\\/][^\\/\s'\",;:()`]+"
    r"(?![\\/\w]|(?: [^\\/\s'\",;:()`]+)+[\\/])"  # else more of the path follows
)
RANDOM = re.compile(r"[A-Za-z0-9+/=_-]{20,}")


def handed_on(text: str, *known: Path | None) -> str:
    """A text that goes with an artifact to anybody: folders of absolute paths are cut, `…/chat`.

    And so is the machine of a `--remote`. `known`: paths that it may hold; of one with a space or a
    comma in it no form tells the end.
    """
    homes = "|".join(filter(None, (HOMES.pattern, re.escape(_home(os.environ).rstrip("/")))))
    text = re.sub(rf"(?:{homes})/?(?=[\s'\",)]|$)", "~", text)
    named = {one for path in known if path for one in (path.absolute(), path.resolve())}
    for folder in sorted({str(path.parent) for path in named} - {"/"}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "…/")
    text = QUOTED.sub("…/", text)  # whole, before a part of it is cut
    return REMOTE.sub(rf"\1{HOST}", PATHS.sub("…/", text))


class Scrubber:
    """Takes out of texts what is nobody's business. It knows this user, this machine and its own.

    `env`, `home`, `users`, `hosts`: what is known, if it is to be another's than this process's.
    """

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        home: str | None = None,
        users: Iterable[str] | None = None,
        hosts: Iterable[str] | None = None,
    ) -> None:
        env = os.environ if env is None else env
        homes = {home or _home(env), env.get("HOME", "")}
        self._homes = sorted((h.rstrip("/") for h in homes if h.strip("/")), key=len, reverse=True)
        self._secrets = sorted(set(_secrets(env)), key=len, reverse=True)
        users = set(_users(env)) if users is None else set(users)
        hosts = set(_hosts(env)) if hosts is None else set(hosts)
        self._names = [(_word(name), USER) for name in _longest_first(users)]
        self._names += [(_word(name), HOST) for name in _longest_first(hosts)]

    def text(self, value: str) -> str:
        """A text without them, on one line, and not too long a one."""
        said = value
        for secret in self._secrets:
            said = said.replace(secret, SECRET)
        said = TOKENS.sub(SECRET, said)
        said = " ".join("".join(c if c.isprintable() else " " for c in said).split())
        said = QUERY.sub(r"\1", said)
        said = USERINFO.sub(r"\1", said)
        said = LOCAL_URL.sub(rf"\1{HOST}", said)
        said = REMOTE.sub(rf"\1{HOST}", said)
        said = NAMED.sub(rf"\1{SECRET}", said)
        said = BEARER.sub(rf"\1 {SECRET}", said)
        said = AT.sub(ADDRESS, said)
        for pattern in (MAC, UUID, IPV6, IPV4):
            said = pattern.sub(ADDRESS, said)
        for home in self._homes:
            said = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", said)
        said = WINDOWS.sub("…/", WINDOWS_HOME.sub("~", said))
        said = HOMES.sub("~", said)
        said = PATHS.sub("…/", said)
        said = re.sub(r"~/(?:[^/\s'\",:;()`]+/)+(?=[^/\s'\"])", "~/…/", said)
        for word, instead in self._names:
            said = word.sub(instead, said)
        said = RANDOM.sub(lambda found: SECRET if _looks_random(found[0]) else found[0], said)
        return said if len(said) <= MOST_CHARACTERS else said[: MOST_CHARACTERS - 1] + "…"

    def value(self, value: Any) -> Any:
        """The same of every text within lists and objects, of which a part is kept."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            items = list(value.items())[:MOST_ENTRIES]
            return {
                self.text(str(key)): SECRET if self._is_secret(key, entry) else self.value(entry)
                for key, entry in items
            }
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.value(entry) for entry in list(value)[:MOST_ENTRIES]]
        return (
            value
            if value is None or isinstance(value, (bool, int, float))
            else type(value).__name__
        )

    def _is_secret(self, key: object, value: object) -> bool:
        return isinstance(value, str) and bool(KEY.fullmatch(str(key)))


def _home(env: Mapping[str, str]) -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container's user without an entry
        return env.get("HOME", "")


def _users(env: Mapping[str, str]) -> Iterable[str]:
    try:
        entry = pwd.getpwuid(os.getuid())
        # The fifth field is the full name, an office, telephones.
        yield from (entry.pw_name, *entry.pw_gecos.split(",")[0].split())
    except KeyError:
        pass
    for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER", "LNAME"):
        yield env.get(name, "")
    yield Path(env.get("HOME", "")).name


def _hosts(env: Mapping[str, str]) -> Iterable[str]:
    for name in (
        socket.gethostname(),
        os.uname().nodename,
        env.get("HOSTNAME", ""),
        env.get("HOST", ""),
    ):
        yield from (name, name.partition(".")[0])


def _secrets(env: Mapping[str, str]) -> Iterable[str]:
    """Values of variables that are called like secrets, and what URLs in any variable hold."""
    for name, value in env.items():
        path = value.startswith("/") and "\n" not in value  # where a secret lies, and none itself
        if SECRET_NAME.search(name) and len(value) >= LEAST_SECRET and not path:
            yield value
        if "@" in value and "://" in value:
            for word in value.split():
                yield from _of_url(word)


def _of_url(url: str) -> Iterable[str]:
    try:
        parts = urlsplit(url)
        found = (parts.username, parts.password)
    except ValueError:
        return
    for one in found:
        if one:
            yield from (word for word in {one, unquote(one)} if len(word) >= LEAST_SECRET)


def _longest_first(names: Iterable[str]) -> list[str]:
    return sorted((name for name in names if len(name) > 1), key=len, reverse=True)


def _word(name: str) -> re.Pattern[str]:
    """A name where it stands by itself, between letters of neither kind nor digits."""
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", re.I)


def _looks_random(word: str) -> bool:
    """Whether a part of it, between signs, changes kind oftener than names of models do.

    Of words drawn from 20 random bytes and more some nine of ten are found, in any alphabet.
    """
    parts = [part for part in re.split(r"[/+_=-]", word) if len(part) >= LEAST_RANDOM]
    return any(_mixed(part) for part in parts)


def _mixed(part: str) -> bool:
    """Small letters, capitals and digits: a change every other character, or digits everywhere."""
    kinds = [c.isdigit() + 2 * c.isupper() for c in part]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    of_digits = sum((a == 1) != (b == 1) for a, b in itertools.pairwise(kinds))
    return changes >= 0.45 * len(part) or (kinds.count(1) >= 3 and of_digits >= len(part) / 6)
