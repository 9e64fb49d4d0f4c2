"""Makes the plug-in importable: it is a distribution of its own, not installed here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "serving" / "instrument"))
