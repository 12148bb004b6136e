"""What a user did wrong in a config, said once and completely."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A mistake in a config or in an override; the command line exits with code 2."""


def near(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Return the known names that look most like ``name``."""
    known = [k for k in known if isinstance(k, str)]
    exact = [k for k in known if k.lower() == name.lower() and k != name]
    close = difflib.get_close_matches(name, known, n=n, cutoff=0.6)
    return list(dict.fromkeys([*exact, *close]))[:n]


def hint(name: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean ...?'``, or nothing where no known name is near."""
    found = near(name, known)
    return f'; did you mean {" or ".join(found)}?' if found else ''
