"""A page runs again when what it depends on changed, and only then."""

from __future__ import annotations

import os

import pytest

from .conftest import Site

USES = "import parcel\nassert parcel.number"


@pytest.fixture
def built(site: Site) -> Site:
    """Build a site of which one page uses the package and one does not."""
    site.write("parcel/__init__.py", "number = 1\n")
    site.page("01_alone")
    site.page("02_user", USES)
    first = site.build()
    assert first.status == 0, first.log
    return site


def ran(site: Site) -> set[str]:
    """Build again and return the pages that ran."""
    before = site.runs()
    built = site.build()
    assert built.status == 0, built.log
    return {page for page, when in site.runs().items() if when != before.get(page)}


def test_nothing_changed_nothing_runs(built: Site) -> None:
    assert ran(built) == set()


def test_an_edited_page_runs_alone(built: Site) -> None:
    built.page("01_alone", "assert 2")
    assert ran(built) == {"01_alone"}


def test_a_new_page_runs_alone(built: Site) -> None:
    built.page("03_new")
    assert ran(built) == {"03_new"}


def test_an_edited_package_runs_its_users(built: Site) -> None:
    built.write("parcel/__init__.py", "number = 2\n")
    assert ran(built) == {"02_user"}


def test_another_device_runs_all(built: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDOC_DEVICE", "cpu:0")
    assert ran(built) == {"01_alone", "02_user"}


def test_a_page_that_failed_runs_again(built: Site) -> None:
    built.page("01_alone", "assert not 1")
    assert built.build().status != 0
    assert built.build().status != 0


def test_a_deleted_page_disappears(built: Site) -> None:
    (built.root / "gallery/1_one/02_user.py").unlink()
    assert ran(built) == set()
    left = [
        name
        for folder, _, names in os.walk(built.root)
        for name in names
        if "02_user" in name and "doctrees" not in folder
    ]
    assert left == []
    assert "02_user" not in built.read("learn/1_one/index.html")


def test_a_deleted_section_disappears(built: Site) -> None:
    built.write("gallery/2_two/GALLERY_HEADER.rst", "Two\n===\n")
    page = built.page("03_there")
    page = page.rename(built.root / "gallery/2_two/03_there.py")
    assert ran(built) == {"03_there"}
    page.unlink()
    page.with_name("GALLERY_HEADER.rst").unlink()
    page.parent.rmdir()
    assert ran(built) == set()
    assert not (built.root / "docs/learn/2_two").exists()
    assert not (built.html / "learn/2_two/index.html").exists()
