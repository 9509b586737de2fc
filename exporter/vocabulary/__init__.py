"""Every tokenizer as a `tokenizer.json`: of folders, SentencePiece, tiktoken and GGUF."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.exporter.vocabulary.bpe import Text as Text
    from llx.exporter.vocabulary.folder import read_folder as read_folder
    from llx.exporter.vocabulary.gguf import read_gguf as read_gguf
    from llx.exporter.vocabulary.tokenizer_model import read_tokenizer_model as read_tokenizer_model

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "bpe": "Text",
        "folder": "read_folder",
        "gguf": "read_gguf",
        "tokenizer_model": "read_tokenizer_model",
    },
)
