"""What a file is that cannot be read as what it should be: said after a look at how it begins."""

from __future__ import annotations

from pathlib import Path

from llx.errors import BadInput, one_line
from llx.files import is_lfs_pointer
from llx.nearby import absence, is_broken_link

HEAD_BYTES = 512
AGAIN = "download it again, or copy it again from where it is whole"


def kind_of(path: Path) -> str:
    """What a file is, by its first bytes: a format of weights, or "" where it looks like none."""
    try:
        head = _head(path)
    except OSError:
        return ""
    if head.startswith(b"GGUF"):
        return "GGUF"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02\x8a\x0a")):
        return "PyTorch"  # a zip archive, or the magic number of its format before 1.6
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    return ""


def unreadable(path: Path, wanted: str, why: object) -> BadInput:
    """The error for a file that is not the `wanted`, such as "safetensors file"; `why` is one line.

    A file that is another thing altogether is called that: what helps is something else then.
    """
    if is_broken_link(path):
        return BadInput(f"{path} {absence(path)}", "mend the link, or put the file itself there")
    try:
        size, head = path.stat().st_size, _head(path)
    except PermissionError:
        return BadInput(f"{path} may not be read by this user", "check its permissions")
    except OSError as error:
        return BadInput(f"{path} cannot be read ({error.strerror})", "check the disk and the path")
    if not size:
        return BadInput(f"{path} is not a whole {wanted}: it is empty", AGAIN)
    if is_lfs_pointer(path):
        return BadInput(
            f"{path} is a Git LFS pointer, not a whole {wanted}",
            "run `git lfs pull` in its repository, or download the file itself",
        )
    if head.lstrip()[:1] == b"<":
        return BadInput(
            f"{path} is a web page, not a whole {wanted}",
            "download the file itself: a page of words came in its place, as for a login",
        )
    found = kind_of(path)
    if found and found not in wanted:
        return BadInput(
            f"{path} is not a whole {wanted}: it begins as a file of {found} does",
            "give it the name of what it is",
        )
    return BadInput(f"{path} is not a whole {wanted} ({one_line(why)})", AGAIN)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
