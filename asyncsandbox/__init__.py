"""A dress rehearsal for async Python: run your program with its irreversible calls held back and read the plan."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
