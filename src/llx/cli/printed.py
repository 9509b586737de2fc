"""What was measured is printed, or kept in a file where printing fails: it took a while."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from llx.errors import Lacking, one_line
from llx.streams import tell

Measured = TypeVar("Measured")


def printed(
    show: Callable[[Measured], None], measured: Measured, encode: Callable[[Measured], bytes]
) -> None:
    """Show what was measured; where that fails, keep it as JSON in a file, and say where.

    Raises `Lacking` where stdout takes no more, and whatever else `show` raises.
    """
    try:
        show(measured)
        sys.stdout.flush()
    except BaseException as error:
        from llx.api.results import rescued

        data = encode(measured)
        path = rescued(data)
        kept = f"what was measured is in {path}" if path else "what was measured stands above"
        if path is None:
            tell(data.decode())
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise Lacking(f"it could not be written ({one_line(error)})", kept) from None
        tell(f"llx: {kept}")
        raise
