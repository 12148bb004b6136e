"""Make ``model_zoo/index.json``, the compact index, from the files of the families."""

from __future__ import annotations

import json

from family_files import ZOO

from openlab.zoo.index import COLUMNS, entries, files_of


def main() -> None:
    """Write the index."""
    text = index_text()
    (ZOO / 'index.json').write_text(text, 'utf-8')
    print(f'{len(json.loads(text)["models"])} models')


def index_text() -> str:
    """What ``index.json`` must hold for the families' files as they are."""
    lines = []
    for file in sorted(ZOO.glob('*/*.json')):
        if file.parent.name == 'classes':
            continue
        family = json.loads(file.read_text('utf-8'))
        for model in entries(family):
            row = {**model, 'file': file.relative_to(ZOO).as_posix(), 'family': family['family'],
                   'results': [[r['dataset'], r['metric'], r['value']]
                               for r in model.get('results', ())],
                   'files': len(files_of(model))}
            for key in ('tasks', 'training_data'):
                row.setdefault(key, [])
            lines.append(json.dumps([row.get(column) for column in COLUMNS],
                                    ensure_ascii=False, separators=(',', ':')))
    head = json.dumps({'format': 2, 'columns': COLUMNS})
    return f'{head[:-1]}, "models": [\n' + ',\n'.join(lines) + '\n]}\n'


if __name__ == '__main__':
    main()
