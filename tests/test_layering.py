"""Imports go one way, so that a reader may too."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'openlab'

# A part may import itself, what stands in ANYWHERE, and the parts that are named here.
ANYWHERE = {'registry', 'structures', 'device', 'utils', 'zoo.key_map', ''}
OWN_PARTS = {'openlab.zoo.key_map': 'zoo.key_map'}  # a leaf in a folder that is none
LEAVES = {'layers', 'ops'}
MAY_IMPORT = {
    'shipped': set(),
    'zoo.key_map': set(),
    'device': set(),
    'utils': set(),
    'registry': set(),
    'structures': set(),
    'config': {'shipped'},
    'ops': set(),
    'layers': {'ops'},
    'losses': LEAVES,
    'targets': LEAVES | {'losses'},
    'backbones': LEAVES,
    'necks': LEAVES,
    'heads': LEAVES | {'losses', 'targets', 'necks'},
    'algorithms': LEAVES | {'losses', 'targets', 'heads', 'necks', 'backbones'},
    'metrics': set(),
    'visualization': set(),
    'data': {'config', 'visualization'},
    'zoo': {'shipped', 'config', 'data', 'algorithms', 'backbones'},
    'engine': {'config', 'data', 'metrics', 'visualization', 'algorithms', 'layers', 'zoo'},
    'export': {'config', 'data', 'algorithms', 'visualization'},
}
TOP = {'apis', 'cli', 'serve', '__main__'}  # may import everything


def python_files():
    return sorted(PACKAGE.rglob('*.py'))


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix('').parts
    return '.'.join(p for p in parts if p != '__init__')


def part_of(module):
    """`openlab.data.transforms.resize` belongs to `data`, `openlab` itself to ''."""
    return OWN_PARTS.get(module, [*module.split('.'), ''][1])


def is_type_checking(node):
    return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)


def imports(file, known, lazy=True):
    """Modules of openlab that a file imports, with line numbers; `lazy`: within functions too."""
    tree = ast.parse(file.read_text('utf-8'))

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                continue
            if not lazy and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if isinstance(child, ast.Import):
                yield from ((a.name, child.lineno) for a in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                for alias in child.names:
                    name = f'{child.module}.{alias.name}'
                    yield (name if name in known else child.module), child.lineno
            yield from visit(child)

    return [(m, n) for m, n in visit(tree) if m.split('.')[0] == 'openlab']


@pytest.fixture(scope='module')
def modules():
    return {module_name(f): f for f in python_files()}


def test_every_part_of_the_package_has_its_place():
    parts = {part_of(module_name(f)) for f in python_files()} - {''}
    assert parts <= MAY_IMPORT.keys() | TOP, 'name the new part, and what it may import, above'


def test_the_allowed_imports_have_no_cycle():
    done = set()
    while len(done) < len(MAY_IMPORT):
        free = {p for p, allowed in MAY_IMPORT.items() if allowed & MAY_IMPORT.keys() <= done | {p}}
        assert free - done, f'a cycle among {MAY_IMPORT.keys() - done}'
        done |= free


def bound_files():
    return [f for f in python_files() if part_of(module_name(f)) not in TOP | {''}]


@pytest.mark.parametrize('file', bound_files(), ids=module_name)
def test_imports_point_only_downwards(file, modules):
    part = part_of(module_name(file))
    allowed = MAY_IMPORT[part] | ANYWHERE | {part}
    wrong = [
        f'{file.relative_to(ROOT)}:{line} imports {module}'
        for module, line in imports(file, modules)
        if part_of(module) not in allowed
    ]
    assert not wrong, '\n'.join(wrong)


def test_relative_imports_are_not_used():
    for file in python_files():
        for node in ast.walk(ast.parse(file.read_text('utf-8'))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f'{file}:{node.lineno}'


def test_no_module_imports_itself_by_way_of_others(modules):
    edges = defaultdict(set)
    for name, file in modules.items():
        edges[name] = {m for m, _ in imports(file, modules, lazy=False) if m in modules} - {name}
    state = {}

    def visit(name, trail):
        if state.get(name) == 'done':
            return
        assert state.get(name) != 'open', ' -> '.join([*trail[trail.index(name):], name])
        state[name] = 'open'
        for other in sorted(edges[name]):
            visit(other, [*trail, name])
        state[name] = 'done'

    for name in modules:
        visit(name, [])


def test_the_registry_knows_nothing_of_openlab(modules):
    assert imports(PACKAGE / 'registry.py', modules) == []


def test_packages_import_nothing_heavy():
    """`__init__.py` files are empty or a list of exports, so that importing a part is cheap."""
    for file in PACKAGE.rglob('__init__.py'):
        tree = ast.parse(file.read_text('utf-8'))
        for node in tree.body:
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or '']
            heavy = {n.split('.')[0] for n in names} & {'torch', 'torchvision', 'cv2', 'numpy'}
            assert not heavy, f'{file.relative_to(ROOT)}:{node.lineno} imports {heavy}'
