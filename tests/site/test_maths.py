"""Formulas are MathML, and the font comes only with them."""

from __future__ import annotations

from .conftest import ROOT, Site

FORMULA = r"""# %%
# The scale is :math:`\sqrt{d_k}`, and
#
# .. math::
#    :label: scores
#
#    s = \frac{q \cdot k}{\sqrt{d_k}}
#
# is :eq:`scores`.
"""


def test_formulas_are_mathml(site: Site) -> None:
    site.page("01_plain")
    site.page("02_formula", FORMULA)
    built = site.build()
    assert built.status == 0, built.log
    page = site.read("learn/1_one/02_formula.html")
    assert page.count("<msqrt>") == 2
    assert 'display="block"' in page
    assert '<span class="eqno">(1)' in page
    assert '<a class="reference internal" href="#equation-scores">(1)</a>' in page
    assert 'rel="preload" href="../../_static/fonts/stix-two-math.woff2"' in page
    assert "maths.css" in page
    plain = site.read("learn/1_one/01_plain.html")
    assert "maths.css" not in plain
    assert "stix" not in plain


def test_the_font_is_small_and_licensed() -> None:
    fonts = ROOT / "docs/_static/fonts"
    assert (fonts / "stix-two-math.woff2").stat().st_size <= 120_000
    licence = (fonts / "stix-two-math.LICENSE.txt").read_text("utf-8")
    assert "SIL OPEN FONT LICENSE Version 1.1" in licence
