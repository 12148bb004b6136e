"""Read a pure-Python config into statements, without executing it.

Each top-level statement is compiled on its own and annotated with the names it writes and
reads. ``dict(...)`` calls and ``{...}`` displays are replaced by calls that keep the line of
every key; imports of anything but the standard library become lazy names; ``{{...}}``
placeholders become what they stand for.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

from openlab.config.errors import ConfigError
from openlab.config.nodes import ConfigDict, LazyName, Writer, as_node, brief

MAKE = '__make_dict__'
_READ_BASE = ('mmengine.config', 'mmengine.config.config', 'openlab.config', 'mmengine')
_BASE_MARK = re.compile(r'\{\{\s*(_base_(?:\.\w+|\[\w+\])+)\s*\}\}')
_FILE_MARK = re.compile(r'\{\{\s*(fileDirname|fileBasename|fileBasenameNoExtension|fileExtname)'
                        r'\s*\}\}')
_ENV_MARK = re.compile(r'\{\{\s*\$(?:ENV:)?(\w+)\s*:\s*(.*?)\s*\}\}')
_ENV_TEXT = re.compile(r'\$(?:ENV:)?(\w+)\s*:\s*(.*)')


@dataclass(frozen=True)
class BaseImport:
    """One ``from .x import a as b`` inside ``with read_base():``."""

    module: str
    level: int
    names: tuple[tuple[str, str], ...]  # (name, as); ('*', '*') for all
    line: int


@dataclass(frozen=True)
class Statement:
    """One top-level statement.

    Attributes:
        code: what to execute; nothing for imports of bases.
        line: first line.
        text: the statement as source, in short.
        binds: names given a new value.
        edits: names whose value is changed in place.
        reads: names whose value is used.
        bases: base configs that it imports.
        is_setting: whether the names it writes are config keys (imports and ``def`` are not).
    """

    code: CodeType | None
    line: int
    text: str = ''
    binds: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    bases: tuple[BaseImport, ...] = ()
    is_setting: bool = True


@dataclass
class Source:
    """A parsed config file."""

    path: Path
    statements: list[Statement] = field(default_factory=list)
    reads: frozenset[str] = frozenset()
    dict_lines: list[tuple[int, dict[Any, tuple[int, tuple[str, ...]]]]] = field(
        default_factory=list
    )

    def make_dict(self, index: int, *args: Any, **kwargs: Any) -> ConfigDict:
        """Do what ``dict(...)`` does in the config, and record the line of each key."""
        line, keys = self.dict_lines[index]
        node = ConfigDict()
        for arg in args:
            node.update(arg)
        for key, value in kwargs.items():
            dict.__setitem__(node, key, as_node(value))
        for key in node:
            if key in keys or not node.writers(key):
                key_line, reads = keys.get(key, (line, ()))
                node._writers[key] = [
                    Writer(str(self.path), key_line, brief(node[key]), reads)
                ]
        return node


def parse_source(path: Path) -> Source:
    """Parse a Python config file.

    Raises:
        ConfigError: for a syntax error or a statement that a config cannot have.
    """
    stat = path.stat()
    env = tuple(os.environ.get(name) for name in _env_names(path, stat.st_mtime_ns))
    return _parse(path, stat.st_mtime_ns, stat.st_size, env)


@lru_cache(maxsize=256)
def _env_names(path: Path, _mtime: int) -> tuple[str, ...]:
    return tuple(re.findall(r'\$(?:ENV:)?(\w+)\s*:', path.read_text(encoding='utf-8')))


@lru_cache(maxsize=256)
def _parse(path: Path, _mtime: int, _size: int, _env: tuple) -> Source:
    try:
        tree = ast.parse(path.read_text(encoding='utf-8'), str(path))
    except SyntaxError as error:
        raise ConfigError(f'{path}:{error.lineno}: {error.msg}') from error
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path}: not a UTF-8 text file ({error})') from error
    source = Source(path)
    for node in tree.body:
        source.statements += _statements(node, source)
    source.reads = frozenset(name for s in source.statements for name in s.reads)
    return source


def _statements(node: ast.stmt, source: Source) -> Iterator[Statement]:
    path = source.path
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # the docstring
    if isinstance(node, ast.With) and _is_read_base(node):
        yield Statement(None, node.lineno, bases=tuple(_base_imports(node, path)))
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        if not (isinstance(node, ast.ImportFrom) and node.module == '__future__'):
            yield from _import(node, path)
    else:
        binds, edits = written_names(node)
        reads = read_names(node)
        text = brief_source(node)
        is_setting = not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
        if is_setting:
            node = ast.fix_missing_locations(_Rewriter(source).visit(node))
        code = compile(ast.Module([node], []), str(path), 'exec')
        yield Statement(code, node.lineno, text, binds, edits, reads, is_setting=is_setting)


def _is_read_base(node: ast.With) -> bool:
    call = node.items[0].context_expr
    return isinstance(call, ast.Call) and (
        getattr(call.func, 'id', '') == 'read_base' or getattr(call.func, 'attr', '') == 'read_base'
    )


def _base_imports(node: ast.With, path: Path) -> Iterator[BaseImport]:
    for inner in node.body:
        if isinstance(inner, ast.Pass):
            continue
        if not isinstance(inner, ast.ImportFrom):
            raise ConfigError(
                f'{path}:{inner.lineno}: only "from .file import *" (or names) may stand inside '
                f'"with read_base():", not {brief_source(inner)!r}'
            )
        names = tuple((a.name, a.asname or a.name) for a in inner.names)
        yield BaseImport(inner.module or '', inner.level, names, inner.lineno)


def _import(node: ast.Import | ast.ImportFrom, path: Path) -> Iterator[Statement]:
    """Import the standard library for real, read_base not at all, all else lazily."""
    where = f'{path}:{node.lineno}'
    if isinstance(node, ast.ImportFrom):
        if node.level:
            raise ConfigError(
                f'{where}: a config imports a neighbouring config only inside '
                f'"with read_base():"'
            )
        module = node.module or ''
        if module in _READ_BASE and all(a.name == 'read_base' for a in node.names):
            return
        if any(a.name == '*' for a in node.names) and not _is_standard(module):
            raise ConfigError(f'{where}: "from {module} import *" hides what is used; name it')
        lazy = [(f'{module}.{a.name}', a.asname or a.name) for a in node.names]
        is_real = _is_standard(module)
    else:
        lazy = [
            (a.name, a.asname) if a.asname else (a.name.partition('.')[0],) * 2
            for a in node.names
        ]
        is_real = all(_is_standard(a.name) for a in node.names)
    binds = tuple(name for _, name in lazy)
    if is_real:
        code = compile(ast.Module([node], []), str(path), 'exec')
    else:
        code = compile(
            '\n' * (node.lineno - 1)
            + '; '.join(f'{name} = {_LAZY}({full!r}, {where!r})' for full, name in lazy),
            str(path), 'exec',
        )
    yield Statement(code, node.lineno, brief_source(node), binds, is_setting=False)


_LAZY = '__lazy_name__'


def _is_standard(module: str) -> bool:
    return module.partition('.')[0] in sys.stdlib_module_names


def namespace(source: Source) -> dict[str, Any]:
    """Return the globals in which a file's statements are executed."""
    return {
        '__file__': str(source.path), '__name__': source.path.stem,
        MAKE: source.make_dict, _LAZY: LazyName,
    }


class _Rewriter(ast.NodeTransformer):
    """Make dicts record their lines, and expand placeholders."""

    def __init__(self, source: Source):
        self.source = source

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        keys: dict[Any, tuple[int, tuple[str, ...]]] = {
            k.arg: (k.lineno, direct_reads(k.value)) for k in node.keywords if k.arg
        }
        is_dict = isinstance(node.func, ast.Name) and node.func.id == 'dict'
        self.generic_visit(node)
        return self._make(node, keys, node.args, node.keywords) if is_dict else node

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        keys = {
            k.value: (k.lineno, direct_reads(v))
            for k, v in zip(node.keys, node.values) if isinstance(k, ast.Constant)
        }
        self.generic_visit(node)
        return self._make(node, keys, [node], [])

    def _make(self, node: ast.expr, keys: dict, args: list, keywords: list) -> ast.Call:
        self.source.dict_lines.append((node.lineno, keys))
        index = ast.Constant(len(self.source.dict_lines) - 1)
        call = ast.Call(ast.Name(MAKE, ast.Load()), [index, *args], keywords)
        return ast.copy_location(call, node)

    def visit_Set(self, node: ast.Set) -> ast.AST:
        """Expand ``{{_base_.x}}`` and ``{{'$VAR:default'}}``, which Python reads as sets."""
        if len(node.elts) == 1 and isinstance(node.elts[0], ast.Set):
            inner = node.elts[0].elts[0]
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                match = _ENV_TEXT.fullmatch(inner.value.strip())
                if match:
                    text = os.environ.get(match[1], match[2])
                    from openlab.config.override import parse_value
                    inner = ast.Constant(parse_value(text))
                    return ast.copy_location(inner, node)
            elif isinstance(inner, (ast.Attribute, ast.Subscript)):
                return self.visit(inner)
        return self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not (isinstance(node.value, str) and '{{' in node.value):
            return node
        text = expand_text(node.value, self.source.path)
        marks = list(_BASE_MARK.finditer(text))
        if not marks:
            return ast.copy_location(ast.Constant(text), node)
        if marks[0].span() == (0, len(text)):
            found: ast.expr = ast.parse(marks[0][1], mode='eval').body
        else:
            parts: list[ast.expr] = []
            at = 0
            for mark in marks:
                inner = ast.parse(mark[1], mode='eval').body
                parts += [ast.Constant(text[at : mark.start()]), ast.FormattedValue(inner, -1)]
                at = mark.end()
            found = ast.JoinedStr([*parts, ast.Constant(text[at:])])
        for inner_node in ast.walk(found):
            ast.copy_location(inner_node, node)
        return found


def expand_text(text: str, path: Path) -> str:
    """Replace ``{{fileDirname}}`` and its kin, and ``{{$ENV:VAR:default}}``, in a string."""
    known = {
        'fileDirname': str(path.parent), 'fileBasename': path.name,
        'fileBasenameNoExtension': path.stem, 'fileExtname': path.suffix,
    }
    text = _FILE_MARK.sub(lambda m: known[m[1]], text)
    return _ENV_MARK.sub(lambda m: os.environ.get(m[1], m[2]), text)


def written_names(node: ast.AST) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names that a statement binds, and those whose value it changes in place."""
    binds: dict[str, None] = {}
    edits: dict[str, None] = {}
    loops: list[ast.For] = []

    def target(t: ast.AST) -> None:
        if isinstance(t, ast.Name):
            binds[t.id] = None
        elif isinstance(t, (ast.Tuple, ast.List)):
            for e in t.elts:
                target(e)
        elif isinstance(t, ast.Starred):
            target(t.value)
        elif (root := root_name(t)) is not None:
            edits[root] = None

    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    comprehensions = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

    def walk(n: ast.AST) -> None:
        match n:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                binds[n.name] = None
            case ast.Assign():
                for t in n.targets:
                    target(t)
            case ast.For():
                target(n.target)
                loops.append(n)
            case ast.AnnAssign() | ast.AugAssign() | ast.NamedExpr():
                target(n.target)
            case ast.Delete():
                for t in n.targets:
                    target(t)
            case ast.Expr(value=ast.Call(func=ast.Attribute() as method)):
                if (root := root_name(method)) is not None:
                    edits[root] = None
        for child in ast.iter_child_nodes(n):
            if not isinstance(child, (*scopes, *comprehensions)) or isinstance(n, ast.Module):
                walk(child)

    walk(node)
    for loop in loops:  # ``for loader in (a, b): loader.x = 1`` changes a and b
        if any(isinstance(n, ast.Name) and n.id in edits for n in ast.walk(loop.target)):
            called = {id(n.func) for n in ast.walk(loop.iter) if isinstance(n, ast.Call)}
            edits |= {n.id: None for n in ast.walk(loop.iter)
                      if isinstance(n, ast.Name) and id(n) not in called}
    return tuple(binds), tuple(e for e in edits if e not in binds)


def root_name(node: ast.AST) -> str | None:
    """Return ``a`` for ``a.b[0].c``."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def read_names(node: ast.AST) -> tuple[str, ...]:
    """Return every name a statement reads; ``_base_.x`` reads ``x``, in placeholders too."""
    found: dict[str, None] = {}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
            found[inner.id] = None
        elif isinstance(inner, ast.Attribute) and getattr(inner.value, 'id', '') == '_base_':
            found[inner.attr] = None
        elif isinstance(inner, ast.Subscript) and getattr(inner.value, 'id', '') == '_base_':
            found[str(getattr(inner.slice, 'value', ''))] = None
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            for mark in _BASE_MARK.finditer(inner.value):
                found[re.split(r'[.\[\]]', mark[1])[1]] = None
        elif isinstance(inner, ast.AugAssign) and isinstance(inner.target, ast.Name):
            found[inner.target.id] = None
    return tuple(found)


def direct_reads(node: ast.AST) -> tuple[str, ...]:
    """Return the names that an expression reads outside of the dicts in it."""
    found: dict[str, None] = {}
    stack = [node]
    while stack:
        inner = stack.pop()
        if isinstance(inner, ast.Dict) or (
            isinstance(inner, ast.Call) and getattr(inner.func, 'id', '') == 'dict'
        ):
            continue
        if isinstance(inner, ast.Attribute) and getattr(inner.value, 'id', '') == '_base_':
            found[inner.attr] = None
        elif isinstance(inner, ast.Name) and inner.id != '_base_':
            found[inner.id] = None
        stack += ast.iter_child_nodes(inner)
    return tuple(found)


def brief_source(node: ast.AST) -> str:
    """Return a statement as one short line of source."""
    text = ' '.join(ast.unparse(node).split())
    return text if len(text) <= 80 else text[:77] + '...'
