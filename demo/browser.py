"""A headless Chromium that asks nobody but the page it is sent to."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


@contextlib.contextmanager
def chromium(width: int = 1600, height: int = 1000, scale: float = 1) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile, for the length of a with block.

    `scale` is how many pixels of a picture one of the page takes.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    with tempfile.TemporaryDirectory(prefix="cleanup-browser-", ignore_cleanup_errors=True) as folder:
        size = (f"--window-size={width},{height}", f"--force-device-scale-factor={scale}")
        for flag in (*FLAGS, *size, f"--user-data-dir={Path(folder) / 'profile'}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, Service("/usr/bin/chromedriver"))
        try:
            yield driver
        finally:
            driver.quit()
