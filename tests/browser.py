"""A headless Chromium, where there is one."""

import shutil
import subprocess
import tempfile

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--disable-dev-shm-usage"),
)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


def browse(page, *flags):
    """What Chromium prints about a page, in a new profile."""
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
        run = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return run.stdout.decode()


def dump(page):
    """The page's elements after everything in it that runs has run."""
    return browse(page, "--dump-dom")


def screenshot(page, target, *, dark=False, size="900,900"):
    """A picture of the page."""
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    browse(page, f"--screenshot={target}", f"--window-size={size}", *scheme)
