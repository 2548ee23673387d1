"""A kernel's object file made ready to run: by a small linker of our own, or by LLVM's.

LLVM has a linker for every platform. But a start with kept code needs nothing else of LLVM, and loading
it takes 60 MB and a twentieth of a second. What LLVM writes for one kernel is simple: code, constants, and
four kinds of references between them. So on Linux with x86-64, where most processes run, they are put in
their places here; whatever else is met is left to LLVM.

The format and the formulas of relocations: System V ABI, chapter 4, and its AMD64 supplement, section 4.4.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import mmap
import os
import platform
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("quire")

_HEADER = struct.Struct("<16s2HI3QI6H")
_SECTION = np.dtype("<u4, <u4, <u8, <u8, <u8, <u8, <u4, <u4, <u8, <u8")
"""name, type, flags, address, offset, size, link, info, alignment, size of an entry"""
_SYMBOL = np.dtype("<u4, u1, u1, <u2, <u8, <u8")
"""name, info, other, section, value, size"""
_RELOCATION = np.dtype("<u8, <u4, <u4, <i8")
"""offset, type, symbol, addend"""

_X86_64 = 62
_PROGBITS, _SYMTAB, _RELA = 1, 2, 4
_WRITE, _ALLOC = 1, 2
_GOT = "_GLOBAL_OFFSET_TABLE_"
_GOTOFF64, _PC64, _GOT64, _GOTPC64 = 25, 24, 27, 29


def load_object(code: bytes, entry: str) -> tuple[int, object]:
    """The address of a function in an object file, and what keeps its code alive."""
    if (
        platform.machine() == "x86_64"
        and hasattr(os, "memfd_create")
        and hasattr(mmap, "MAP_PRIVATE")
    ):
        try:
            image = _Image(code)
            return image.address(entry), image
        except (_Unknown, OSError) as error:
            logger.debug("%s is linked by LLVM: %s", entry, error)
    # Here and not above: LLVM is what is to be spared.
    from quire.engines.native.cpu.compiler.objects import link_by_llvm

    return link_by_llvm(code, entry)


class _Unknown(Exception):
    """An object file that holds what this linker does not know."""


class _Image:
    """The code and constants of an object file in executable memory, with a table of addresses (GOT) behind.

    The memory is a file without a name: it is written through the file and mapped to be read and run, so that
    no page can ever be both written and run.

    Raises:
        _Unknown: what only LLVM can link.
        OSError: this process may not make such memory.
    """

    def __init__(self, code: bytes) -> None:
        header = _HEADER.unpack_from(code)
        if header[0][:6] != b"\x7fELF\x02\x01" or header[2] != _X86_64:
            raise _Unknown("it is no ELF file for x86-64")
        self._code = code
        self._sections: list[tuple[int, ...]] = _read(code, _SECTION, header[6], header[12])
        self._places, self._got = self._lay_out()
        self._symbols = self._read_symbols()
        self._entries: dict[int, int] = {}  # of the table, by the symbol's number
        relocations = list(self._relocations())
        for kind, _, symbol, _ in relocations:
            if kind == _GOT64:
                self._entries.setdefault(symbol, 8 * len(self._entries))
        size = self._got + 8 * len(self._entries)
        file = os.memfd_create("quire-kernel", os.MFD_CLOEXEC)
        try:
            os.ftruncate(file, size)
            self._memory = mmap.mmap(file, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
            self._base: int = np.frombuffer(self._memory, np.uint8).ctypes.data
            os.pwrite(file, self._linked(size, relocations), 0)
        finally:
            os.close(file)

    def address(self, name: str) -> int:
        """Where a function begins."""
        for known, section, value in self._symbols:
            if known == name and section in self._places:
                return self._base + self._places[section] + value
        raise _Unknown(f"it has no {name}")

    def _lay_out(self) -> tuple[dict[int, int], int]:
        """Where each section that is loaded lies, by its number, and where the table behind them begins."""
        places: dict[int, int] = {}
        end = 0
        for number, section in enumerate(self._sections):
            kind, flags, size, alignment = section[1], section[2], section[5], section[8]
            # Tables for unwinding have a type of their own.
            if not flags & _ALLOC or kind != _PROGBITS:
                continue
            if flags & _WRITE:
                raise _Unknown("it has data that may be written")
            if alignment > mmap.PAGESIZE:
                raise _Unknown("a section is aligned to more than a page")
            end += -end % max(alignment, 8)
            places[number] = end
            end += size
        return places, end + -end % 8

    def _read_symbols(self) -> list[tuple[str, int, int]]:
        """The name, section and value of each symbol."""
        (table,) = (one for one in self._sections if one[1] == _SYMTAB)
        names = self._sections[table[6]]
        texts = self._code[names[4] : names[4] + names[5]]
        return [
            (texts[name : texts.index(b"\0", name)].decode(), section, value)
            for name, _, _, section, value, _ in _read(
                self._code, _SYMBOL, table[4], table[5] // _SYMBOL.itemsize
            )
        ]

    def _relocations(self) -> list[tuple[int, int, int, int]]:
        """Of all loaded sections: kind, place in the image, number of the symbol, addend."""
        found: list[tuple[int, int, int, int]] = []
        for section in self._sections:
            if section[1] == _RELA and section[7] in self._places:
                start = self._places[section[7]]
                count = section[5] // _RELOCATION.itemsize
                for offset, kind, symbol, addend in _read(
                    self._code, _RELOCATION, section[4], count
                ):
                    found.append((kind, start + offset, symbol, addend))
        return found

    def _linked(self, size: int, relocations: list[tuple[int, int, int, int]]) -> bytearray:
        """The image's bytes, for the address that it is mapped to."""
        image = bytearray(size)
        for number, place in self._places.items():
            offset, length = self._sections[number][4:6]
            image[place : place + length] = self._code[offset : offset + length]
        got = self._base + self._got
        for symbol, entry in self._entries.items():
            struct.pack_into("<Q", image, self._got + entry, self._symbol_address(symbol))
        for kind, place, symbol, addend in relocations:
            if kind == _GOTOFF64:
                value = self._symbol_address(symbol) + addend - got
            elif kind == _GOT64:
                value = self._entries[symbol] + addend
            elif kind == _GOTPC64:
                value = got + addend - (self._base + place)
            elif kind == _PC64:
                value = self._symbol_address(symbol) + addend - (self._base + place)
            else:
                raise _Unknown(f"a relocation of type {kind}")
            struct.pack_into("<q", image, place, value)
        return image

    def _symbol_address(self, number: int) -> int:
        name, section, value = self._symbols[number]
        if section in self._places:
            return self._base + self._places[section] + value
        if section == 0:
            return self._base + self._got if name == _GOT else _library_function(name)
        raise _Unknown(f"{name} lies in no section that is loaded")


def _read(code: bytes, kind: np.dtype[Any], offset: int, count: int) -> list[tuple[int, ...]]:
    table: NDArray[Any] = np.frombuffer(code, kind, count, offset)
    return table.tolist()


@functools.cache
def _library_function(name: str) -> int:
    """The address of a function of the C library."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except AttributeError:
        raise _Unknown(f"{name} is in no library of this process") from None
    return ctypes.cast(function, ctypes.c_void_p).value or 0
