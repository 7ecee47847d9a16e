"""Make the site's maths font of STIX Two Math: the symbols of LaTeX, in 110 kB.

``python subset.py STIXTwoMath-Regular.ttf ../_static/fonts/stix-two-math.woff2``
with ``fonttools[woff]`` installed. The font comes from
https://github.com/stipub/stixfonts, under the SIL Open Font License.

Chromium leaves room in a line for the widest form of a root, whichever it draws, so
that a gap follows every small one. Here all forms are as wide as the smallest.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fontTools import subset  # type: ignore[import-untyped]
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

SYMBOLS = """
20-7E A0 A7 AC B0 B1 B7 D7 F7 131 237 300-304 307 308 30C 20D7 391-3A9 3B1-3C9
3D1 3D5 3D6 3F0 3F1 3F5 2010-2015 2016 2018 2019 201C 201D 2020 2022 2026 2032 2033
203E 2044 2061-2064 2102 210B 210E 2112 2113 2115 211A 211B 211D 2124 2190-2194 21A6
21D0 21D2 21D4 2200 2202-2209 220B 220F 2211 2212 2213 2215 2217-221A 221D 221E 2223
2225 2227-222B 2234 223C 2243 2245 2248 2254 2260 2261 2264 2265 226A 226B 2282 2283
2286 2287 2295-2299 22A4 22A5 22C5 22EE 22EF 22F1 2308-230B 23B4 23B5 23DE 23DF 25A1
27E8 27E9 1D400-1D4B5 1D538-1D56B 1D6A4 1D6A5 1D6A8-1D755 1D7CE-1D7E1
"""
RADICAL = "\N{SQUARE ROOT}"


def codes(ranges: str) -> list[int]:
    """Return the code points in `ranges`, such as ``"41-5A 61"``."""
    found: list[int] = []
    for part in ranges.split():
        first, _, last = part.partition("-")
        found += range(int(first, 16), int(last or first, 16) + 1)
    return found


def narrow_roots(font: TTFont) -> None:
    """Make the tall forms of the root as wide as the one in the text."""
    base = font.getBestCmap()[ord(RADICAL)]
    width = font["hmtx"][base][0]
    variants = font["MATH"].table.MathVariants
    form = variants.VertGlyphConstruction[variants.VertGlyphCoverage.glyphs.index(base)]
    tall = [record.VariantGlyph for record in form.MathGlyphVariantRecord]
    tall += [part.glyph for part in form.GlyphAssembly.PartRecords]
    for name in set(tall) - {base}:
        advance, bearing = font["hmtx"][name]
        glyph = font["glyf"][name]
        glyph.coordinates.scale((width / advance, 1))
        glyph.coordinates.toInt()
        glyph.recalcBounds(font["glyf"])
        font["hmtx"][name] = (width, round(bearing * width / advance))


def main(source: Path, target: Path) -> None:
    """Write the subset of `source` to `target`."""
    options = subset.Options(
        flavor="woff2", hinting=False, layout_features=["ssty", "math", "flac", "dtls"]
    )
    font = subset.load_font(str(source), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=codes(SYMBOLS))
    cutter.subset(font)
    narrow_roots(font)
    subset.save_font(font, str(target), options)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
