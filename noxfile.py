#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9"]
# ///
"""Build the site, test it, check it: `nox -l` lists the sessions.

One virtual environment serves them all. `nox --no-venv` uses the packages that the
running Python already has and installs nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
BUILD = ROOT / "docs" / "_build"
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
SHARED = ".nox/tfdoc"
DEVICES = nox.parametrize("device", ["cpu", "cuda"], ids=["cpu", "cuda"])
# Two OpenMP threads on tiny tensors wait for each other more than they work.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def install(session: nox.Session, *groups: str) -> None:
    """Install tfdoc with the pinned torch and these dependency groups."""
    if isinstance(session.virtualenv, nox.virtualenv.PassthroughEnv):
        session.log("no virtual environment: using the packages that are here")
        return
    torch = nox.project.dependency_groups(PROJECT, "torch")
    if index := os.environ.get("TFDOC_TORCH_INDEX"):
        session.install(*torch, "--index-url", index)
    wanted = nox.project.dependency_groups(PROJECT, *groups)
    session.install(*torch, *wanted, "-e", ".[pages]")


def require(session: nox.Session, device: str) -> None:
    """Skip at once where there is no GPU, before anything is installed."""
    if device == "cuda" and not (
        shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()
    ):
        session.skip("no GPU: found neither nvidia-smi on PATH nor /dev/nvidia0")


def environment(device: str = "cpu") -> dict[str, str]:
    """Return the environment of everything that computes."""
    return {"TFDOC_DEVICE": device, "MPLBACKEND": "agg", **ONE_THREAD, **OFFLINE}


def sphinx(session: nox.Session, builder: str, out: Path, device: str = "cpu") -> None:
    """Run Sphinx with every warning an error."""
    strict = ["-W", "--keep-going", "-n"]
    doctrees = BUILD / f"doctrees-{device}"
    arguments = ["-b", builder, "-d", str(doctrees), "docs", str(out)]
    session.run(
        "python", "-m", "sphinx", *strict, *arguments, *session.posargs,
        env=environment(device),
    )  # fmt: skip


@nox.session(default=True, venv_location=SHARED, tags=["build"])
@DEVICES
def docs(session: nox.Session, device: str) -> None:
    """Build the site: run every page, warnings are errors."""
    require(session, device)
    install(session, "docs")
    out = BUILD / ("html" if device == "cpu" else f"html-{device}")
    sphinx(session, "html", out, device)
    session.log(f"open {(out / 'index.html').as_uri()}")


@nox.session(default=True, venv_location=SHARED, tags=["test"])
@DEVICES
def tests(session: nox.Session, device: str) -> None:
    """Test the package, every page and the machinery of the site."""
    require(session, device)
    install(session, "test", "docs")
    session.run("python", "-m", "pytest", *session.posargs, env=environment(device))


@nox.session(default=False, venv_location=SHARED, tags=["test"])
def coverage(session: nox.Session) -> None:
    """Measure which branches of the package its own tests reach; 95 % at least."""
    install(session, "test", "docs")
    measured = ["--cov=tfdoc", "--cov-branch", "--cov-fail-under=95"]
    leave_out = ["--ignore=tests/site"]
    session.run(
        "python", "-m", "pytest", *measured, *leave_out, *session.posargs,
        env=environment(),
    )  # fmt: skip


@nox.session(default=False, venv_location=SHARED, tags=["test"])
def doctest(session: nox.Session) -> None:
    """Run the example in every docstring."""
    install(session, "test")
    session.run(
        "python", "-m", "pytest", "--doctest-modules", "tfdoc", *session.posargs,
        env=environment(),
    )  # fmt: skip


@nox.session(default=False, venv_location=SHARED, tags=["check"])
def lint(session: nox.Session) -> None:
    """Check style and packaging habits; `-- --fix` mends what can be mended."""
    install(session, "lint")
    parser = argparse.ArgumentParser(prog="nox -s lint --")
    parser.add_argument("--fix", action="store_true", help="rewrite the files")
    fix = parser.parse_args(session.posargs).fix
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")
    session.run("repo-review", ".")


@nox.session(default=False, venv_location=SHARED, tags=["check"])
def typecheck(session: nox.Session) -> None:
    """Check the types, strictly."""
    install(session, "typecheck", "test", "docs", "browser")
    session.run("python", "-m", "mypy", *session.posargs)


@nox.session(default=False, venv_location=SHARED, tags=["check"])
def linkcheck(session: nox.Session) -> None:
    """Follow every outgoing link; needs a network."""
    install(session, "docs")
    sphinx(session, "linkcheck", BUILD / "linkcheck")


@nox.session(name="docs-live", default=False, venv_location=SHARED, tags=["build"])
def docs_live(session: nox.Session) -> None:
    """Serve the site and rebuild it at each change, until interrupted."""
    parser = argparse.ArgumentParser(prog="nox -s docs-live --")
    parser.add_argument("--port", type=int, default=8000, help="where to serve")
    port = parser.parse_args(session.posargs).port
    install(session, "docs", "live")
    made = ["learn", "_build"]
    session.run(
        "sphinx-autobuild", "--port", str(port), "--watch", "gallery", "--watch", "tfdoc",
        *(f"--ignore={ROOT / 'docs' / folder}/*" for folder in made),
        "-d", str(BUILD / "doctrees-cpu"), "docs", str(BUILD / "html"),
        env=environment(),
    )  # fmt: skip


@nox.session(default=False, venv_location=SHARED, tags=["check"])
def a11y(session: nox.Session) -> None:
    """Open every page of the built site in Chromium: access, weight, requests."""
    install(session, "test", "browser")
    site = os.environ.get("TFDOC_SITE", str(BUILD / "html"))
    session.run(
        "python", "-m", "pytest", "tests/browser", *session.posargs,
        env={"TFDOC_SITE": site},
    )  # fmt: skip


if __name__ == "__main__":
    nox.main()
