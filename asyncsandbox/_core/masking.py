"""What ``redact=`` names must be written nowhere: finding it in arguments, and covering it in what came of a call.

Facts are masked field by field as they are made. But an error may quote the card number it was about, and a result may
carry it. So the masked values are looked for, as text, in everything else that is written.

>>> masked = find_masked({"invoice": 17, "card": {"number": "4242 4242", "cvc": 123}}, {"card"})
>>> masked
('4242 4242', '123')
>>> cover("declined: 4242 4242 (cvc 123, code 12345)", masked)
'declined: ****** (cvc ******, code 12345)'
>>> holds(b'{"paid_by":"4242 4242"}', masked)
True
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .codec import MASKED_TEXT, declared_fields, is_writable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAX_DEPTH: Final = 32
_SHORT: Final = 6  # shorter texts turn up by chance, so they count only where they stand alone


def find_masked(values: Mapping[str, object], names: AbstractSet[str]) -> tuple[str, ...]:
    """Return the texts of everything under the given names, at any depth, the longest first.

    Args:
        values: The arguments of a call.
        names: Which fields are masked.
    """
    if not names:
        return ()
    found = dict.fromkeys(text for text in _search(values, names, 0, masked=False) if text)
    return tuple(sorted(found, key=len, reverse=True))


def cover(text: str, masked: Iterable[str]) -> str:
    """Return the text with everything masked in it replaced by asterisks."""
    for secret in masked:
        for form in dict.fromkeys((secret, repr(secret)[1:-1])):
            text = _pattern(form).sub(MASKED_TEXT, text)
    return text


def holds(data: bytes, masked: Iterable[str]) -> bool:
    """Tell whether a result, as it would be stored, holds anything masked."""
    text = data.decode("utf-8", "replace")
    for secret in masked:
        raw = secret.encode("utf-8", "surrogatepass")
        written = msgspec.json.encode(secret).decode()[1:-1] if is_writable(secret) else raw.hex()
        forms = (written, base64.b64encode(raw).decode(), raw.hex())
        if any(_pattern(form).search(text) for form in forms):
            return True
    return False


def _pattern(text: str) -> re.Pattern[str]:
    exact = re.escape(text)
    return re.compile(exact if len(text) >= _SHORT else rf"(?<!\w){exact}(?!\w)")


def _search(value: object, names: AbstractSet[str], depth: int, *, masked: bool) -> Iterator[str]:
    if isinstance(value, str | bytes | bytearray):
        if masked:
            yield value if isinstance(value, str) else bytes(value).decode("utf-8", "backslashreplace")
    elif depth < _MAX_DEPTH:
        parts = _parts(value)
        if parts is not None:
            for name, part in parts:
                yield from _search(part, names, depth + 1, masked=masked or name in names)
        elif masked and not (value is None or isinstance(value, bool)):
            yield str(value)


def _parts(value: Any) -> Iterable[tuple[object, object]] | None:
    """Return what a value is made of, by name where its parts have names; None where it is one thing."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple | AbstractSet):
        return [*zip(getattr(value, "_fields", ()), value, strict=False), *((None, part) for part in value)]
    fields = declared_fields(type(value))
    if fields is not None:
        return [(name, getattr(value, name, None)) for name in fields]
    return list(vars(value).items()) if hasattr(value, "__dict__") and not callable(value) else None
