"""Configuration of the site; the engine behind it is the package ``_ext/executed``."""

import os
import sys
import tomllib
from pathlib import Path

here = Path(__file__).parent
sys.path[:0] = [str(here / "_ext"), str(here.parent)]

from executed import gallery

with (here.parent / "pyproject.toml").open("rb") as file:
    metadata = tomllib.load(file)["project"]
urls = metadata["urls"]

project = "tfdoc"
author = "The tfdoc developers"
copyright = author  # noqa: A001 - Sphinx's name for it
version = release = metadata["version"]
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_sitemap",
    "sphinxext.opengraph",
    "executed",
    "calculator",
    "front",
]
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", "[a-z ]+"),  # types told in words: str to list
    ("py:class", r"tfdoc\.cost\.results\..*"),  # the parts of an Estimate, told there
]
suppress_warnings = ["sphinx_gallery.space_in_filename"]  # means any parent folder
exclude_patterns = ["_build", "_ext", "_fonts", "_static", "_templates"]
templates_path = ["_templates"]
default_role = "code"

sphinx_gallery_conf = gallery.settings()

autosummary_generate = True
autodoc_typehints = "none"  # types stand in the numpydoc sections
autodoc_default_options = {"exclude-members": "extra_repr"}
napoleon_google_docstring = False
napoleon_use_param = False  # types are words for a reader, as in "Tensor, (B, T, D)"
napoleon_use_rtype = False

html_theme = "furo"
pygments_dark_style = "a11y-high-contrast-dark"
html_title = "tfdoc"
# Read the Docs builds for an address of its own.
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", urls["Documentation"])
html_static_path = ["_static"]
html_favicon = "_static/mark.svg"
html_css_files = ["tfdoc.css", "front.css"]
html_js_files = ["tfdoc.js"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_permalinks_icon = "#"
html_context = {"repository": urls["Repository"]}
html_theme_options = {
    "source_repository": urls["Repository"],
    "source_branch": "main",
    "source_directory": "docs/",
    "light_css_variables": {
        "color-brand-primary": "#2b6cb0",
        "color-brand-content": "#2b6cb0",
    },
    "dark_css_variables": {
        "color-brand-primary": "#63b3ed",
        "color-brand-content": "#63b3ed",
    },
}

ogp_site_url = html_baseurl
ogp_image = f"{urls['Documentation']}_static/card.png"
ogp_image_alt = "tfdoc: transformers, explained by programs that run"
ogp_social_cards = {"enable": False}
sitemap_url_scheme = "{link}"
sitemap_excludes = ["404.html", "genindex.html", "search.html"]
linkcheck_anchors = False  # some sites write theirs with scripts
linkcheck_ignore = [f"{urls['Repository']}/(edit|blob)/.*"]  # true once it is pushed
linkcheck_timeout = 20
copybutton_exclude = ".linenos, .gp, .go"
