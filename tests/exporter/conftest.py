"""Vocabularies that several tests read: trained once."""

from __future__ import annotations

import pytest
import tiktoken

from llx.exporter.vocabulary import read_tokenizer_model, words
from tests.exporter.vocabularies import (
    built,
    train,
    train_ranks,
    write_ranks,
)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tokenizer.model"
    path.write_bytes(train(control_symbols=["<pad>"]))
    return path


@pytest.fixture(scope="session")
def ranks():
    return train_ranks()


@pytest.fixture(scope="session")
def llama3(ranks, tmp_path_factory):
    """tiktoken's own encoding; the tokenizer and text that were read from a file of its ranks."""
    special = {name: len(ranks) + i for i, name in enumerate(words.LLAMA3_SPECIAL)}
    # As llama-models and the published tokenizer.json have it.
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    theirs = tiktoken.Encoding(
        "llama3", pat_str=split, mergeable_ranks=ranks, special_tokens=special
    )
    path = write_ranks(tmp_path_factory.mktemp("llama3") / "tokenizer.model", ranks)
    text = read_tokenizer_model(path)
    return theirs, built(text), text
