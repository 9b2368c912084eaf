"""Which code was loaded: so that a plan made from other code can be told apart.

>>> manifest = take_manifest()
>>> len(manifest.digest)
64
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from .._core.codec import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeManifest:
    """The code of a program.

    Attributes:
        python: Version of Python.
        modules: SHA-256 of each loaded module's file outside the standard library and the installed packages.
        distributions: Version of each installed distribution.
    """

    python: str
    modules: dict[str, str]
    distributions: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        return digest([self.python, self.modules, self.distributions])


def take_manifest() -> CodeManifest:
    """Return the manifest of what is loaded now. Reads every such file: call it in a thread where that matters.

    A module loaded later is not in it, and native code, data files and the environment never are.
    """
    installed = _installed_folders()
    modules: dict[str, str] = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or any(Path(file).is_relative_to(folder) for folder in installed):
            continue
        try:
            modules[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        except OSError:
            modules[name] = "unreadable"
    distributions = {
        name: distribution.version
        for distribution in importlib.metadata.distributions()
        if (name := distribution.metadata["Name"])
    }
    return CodeManifest(
        python=platform.python_version(), modules=modules, distributions=dict(sorted(distributions.items()))
    )


def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")})
