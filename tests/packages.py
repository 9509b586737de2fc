"""What would install what a test lacks."""

from __future__ import annotations

import shutil


def install(debian: str, name: str) -> str:
    """The command for a package of Debian's; elsewhere what it is called by everyone."""
    if shutil.which("apt-get"):
        return f"apt-get install {debian}"
    return f"install your system's package of the {name}"
