"""The structures of `src/cuda/kernels/parameters.cu` in ctypes, with their layout read from that file."""

import ctypes
import re
from typing import Any

from .interpreter import PARAMETERS

NUMBERS: dict[str, Any] = {
    "i64": ctypes.c_int64,
    "u32": ctypes.c_uint32,
    "int": ctypes.c_int,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
STRUCTURE = re.compile(r"^struct (\w+) \{(.*?)^\};", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^ +(?:const )?(\w+)(\*?) (\w+)(?:\[(\w+)\])?;", re.MULTILINE)
ENUMERATION = re.compile(r"^enum \w+ \{ (.*) \};", re.MULTILINE)


def structures() -> dict[str, Any]:
    """Each structure by name, as a class of ctypes."""
    text = PARAMETERS.read_text()
    sizes = dict(re.findall(r"^#define (\w+) (\d+)", text, re.MULTILINE))
    found: dict[str, Any] = {}
    for name, body in STRUCTURE.findall(text):
        fields = []
        for kind, pointer, field, count in FIELD.findall(body):
            of = ctypes.c_void_p if pointer else NUMBERS.get(kind) or found[kind]
            fields.append((field, of * int(sizes.get(count, count)) if count else of))
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


def enumerators() -> dict[str, int]:
    """The value of each name."""
    lists = ENUMERATION.findall(PARAMETERS.read_text())
    return {name: value for names in lists for value, name in enumerate(names.split(", "))}
