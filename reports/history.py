"""Results over time: a line for each in one small file, such as a branch's `history.jsonl`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from llx.errors import BadInput
from llx.files import write_whole
from llx.reports.measures import Measure, followed, measures
from llx.result import Result


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What of a result is followed. `label`: what was measured, such as a commit."""

    schema: Literal["llx.history/1"] = "llx.history/1"
    created: str
    label: str
    engine: str
    precision: str
    artifact: str
    device: str
    device_fingerprint: str
    measures: list[Measure]

    @property
    def identity(self) -> tuple[str, str, str]:
        """Equal only where the result is the same."""
        return self.created, self.engine, self.artifact


def remember(results: Sequence[Result], path: Path, label: str = "") -> list[Entry]:
    """Add results to a history, those that it has not yet, and return all of it in order of time.

    Of two that were measured in turns the candidate is kept. The file appears whole or stays as it
    was. Raises `BadInput` where it is no history.
    """
    known = read_history(path) if path.exists() else []
    seen = {entry.identity for entry in known}
    new = [_entry(result, label) for result in followed(results) if not result.error]
    entries = known + [entry for entry in new if entry.identity not in seen]
    entries.sort(key=lambda entry: entry.created)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, msgspec.json.Encoder().encode_lines(entries))
    return entries


def read_history(path: Path) -> list[Entry]:
    """Every entry of a history. Raises `BadInput` where the file is none."""
    try:
        return msgspec.json.Decoder(Entry).decode_lines(path.read_bytes())
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror})", "name a history's file"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} is no history ({error})", "name a file that `llx report --history` wrote"
        ) from None


def _entry(result: Result, label: str) -> Entry:
    return Entry(
        created=result.created,
        label=label,
        engine=result.engine,
        precision=result.precision,
        artifact=result.artifact.name,
        device=result.environment.device,
        device_fingerprint=result.environment.device_fingerprint,
        measures=list(measures(result)),
    )
