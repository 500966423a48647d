"""The item types of ``Batch.stack``, under the names that others have for them."""

from __future__ import annotations

import struct
import sys

# The name of numpy and torch; numpy's short one; the formats of the struct module and
# of PEP 3118, of which the first is what the buffer has.
_KINDS = {
    "bool": ("b1", "?"),
    "int8": ("i1", "b"),
    "uint8": ("u1", "B"),
    "int16": ("i2", "h"),
    "uint16": ("u2", "H"),
    "int32": ("i4", "i"),
    "uint32": ("u4", "I"),
    "int64": ("i8", "q"),
    "uint64": ("u8", "Q"),
    "float16": ("f2", "e"),
    "float32": ("f4", "f"),
    "float64": ("f8", "d"),
    "complex64": ("c8", "Zf", "F"),
    "complex128": ("c16", "Zd", "D"),
}

_NATIVE, _FOREIGN = ("<", ">") if sys.byteorder == "little" else (">", "<")


def _make_table() -> dict[str, tuple[str, int]]:
    table = {}
    for name, (short, form, *more) in _KINDS.items():
        size = int(short[1:])
        table[name] = (form, size)
        for text in (short, form, *more):
            for order in ("", "@", "=", _NATIVE):
                table[order + text] = (form, size)
            if size == 1:
                table["|" + text] = table[_FOREIGN + text] = (form, size)
            else:
                table[_FOREIGN + text] = (_FOREIGN + form, size)
    for form in "lL":  # of a size of its own: not with a prefix, which would change it
        table[form] = (form, struct.calcsize(form))
    table["bool_"] = table["bool"]  # of numpy 1
    return table


_TABLE = _make_table()


def format_of(dtype: object) -> tuple[str, int]:
    """The format of an item as a buffer has it, and its size in bytes.

    Args:
        dtype: a format character of ``struct`` or ``array`` (``"f"``, ``"<f"``), a name
            of numpy (``"float32"``, ``"f4"``, ``"<f4"``), a ``numpy.dtype``, a scalar
            type of numpy, or a ``torch.dtype``.

    Raises:
        TypeError: it is nothing of that kind.
        ValueError: it is, but none of ``_KINDS``.
    """
    name = dtype if isinstance(dtype, str) else _name_of(dtype)
    found = _TABLE.get(name) if name is not None else None
    if found is None:
        error = TypeError if name is None else ValueError
        raise error(
            f"stack() dtype={dtype!r} is not allowed: it must be {', '.join(_KINDS)}, "
            "or what struct, numpy or torch call one of these ('f', '<f4', "
            "numpy.float32, torch.float32)"
        )
    return found


def _name_of(dtype: object) -> str | None:
    if isinstance(dtype, type):
        return dtype.__name__  # numpy.float32
    text = getattr(dtype, "str", None)
    if isinstance(text, str):
        return text  # "<f4", of a numpy.dtype
    module, _, name = str(dtype).partition(".")
    return name if module == "torch" else None
