"""The pictures of the command in docs/: they show what it shows today."""

import html
import re
from pathlib import Path

import pytest

from demo.stack import ROOT
from demo.terminal import PICTURES, make_pictures


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with today's pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    make_pictures(folder)
    return folder


def words(picture: Path) -> list[str]:
    """The texts in a picture, without numbers, which differ with each run."""
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", picture.read_text())
    return [word for text in texts for word in re.sub(r"\d+", "0", html.unescape(text)).split()]


@pytest.mark.parametrize("name", list(PICTURES))
def test_a_picture_is_of_today(name: str, made: Path) -> None:
    file = f"command-{name}.svg"
    assert "Redis" in words(made / file)
    assert words(ROOT / "docs" / file) == words(made / file), "make pictures makes them anew"


def test_a_picture_loads_nothing(made: Path) -> None:
    for picture in made.iterdir():
        assert "url(http" not in picture.read_text()
        assert "@font-face" not in picture.read_text()
