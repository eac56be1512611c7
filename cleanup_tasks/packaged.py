"""Where the files are that a checkout has at its top, and the wheel inside the package."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def path_of(name: str) -> Path:
    """The path of such a file or folder."""
    packaged = PACKAGE / name
    return packaged if packaged.exists() else PACKAGE.parent / name
