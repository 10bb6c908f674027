"""Pages for operators: their links lead somewhere."""

import re

import pytest

from tests.deploy.manifests import ROOT

PAGES = ("operations", "runbooks", "cost", "scoring", "switching")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """Files and folders exist, sections too; a moved file breaks this rather than somebody's night."""
    path = ROOT / f"docs/{page}.md"
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        file, _, section = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not section or section in anchors(there.read_text(encoding="utf-8")), target
