"""The Celery application, for ``celery -A cleanup_tasks``, with the settings of `celeryconfig.py`.

``celery -A cleanup_tasks flower`` has those of `flowerconfig.py`, unless the working directory holds a file
of that name, or ``--conf`` or ``FLOWER_CONF`` names another.
"""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

from celery import Celery

import cleanup_tasks.beat_health  # noqa: F401, a beat of ours leaves its sign of life
from cleanup_tasks.packaged import path_of

FLOWER_CONFIG = "flowerconfig.py"


def _configuration() -> ModuleType:
    """`celeryconfig.py`, read when it is needed.

    It is found by its path: Celery would take a file of that name in the working directory before ours.
    """
    spec = importlib.util.spec_from_file_location(f"{__package__}.celeryconfig", path_of("celeryconfig.py"))
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: Not made the current app: somebody else's app that includes our tasks stays in charge.
app = Celery("cleanup_tasks", include=["cleanup_tasks.tasks"], set_as_current=False)
app.config_from_object(_configuration())

if not Path(FLOWER_CONFIG).exists():
    os.environ.setdefault("FLOWER_CONF", str(path_of(FLOWER_CONFIG)))
