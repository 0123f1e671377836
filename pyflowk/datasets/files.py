"""Files of numbers become tables, and samples become files: .csv, .npy and .parquet, with the names of the columns."""

from __future__ import annotations

import codecs
import csv
import hashlib
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..columns import MISSING, is_number
from ..space import Paired, Ragged
from .mapped import FileRows, Numbers
from .memory import fits
from .rows import OnDemand, Watch, chosen, pieces

SUFFIXES = (".npy", ".csv", ".parquet")
PARQUET_ROWS = 1 << 16
"""Rows of a parquet file that are turned into numbers at a time."""
PARQUET_BYTES = 1 << 20
"""Of a column that are read at a time: a group of rows may be the whole file."""
INDEX = ("", "Unnamed: 0", "__index_level_0__")
"""What pandas and R call the column of row numbers that they add."""
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"),
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows of numbers: ``values`` (N, D) float64, and the names of the columns, () where they have none.

    Values are a tensor, or :class:`OnDemand` where they do not fit in memory.

    ``notes`` say what was taken for what; ``lines`` (N,) are the lines of a text file in which the rows stand.

    >>> import torch
    >>> from pyflowk.datasets import Table
    >>> table = Table("weather", torch.zeros(3, 2, dtype=torch.float64), ("temp", "rain"))
    >>> table.column(1), table.row(2)
    ("column 'rain'", 'row 2')
    """

    name: str
    values: Any
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lines: Tensor | None = None

    def column(self, position: int) -> str:
        """How a message calls a column: by its name, or by its number, counted from 0."""
        return f"column {self.columns[position]!r}" if self.columns else f"column {position}"

    def row(self, position: int) -> str:
        """How a message calls a row: by the line of its file, or by its number, counted from 0."""
        return f"row {position}" if self.lines is None else f"line {int(self.lines[position])}"

    def fingerprint(self, watch: Watch | None = None) -> str:
        """A digest of all values: two tables with the same one hold the same rows in the same order."""
        return digest(self.values, watch=watch)


def digest(*parts: Any, watch: Watch | None = None) -> str:
    """A digest of what tensors, rows of several lengths and rows on demand hold, their shapes and dtypes included."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        for rows in _held(part):
            state.update(f"{tuple(rows.shape)} {rows.dtype}".encode())
            for _, piece in pieces(rows, "fingerprint", watch):
                state.update(piece.contiguous().numpy().data.cast("B") if piece.numel() else b"")
    return state.hexdigest()


def _held(part: Any) -> tuple[Any, ...]:
    """What says all: of rows of several lengths without what lies beyond them."""
    if isinstance(part, Ragged):
        return part.lengths, part.values[part.mask]
    if isinstance(part, Paired):
        return part.x0, part.x1
    return () if part is None else (part,)


def read_file(path: Path, memory: int | None = None, watch: Watch | None = None) -> Table | Tensor | OnDemand:
    """A file of numbers as a table; pictures of a .npy file, bytes (N, H, W) or (N, C, H, W), come as they are.

    What takes more bytes than `memory`, as float64 or as float32 pictures, is read on demand: an array from its file,
    anything else from a scratch file, to which it is copied.

    Raises FileNotFoundError, ImportError where a package is missing, and ValueError for what is no table of numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    readers = {".npy": read_npy, ".csv": read_csv, ".parquet": read_parquet}
    try:
        found = readers[path.suffix.lower()](path, memory, watch)
    except (EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable {path.suffix} file ({error})") from error
    return noted(_without_index(found)) if isinstance(found, Table) else found


def read_csv(path: Path, memory: int | None = None, watch: Watch | None = None) -> Table:
    """Numbers separated by commas, semicolons or tabs, in UTF-8 or what a byte order mark says.

    The first row is a header when one of its cells is a word, or when it counts 0, 1, 2, ... as pandas does for a frame
    without names, unless it could be the first row of one or two columns of whole numbers. Lines in front that begin
    with # are comments, but for the last one if it has a cell for each column.
    """
    names: tuple[str, ...] = ()
    values, lines = Numbers(memory), array("q")
    width, counts, whole = 0, False, True
    for line, cells in _rows(path):
        comment = not lines and bool(names) and names[0].startswith("#")
        if comment and (len(cells) != width or _has_words(cells)):
            names, width = (), 0
        if not width:
            width, counts = len(cells), _counts(cells)
            if _has_words(cells) or (counts and not cells[0]):
                names, counts = tuple(cells), False
                continue
        elif counts:  # a header, or numbers? what stands below decides
            whole = whole and all(re.fullmatch(r"[+-]?\d+", cell) for cell in cells)
        if len(cells) != width:
            raise ValueError(f"{path}, line {line}: expected {width} columns, got {len(cells)}")
        values.extend(_numbers(f"{path}, line {line}", cells, names))
        lines.append(line)
    header = counts and (width > 2 or not whole)
    if header:
        names = tuple(map(str, range(width)))
        del lines[:1]
    if not lines:
        what = f"only the header {', '.join(names)[:60]}" if names else "nothing"
        raise ValueError(f"{path}: expected a table with rows, got {what}")
    names = tuple(name.removeprefix("#").strip() for name in names)
    return Table(
        str(path), values.rows(width, int(header)), names, (), torch.frombuffer(lines, dtype=torch.int64).clone()
    )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of the rows that are not blank."""
    with path.open("rb") as raw:
        head = raw.read(4096)
    encoding = next((name for mark, name in MARKS if head.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in head:
        raise ValueError(f"{path}: expected text, got bytes that are none (or UTF-16 without its byte order mark)")
    try:
        with path.open(newline="", encoding=encoding) as file:
            first = next((line for line in file if line.strip()), "")
            unquoted = re.sub(r'"[^"]*"', "", first)
            separator = next((mark for mark in (";", "\t") if mark in unquoted), ",")
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
            for cells in reader:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}{_bad_line(path)}: expected text in UTF-8, got a byte that is not; save it so"
        ) from error
    except csv.Error as error:
        raise ValueError(f"{path}: not a readable .csv file ({error})") from error


def _bad_line(path: Path) -> str:
    """Where the first byte stands that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f", line {number}"
    return ""


def _has_words(cells: Sequence[str]) -> bool:
    """Whether a cell is neither a number nor what stands for a missing one; "na" is one only beside numbers."""
    numbers = any(is_number(cell) for cell in cells)
    missing = MISSING if numbers else ("",)
    return any(not is_number(cell) and cell.lower() not in missing for cell in cells)


def _counts(cells: Sequence[str]) -> bool:
    """Whether the cells are 0, 1, 2, ..., as pandas writes columns without names; an unnamed index may stand first."""
    counted = cells[1:] if cells[0] == "" else cells
    return len(counted) > 0 and list(counted) == [str(i) for i in range(len(counted))]


def _numbers(where: str, cells: Sequence[str], names: Sequence[str]) -> list[float]:
    try:
        found = [float(cell) for cell in cells]
        if "_" not in "".join(cells):
            return found
    except ValueError:
        pass  # it is named below
    position = next(i for i, cell in enumerate(cells) if not is_number(cell))
    cell, name = cells[position], repr(names[position]) if names else str(position)
    hint = " (a point for decimals, nothing between thousands)" if re.fullmatch(r"[+-]?[\d,.]+", cell) else ""
    got = repr(cell[:60]) if cell else "nothing"
    texts = "" if hint or not cell else "; --bins 32 takes rows with texts for symbols, as discrete_flow does by itself"
    raise ValueError(f"{where}, column {name}: expected a number{hint}, got {got}{texts}")


def read_npy(path: Path, memory: int | None = None, watch: Watch | None = None) -> Table | Tensor | OnDemand:
    """An array (N, D), or (N,) as one column, of any real dtype; bytes of more dimensions are pictures."""
    import tokenize
    import zipfile

    import numpy as np

    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile) as error:  # to numpy it is a pickle
        raise ValueError(f"{path}: expected a .npy array of numbers, got something else") from error
    if not isinstance(array, np.ndarray):
        held = ", ".join(array.files)
        array.close()
        raise ValueError(
            f"{path}: expected one .npy array, got a .npz archive of {held}: save one of them with numpy.save"
        )
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: expected an array of numbers, got dtype {array.dtype}")
    if array.dtype == np.uint8 and array.ndim in (3, 4) and array.size:
        return torch.from_numpy(np.array(array)) if fits(4 * array.size, memory) else FileRows(array)
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise ValueError(f"{path}: expected a table (N, D) of numbers, or pictures in bytes, got shape {array.shape}")
    rows = FileRows(array)
    return Table(str(path), rows[:] if fits(8 * array.size, memory) else rows)


def read_parquet(path: Path, memory: int | None = None, watch: Watch | None = None) -> Table:
    """Columns of numbers with their names, read by groups of rows."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs pyarrow: pip install pyarrow") from error

    try:
        file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=PARQUET_BYTES)  # or it holds the whole file
    except ValueError as error:
        raise ValueError(f"{path}: not a readable .parquet file ({error})") from error
    names, values = file.schema_arrow.names, Numbers(memory)
    _require_once(str(path), names)
    say, count = None if watch is None else watch("read"), file.metadata.num_rows
    for group in range(file.num_row_groups):  # of one call for all, memory would grow with the file
        for batch in file.iter_batches(batch_size=PARQUET_ROWS, row_groups=[group]):
            numbers = {name: column.to_numpy(zero_copy_only=False) for name, column in zip(names, batch.columns)}
            values.extend(_stacked(str(path), numbers))
        if say is not None:
            say(len(values) / max(1, count * len(names)))
    if not names:
        raise ValueError(f"{path}: expected columns of numbers, got none")
    return Table(str(path), values.rows(len(names)), tuple(map(str, names)))


def from_columns(name: str, columns: dict[str, Any]) -> Table:
    """A table of numpy columns by name, or ValueError for one that does not hold numbers."""
    return Table(name, torch.from_numpy(_stacked(name, columns)), tuple(map(str, columns)))


def _stacked(name: str, columns: dict[str, Any]) -> Any:
    """Columns of numbers as one array (N, D) float64."""
    import numpy as np

    for key, column in columns.items():
        if column.dtype.kind not in "fiub":
            raise ValueError(f"{name}: expected columns of numbers, got {key!r} of {column.dtype}")
    if not columns:
        raise ValueError(f"{name}: expected columns of numbers, got none")
    return np.stack([column.astype(np.float64) for column in columns.values()], axis=1)


def _without_index(table: Table) -> Table:
    """The table without the row numbers that pandas and R put before or behind the columns: whole, each once."""
    at = next((i for i in (0, len(table.columns) - 1) if table.columns and table.columns[i] in INDEX), None)
    if at is None or len(table.columns) < 2:
        return table
    index = torch.cat([piece for _, piece in pieces(chosen(table.values, [at]))]).flatten()
    if not torch.equal(index, index.round()) or len(index.unique()) < len(index):
        return table
    note = f"column {at}, {table.columns[at]!r}, is taken for row numbers and left out"
    kept = [i for i in range(len(table.columns)) if i != at]
    return replace(
        table, values=chosen(table.values, kept), columns=tuple(table.columns[i] for i in kept), notes=(note,)
    )


def noted(table: Table) -> Table:
    """The table with a note on its columns; unnamed columns among named ones take their number for a name."""
    names = tuple(name or str(i) for i, name in enumerate(table.columns))
    _require_once(table.name, names)
    count = table.values.shape[1]
    shown = ", ".join(repr(name) if "," in name else name for name in names[:12]) + (
        f", ... ({count})" if count > 12 else ""
    )
    without = "a column" if count == 1 else f"columns 0 to {count - 1}"
    note = f"columns: {shown}" if names else f"{without} without names"
    return replace(table, columns=names, notes=(note, *table.notes))


def _require_once(name: str, columns: Sequence[str]) -> None:
    twice = next((column for i, column in enumerate(columns) if column in columns[:i]), None)
    if twice is not None:
        raise ValueError(f"{name}: expected a name for each column, got {twice!r} twice")


def write_csv(path: Path, rows: Tensor, columns: Sequence[str], digits: Sequence[int]) -> None:
    """Rows (N, D) with `digits[i]` significant digits in column i, below a header unless `columns` is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if columns:
            writer.writerow(columns)
        formats = [f".{count}g" for count in digits]
        writer.writerows([format(v, shown) for v, shown in zip(row, formats, strict=True)] for row in rows.tolist())
