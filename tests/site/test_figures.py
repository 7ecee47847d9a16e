"""A figure is drawn once and shown in two modes, with room, words and true colours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from executed import figures, state
from matplotlib import colors
from matplotlib import pyplot as plt

from .conftest import Site

BACKGROUNDS = ("#ffffff", "#131416")  # of furo's light and dark pages


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        rgb = colors.to_rgb(colour)
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lower, higher = sorted((luminance(one), luminance(other)))
    return (higher + 0.05) / (lower + 0.05)


def draw(path: Path) -> tuple[str, str]:
    """Draw a map and a line in the site's style; return the light and the dark SVG."""
    with plt.style.context(state.STYLE):
        fig, axes = plt.subplots(1, 2)
        axes[0].imshow([[0, 1], [2, 3]])
        axes[1].plot([0, 1])
        axes[1].set_title("A title")
        axes[1].grid()
        figures.save(fig, path)
        plt.close(fig)
    return path.read_text("utf-8"), figures.dark(path).read_text("utf-8")


def test_modes_differ_in_text_and_lines_only(tmp_path: Path) -> None:
    light, dark = draw(tmp_path / "figure.svg")
    for sentinel, (in_light, in_dark) in figures.COLOURS.items():
        assert sentinel not in light + dark
        assert in_light in light
        assert in_dark in dark
        dark = dark.replace(in_dark, in_light)
    assert light == dark


def test_the_same_figure_is_the_same_bytes(tmp_path: Path) -> None:
    assert draw(tmp_path / "one.svg") == draw(tmp_path / "two.svg")
    assert "<metadata" not in draw(tmp_path / "one.svg")[0]


def test_the_palette_reads_on_both_backgrounds() -> None:
    with plt.style.context(state.STYLE):
        palette = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for colour in palette:
        assert min(contrast(colour, b) for b in BACKGROUNDS) >= 3
    for mode, background in enumerate(BACKGROUNDS):
        assert contrast(figures.COLOURS["#010203"][mode], background) >= 7


def test_a_page_shows_both_modes_with_room_and_words(site: Site) -> None:
    site.page("01_fine")
    built = site.build()
    assert built.status == 0, built.log
    images = re.findall(r"<img[^>]*>", site.read("learn/1_one/01_fine.html"))
    assert len(images) == 2
    for image, mode in zip(images, ("light", "dark"), strict=True):
        assert f"only-{mode}" in image
        assert 'loading="lazy"' in image
        assert 'width="624"' in image  # 6.5 inches
        assert 'height="384"' in image
        assert 'alt="A straight line that rises from zero to one."' in image
    assert len(list((site.html / "_images").glob("*.svg"))) == 2


def test_the_card_shows_the_chosen_figure(site: Site) -> None:
    more = (
        "fig = plt.figure()\nfig.set_label('A second figure, which has nothing on it.')"
    )
    site.page("01_fine", f"# sphinx_gallery_thumbnail_number = 2\n{more}", "Why cards")
    built = site.build()
    assert built.status == 0, built.log
    section = site.read("learn/1_one/index.html")
    card = section[section.index("page-card") : section.index("page-card-intro")]
    assert "sphx_glr_01_fine_002.svg" in card
    assert "sphx_glr_01_fine_002_dark.svg" in card
    assert "sphx_glr_01_fine_001" not in card
    assert re.search(r'href="01_fine.html">.*Why cards', card)


@pytest.mark.parametrize("when", ["one figure", "two figures"])
def test_figures_of_a_cell_keep_their_order(site: Site, when: str) -> None:
    labels = ["The first figure has a label too.", "The second one comes after it."]
    labels = labels[: 1 if when == "one figure" else 2]
    code = "".join(f"plt.figure().set_label({label!r})\n" for label in labels)
    site.page("01_fine", code)
    assert site.build().status == 0
    page = site.read("learn/1_one/01_fine.html")
    alts = re.findall(r'<img alt="([^"]*)" class="figure only-light"', page)
    assert alts[1:] == labels
