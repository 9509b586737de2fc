"""The page: one HTML file with tables that sort and plots, and no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llx.lazy import hand_on

if TYPE_CHECKING:
    from llx.reports.html.page import BesideBaseline as BesideBaseline
    from llx.reports.html.page import page_html as page_html
    from llx.reports.html.page import write_page as write_page

__getattr__, __dir__, __all__ = hand_on(
    __name__,
    {
        "page": "BesideBaseline page_html write_page",
    },
)
