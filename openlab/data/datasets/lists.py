"""Annotations in one list: CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openlab.config.errors import hint
from openlab.data.datasets.base import Annotations, BaseDataset, as_labels, preview
from openlab.data.errors import DataError, Dropped
from openlab.data.records import RecordTable
from openlab.data.transforms.base import Results, Transform
from openlab.registry import DATASETS

Row = tuple[str, dict[str, Any]]


class _ListDataset(BaseDataset):
    """What CSV and JSON lists share: fields of a row to a record, names to indices."""

    def __init__(self, ann_file: str, data_root: str | Path = '', img_dir: str = '',
                 pipeline: Sequence[Transform] = (), classes: Sequence[str] | None = None,
                 path_field: str = 'img_path', label_field: str = 'label',
                 multi_label: bool = False, separator: str = '|'):
        super().__init__(data_root, pipeline, classes)
        self.ann_file = ann_file
        self.img_dir = img_dir
        self.path_field = path_field
        self.label_field = label_field
        self.multi_label = multi_label
        self.separator = separator

    @abstractmethod
    def rows(self, file: Path, dropped: list[Dropped]) -> Iterator[Row]:
        """Place in the file and fields of each row; unreadable rows go to ``dropped``."""

    def listed_classes(self, file: Path) -> list[str] | None:
        """Names that the file itself gives, in order."""
        return None

    def load(self) -> Annotations:
        """Read the file; rows without a path, and unknown classes, are dropped and told."""
        file = self.resolve_path(self.ann_file)
        dropped: list[Dropped] = []
        rows = []
        for place, row in self.rows(file, dropped):
            problem = self._problem(row)
            if problem:
                dropped.append(Dropped(f'{file}, {place}', problem))
            else:
                rows.append((place, row))
        names = self._names_of(rows)
        classes = self.listed_classes(file) or self._ordered(names)
        index = self.class_index(classes) if names else {}
        records = []
        for (place, row), found in zip(rows, names, strict=False) if names else []:
            known = [n for n in found if n in index]
            if not found and not self.multi_label:
                dropped.append(Dropped(f'{file}, {place}', f'{self.label_field!r} is empty'))
                continue
            unknown = [n for n in found if n not in index]
            if unknown:
                dropped.append(Dropped(f'{file}, {place}', self._unknown(unknown, index, known)))
            if found and not known:
                continue
            records.append(self._record(place, row, [index[n] for n in known]))
        if not names:
            records = [self._record(place, row, None) for place, row in rows]
        return Annotations(self._table(records), tuple(index), dropped)

    def _unknown(self, unknown: list[str], index: dict[str, int], known: list[str]) -> str:
        near = hint(unknown[0], index)
        kept = f'; the item is kept with {", ".join(known)}' if known else ''
        return f'class {", ".join(unknown)} is not in classes ({preview(list(index))}){near}{kept}'

    def _problem(self, row: dict[str, Any]) -> str | None:
        if not row.get(self.path_field):
            return f'no {self.path_field!r} (fields: {preview(list(row))})'
        if not isinstance(row[self.path_field], str):
            return f'{self.path_field} is not text: {row[self.path_field]!r}'
        return None

    def _names_of(self, rows: list[Row]) -> list[list[str]]:
        """Class names of each row; empty where no row has the label field."""
        if not any(self.label_field in row for _, row in rows):
            return []
        return [self._split(row.get(self.label_field)) for _, row in rows]

    def _split(self, value: Any) -> list[str]:
        if value is None or value == '':
            return []
        if isinstance(value, list):
            return [str(v) for v in value]
        text = str(value)
        return [t.strip() for t in text.split(self.separator)] if self.multi_label else [text]

    def _ordered(self, names: list[list[str]]) -> list[str]:
        """Names in the order of numbers if they are numbers, else of the alphabet."""
        found = {n for one in names for n in one}
        if all(n.lstrip('-').isdigit() for n in found):
            return sorted(found, key=int)
        return sorted(found)

    def _record(self, place: str, row: dict[str, Any], labels: list[int] | None) -> dict[str, Any]:
        record = {k: v for k, v in row.items() if k not in (self.path_field, self.label_field)}
        record['img_path'] = str(Path(self.img_dir) / row[self.path_field])
        record['place'] = place
        if labels is not None:
            record['label'] = labels if self.multi_label else labels[0]
        return record

    def _table(self, records: list[dict[str, Any]]) -> RecordTable:
        names = list(dict.fromkeys(n for r in records for n in r))
        columns: dict[str, Any] = {n: [r.get(n) for r in records] for n in names}
        if 'label' in columns and not self.multi_label:
            columns['label'] = as_labels(columns['label'])
        return RecordTable(columns)

    def prepare(self, index: int) -> Results:
        """Record with full paths; several labels become a vector of 0 and 1."""
        results = super().prepare(index)
        results.pop('place', None)
        if results.get('seg_path') is not None:
            results['seg_path'] = str(self.data_root / results['seg_path'])
        if self.multi_label and 'label' in results:
            chosen = results.pop('label')
            results['label_probs'] = [
                float(c in chosen) for c in range(len(self.metainfo['classes']))]
        return results

    def source(self, index: int) -> str:
        """File and place in it."""
        return f'{self.data_root / self.ann_file}, {self.get_info(index)["place"]}'


@DATASETS.register_module()
class CsvDataset(_ListDataset):
    """A table with a header line: one image a line.

    Args:
        ann_file: the file, relative to ``data_root``.
        data_root: folder that paths are relative to.
        img_dir: folder that the paths in the file are relative to, within ``data_root``.
        pipeline: transforms, applied in order to each item.
        classes: names in the order of their indices; by default all that occur, sorted.
        path_field: column of the path.
        label_field: column of the class name (or number); no such column: no labels.
        multi_label: a line may name several classes; items get ``label_probs`` of 0 and 1.
        separator: what stands between them.
        delimiter: what stands between columns; by default the file's first line tells.
    """

    def __init__(self, ann_file: str, data_root: str | Path = '', img_dir: str = '',
                 pipeline: Sequence[Transform] = (), classes: Sequence[str] | None = None,
                 path_field: str = 'img_path', label_field: str = 'label',
                 multi_label: bool = False, separator: str = '|', delimiter: str | None = None):
        super().__init__(ann_file, data_root, img_dir, pipeline, classes, path_field,
                         label_field, multi_label, separator)
        self.delimiter = delimiter

    def rows(self, file: Path, dropped: list[Dropped]) -> Iterator[Row]:
        """Lines below the header."""
        with file.open(newline='', encoding='utf-8-sig') as stream:
            header = stream.readline()
            stream.seek(0)
            delimiter = self.delimiter or max(',;\t', key=header.count)
            reader = csv.DictReader(stream, delimiter=delimiter)
            if self.path_field not in (reader.fieldnames or ()):
                raise DataError(f'{file} has no column {self.path_field!r}; its first line gives '
                                f'{list(reader.fieldnames or ())}; set path_field')
            for row in reader:
                if None in row or None in row.values():
                    dropped.append(Dropped(f'{file}, line {reader.line_num}',
                                           f'not {len(reader.fieldnames or ())} columns'))
                    continue
                yield f'line {reader.line_num}', dict(row)


@DATASETS.register_module()
class JsonDataset(_ListDataset):
    """A JSON list of objects, an object with ``classes`` and ``items``, or one object a line.

    Args:
        ann_file: the file, relative to ``data_root``; ``.jsonl`` means one object a line.
        data_root: folder that paths are relative to.
        img_dir: folder that the paths in the file are relative to, within ``data_root``.
        pipeline: transforms, applied in order to each item.
        classes: names in the order of their indices; by default those the file lists, else
            all that occur, sorted.
        path_field: key of the path.
        label_field: key of the class name (or number, or list of names).
        multi_label: an item may have several classes; items get ``label_probs`` of 0 and 1.
        separator: what stands between them where they are one text.
    """

    def __init__(self, ann_file: str, data_root: str | Path = '', img_dir: str = '',
                 pipeline: Sequence[Transform] = (), classes: Sequence[str] | None = None,
                 path_field: str = 'img_path', label_field: str = 'label',
                 multi_label: bool = False, separator: str = '|'):
        super().__init__(ann_file, data_root, img_dir, pipeline, classes, path_field,
                         label_field, multi_label, separator)

    def rows(self, file: Path, dropped: list[Dropped]) -> Iterator[Row]:
        """Objects of the list, or lines."""
        if file.suffix.lower() in ('.jsonl', '.ndjson'):
            yield from _json_lines(file, dropped)
            return
        content = _read_json(file)
        items = content.get('items') if isinstance(content, dict) else content
        if not isinstance(items, list):
            raise DataError(f"{file} must hold a list, or an object with 'items' (a list) and "
                            f"perhaps 'classes'; it holds {type(content).__name__}")
        for number, item in enumerate(items):
            if isinstance(item, dict):
                yield f'entry {number}', item
            else:
                dropped.append(Dropped(f'{file}, entry {number}', f'not an object: {item!r}'))

    def listed_classes(self, file: Path) -> list[str] | None:
        """``classes`` beside ``items``."""
        if file.suffix.lower() in ('.jsonl', '.ndjson'):
            return None
        content = _read_json(file)
        listed = content.get('classes') if isinstance(content, dict) else None
        return None if listed is None else [str(c) for c in listed]


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise DataError(f'{file} is not JSON: {error}') from error


def _json_lines(file: Path, dropped: list[Dropped]) -> Iterator[Row]:
    with file.open(encoding='utf-8') as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                dropped.append(Dropped(f'{file}, line {number}', f'not JSON: {error}'))
                continue
            if isinstance(item, dict):
                yield f'line {number}', item
            else:
                dropped.append(Dropped(f'{file}, line {number}', f'not an object: {item!r}'))
