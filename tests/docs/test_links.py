"""Links of the documents lead somewhere."""

import re

from docs.pages import PAGES, ROOT


def test_links_lead_somewhere():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]*)[^)]*\)", text):
            assert (ROOT / "docs" / target).is_file(), (page, target)
