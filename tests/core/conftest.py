"""The core's tests share a simulated world, which is also a program: it is imported as `tests.core.world`."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
