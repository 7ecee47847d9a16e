#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9"]
# ///
"""Build the site, test it, check it: `nox -l` lists the sessions.

One virtual environment, `.nox/tfdoc`, serves all but `bench`: torch is large. With
`--no-venv` the running Python's own packages serve, and nothing is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
# nox would make an environment for each session; `python` below makes the shared one.
nox.options.default_venv_backend = "none"

ROOT = Path(__file__).parent
BUILD = ROOT / "docs" / "_build"
ENVIRONMENTS = ROOT / ".nox"
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
DEVICES = nox.parametrize("device", ["cpu", "cuda"], ids=["cpu", "cuda"])


def python(session: nox.Session, *groups: str, environment: str = "tfdoc") -> str:
    """Return the Python to run, with tfdoc, the pinned torch and these groups."""
    if "--no-venv" in sys.argv:
        session.log("no virtual environment: using the packages of this Python")
        return sys.executable
    home = ENVIRONMENTS / environment
    executable = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not executable.with_suffix(".exe" if os.name == "nt" else "").exists():
        session.run(sys.executable, "-m", "venv", str(home))
    pip = [str(executable), "-m", "pip", "install", "--quiet"]
    torch = nox.project.dependency_groups(PROJECT, "torch")
    if index := os.environ.get("TFDOC_TORCH_INDEX"):
        session.run(*pip, *torch, "--index-url", index)
    wanted = nox.project.dependency_groups(PROJECT, *groups)
    session.run(*pip, *torch, *wanted, "--editable", ".[pages]")
    return str(executable)


def run(session: nox.Session, *command: str, device: str = "cpu") -> None:
    """Run a command in the environment of everything that computes."""
    settings = {
        "TFDOC_DEVICE": device,
        "MPLBACKEND": "agg",
        "HF_HUB_OFFLINE": "1",
        # Two OpenMP threads on tiny tensors wait for each other more than they work.
        "OMP_NUM_THREADS": "1",
    }
    session.run(*command, env=settings, external=True)


def need(session: nox.Session, device: str) -> None:
    """Skip where there is no GPU, before anything is installed."""
    found = shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()
    if device == "cuda" and not found:
        session.skip("no GPU: looked for nvidia-smi on PATH and for /dev/nvidia0")


def sphinx(session: nox.Session, out: str, device: str = "cpu") -> None:
    """Run Sphinx with every warning an error."""
    builder = "linkcheck" if out == "linkcheck" else "html"
    run(
        session, python(session, "docs"), "-m", "sphinx",
        "-W", "--keep-going", "-n", "-b", builder,
        "-d", str(BUILD / f"doctrees-{device}"), "docs", str(BUILD / out),
        *session.posargs, device=device,
    )  # fmt: skip


@nox.session(tags=["build"])
@DEVICES
def docs(session: nox.Session, device: str) -> None:
    """Build the site: run every page, every warning is an error."""
    need(session, device)
    out = "html" if device == "cpu" else f"html-{device}"
    sphinx(session, out, device=device)
    session.log(f"now open {(BUILD / out / 'index.html').as_uri()}")


@nox.session(tags=["test"])
@DEVICES
def tests(session: nox.Session, device: str) -> None:
    """Test the package, every page and the machinery of the site."""
    need(session, device)
    executable = python(session, "test", "docs")
    # Two processes, so that a page may take longer; with arguments one, for debuggers.
    how = session.posargs or ["-n", "2", "--dist", "worksteal"]
    session.env["TFDOC_PAGE_TIMEOUT"] = "300"
    run(session, executable, "-m", "pytest", *how, device=device)


@nox.session(default=False, tags=["test"])
def coverage(session: nox.Session) -> None:
    """Measure which branches of the package its own tests reach; 95 % at least."""
    # What a compiler traces is not seen as run; times are not those of other runs.
    run(
        session, python(session, "test", "docs"), "-m", "pytest", "--ignore=tests/site",
        "-n", "2", "-m", "not compiles and not measures",
        "--cov=tfdoc", "--cov-branch", "--cov-report=term-missing",
        "--cov-fail-under=95", *session.posargs,
    )  # fmt: skip


@nox.session(default=False, tags=["test"])
def doctest(session: nox.Session) -> None:
    """Run the example in every docstring."""
    command = ["-m", "pytest", "--doctest-modules", "tfdoc"]
    run(session, python(session, "test"), *command, *session.posargs)


@nox.session(default=False, tags=["check"])
def lint(session: nox.Session) -> None:
    """Check style and packaging habits; `-- --fix` mends what can be mended."""
    parser = argparse.ArgumentParser(prog="nox -s lint --")
    parser.add_argument("--fix", action="store_true", help="rewrite the files")
    fix = parser.parse_args(session.posargs).fix
    executable = python(session, "lint")
    run(session, executable, "-m", "ruff", "check", *(["--fix"] if fix else []))
    run(session, executable, "-m", "ruff", "format", *([] if fix else ["--check"]))
    run(session, executable, "-m", "repo_review", ".")


@nox.session(default=False, tags=["check"])
def typecheck(session: nox.Session) -> None:
    """Check the types, strictly."""
    executable = python(session, "typecheck", "test", "docs", "browser")
    run(session, executable, "-m", "mypy", *session.posargs)


@nox.session(default=False, tags=["check"])
def linkcheck(session: nox.Session) -> None:
    """Follow every outgoing link; needs a network."""
    sphinx(session, "linkcheck")


@nox.session(name="docs-live", default=False, tags=["build"])
def docs_live(session: nox.Session) -> None:
    """Serve the site and rebuild it at each change, until interrupted."""
    parser = argparse.ArgumentParser(prog="nox -s docs-live --")
    parser.add_argument("--port", type=int, default=8000, help="where to serve")
    port = parser.parse_args(session.posargs).port
    run(
        session, python(session, "docs", "live"), "-m", "sphinx_autobuild",
        "--port", str(port), "--watch", "gallery", "--watch", "tfdoc",
        "--ignore", str(ROOT / "docs/learn/*"), "--ignore", str(BUILD / "*"),
        "-d", str(BUILD / "doctrees-cpu"), "docs", str(BUILD / "html"),
    )  # fmt: skip


@nox.session(default=False, tags=["check"])
def bench(session: nox.Session) -> None:
    """Time the components beside their peers, for the site's page; a quarter-hour."""
    # An environment of its own: peft refuses the torchao that torchtune needs.
    executable = python(session, "bench", environment="bench")
    numbers = ["--out", str(ROOT / "docs/benchmarks.json")]
    arguments = session.posargs or numbers
    run(session, executable, "-m", "tests.benchmarks", *arguments)


@nox.session(default=False, tags=["check"])
def a11y(session: nox.Session) -> None:
    """Open every page of the built site in Chromium: access, weight, requests."""
    executable = python(session, "test", "browser")
    wanted, packages = ROOT / "tests/browser/package.json", BUILD / "npm"
    installed = packages / wanted.name
    stale = not installed.exists() or installed.read_text() != wanted.read_text()
    if stale and (npm := shutil.which("npm")):
        packages.mkdir(parents=True, exist_ok=True)
        shutil.copy(wanted, installed)
        session.run(npm, "install", "--silent", f"--prefix={packages}", external=True)
    run(session, executable, "-m", "pytest", "tests/browser", *session.posargs)


if __name__ == "__main__":
    nox.main()
