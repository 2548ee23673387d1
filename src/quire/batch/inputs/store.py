"""Records on the disk, so that they can be read in another order than that of their files."""

from __future__ import annotations

import marshal
import tempfile
from array import array
from pathlib import Path

from quire.batch.inputs.records import InputRecord
from quire.batch.rows import RowError
from quire.errors import ConfigError


class RecordStore:
    """Records in a temporary file without a name; of each, 8 bytes are in memory."""

    def __init__(self, folder: Path) -> None:
        """Make an empty store.

        Raises:
            ConfigError: the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise ConfigError(f"Cannot write to {folder}: {error.strerror or error}.") from None
        self._starts = array("q", [0])
        self._is_reading = False

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, record: InputRecord) -> None:
        """Keep a record.

        Raises:
            ConfigError: the disk is full.
        """
        error = record.error
        fault = None if error is None else (error.message, error.code, error.line, error.byte)
        # marshal, since it keeps bytes and integers of any length, and only this process reads it.
        content = marshal.dumps(
            (record.value, fault, record.line, record.byte, record.notes, record.text_cells)
        )
        try:
            self._file.write(content)
        except OSError as error:
            raise ConfigError(
                f"The rows cannot be kept for reading them in another order: {error.strerror}."
            ) from None
        self._starts.append(self._starts[-1] + len(content))

    def __getitem__(self, place: int) -> InputRecord:
        begin, end = self._starts[place], self._starts[place + 1]
        self._file.seek(begin)
        value, fault, line, byte, notes, text_cells = marshal.loads(self._file.read(end - begin))
        if fault is not None:
            message, code, fault_line, fault_byte = fault
            fault = RowError("read", message, code, fault_line, fault_byte)
        return InputRecord(value, fault, line, byte, notes, text_cells)

    def close(self) -> None:
        """Give the disk's space back."""
        self._file.close()
