"""The protobuf message that SentencePiece calls a model: its pieces, and how text is prepared.

Wire format: protobuf.dev/programming-guides/encoding. Message: `sentencepiece_model.proto` of
github.com/google/sentencepiece, whose field numbers and defaults stand below.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

BPE = 2  # TrainerSpec.ModelType; UNIGRAM is 1
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass
class Trainer:
    """What of TrainerSpec decides how text is encoded."""

    model_type: int = 1
    whitespace_as_suffix: bool = False
    byte_fallback: bool = False
    bos_piece: str = "<s>"
    eos_piece: str = "</s>"


@dataclass
class Normalizer:
    """What of NormalizerSpec is done to text first."""

    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


TRAINER_FIELDS = {
    3: "model_type",
    24: "whitespace_as_suffix",
    35: "byte_fallback",
    46: "bos_piece",
    47: "eos_piece",
}
NORMALIZER_FIELDS = {
    2: "charsmap",
    3: "add_dummy_prefix",
    4: "remove_extra_whitespaces",
    5: "escape_whitespaces",
}


@dataclass
class SentencePieceModel:
    """Pieces in the order of their ids, with scores and types, and the two specs."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    trainer: Trainer = field(default_factory=Trainer)
    normalizer: Normalizer = field(default_factory=Normalizer)


def read_sentencepiece(data: bytes, most_pieces: int) -> SentencePieceModel:
    """Read a SentencePiece model. Raises `ValueError` where the bytes are none, or no whole one."""
    model = SentencePieceModel()
    specs: dict[int, tuple[object, dict[int, str]]] = {
        2: (model.trainer, TRAINER_FIELDS),
        3: (model.normalizer, NORMALIZER_FIELDS),
    }
    missing = set(specs)
    for number, value in _fields(data):
        if number == 1:
            _add_piece(model, _bytes(value))
            if len(model.pieces) > most_pieces:
                raise ValueError(f"more than {most_pieces} pieces")
        elif number in specs:
            _set(*specs[number], _bytes(value))
            missing.discard(number)
    if missing:
        raise ValueError("it ends before its settings")
    return model


def _add_piece(model: SentencePieceModel, data: bytes) -> None:
    piece, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1:
            piece = _bytes(value).decode()
        elif number == 2:
            if len(_bytes(value)) != 4:
                raise ValueError(f"the score of piece {len(model.pieces)} is no float")
            (score,) = struct.unpack("<f", _bytes(value))
        elif number == 3 and isinstance(value, int):
            kind = value
    if not piece:
        raise ValueError(f"piece {len(model.pieces)} is empty")
    model.pieces.append(piece)
    model.scores.append(score)
    model.kinds.append(kind)


def _set(spec: object, names: dict[int, str], data: bytes) -> None:
    """Set what a spec's message says, each value as the type that its default has."""
    for number, value in _fields(data):
        name = names.get(number)
        if name is None:
            continue
        kind = type(getattr(spec, name))
        if isinstance(value, int) != issubclass(kind, int):
            raise ValueError(f"{name} is of another type")
        setattr(spec, name, _bytes(value).decode() if kind is str else kind(value))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message: an integer, or the bytes that it has."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = _varint(data, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"no field begins at byte {at}")
        if at + size > len(data):
            raise ValueError("it is cut off")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The integer at a place, seven bits to a byte, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it is cut off")
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("an integer of more than 64 bits")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a text or message belongs")
    return value
