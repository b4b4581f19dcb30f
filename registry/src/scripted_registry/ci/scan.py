"""Reading the CI registrations of test files from their source, without importing them."""

from __future__ import annotations

import ast
import inspect
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from scripted_registry.ci.errors import CiProblem, CiRegistrationError
from scripted_registry.ci.register import register_ci, register_cpu_ci, register_cuda_ci
from scripted_registry.errors import ConfigError
from scripted_registry.specs import suite_name


class CiBackend(StrEnum):
    """The kinds of device that have a registration function of their own; plugins bring others."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class _Function:
    """A registration function: its name, its signature, and the backend that it implies."""

    name: str
    signature: inspect.Signature
    backend: CiBackend | None


_REGISTER = {
    function.__name__: _Function(function.__name__, inspect.signature(function), backend)
    for function, backend in (
        (register_cpu_ci, CiBackend.CPU),
        (register_cuda_ci, CiBackend.CUDA),
        (register_ci, None),
    )
}
_NAMES = "|".join(_REGISTER)
_CALLED = re.compile(rf"\b(?:{_NAMES})[\s\\]*\(")
_RENAMED = re.compile(rf"\b(?:{_NAMES})\s+as\b")
_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"}
)


@dataclass(frozen=True, kw_only=True)
class CiRegistration:
    """One registration of one test file.

    `stage` and `runner_config` are `None` when the file names its `suite` as a whole. `backend` is a
    `CiBackend`, or the name of a plugin's.
    """

    path: Path
    line: int
    function: str
    backend: str
    est_time_s: float
    suite: str
    stage: str | None
    runner_config: str | None
    nightly: bool
    disabled: str | None


_HINT = (
    "registrations are read from the source: write them at the top level of the file with literal "
    'arguments, as in register_cpu_ci(est_time=10, stage="unit", runner_config="cpu")'
)


def scan_paths(paths: Iterable[Path]) -> list[CiRegistration]:
    """Return the registrations of the given files and of every Python file in the given folders.

    Hidden folders, virtual environments and build outputs are left out. The order is that of
    `paths`, then by path and line. Raises `ConfigError` for a path that does not exist and one
    `CiRegistrationError` with all that cannot be read.
    """
    return scan_files(python_files(paths))


def scan_files(files: Iterable[Path]) -> list[CiRegistration]:
    """Return the registrations of the given files; the errors are those of `scan_paths`."""
    registrations: list[CiRegistration] = []
    problems: list[CiProblem] = []
    for file in files:
        try:
            registrations += scan_file(file)
        except CiRegistrationError as error:
            problems += error.problems
    if problems:
        raise CiRegistrationError(problems, hint=_HINT)
    return registrations


def scan_file(path: Path) -> list[CiRegistration]:
    """Return the registrations of one file, in order; `CiRegistrationError` lists what is wrong."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if not any(name.encode() in source for name in _REGISTER):
        return []  # parsing is most of the time of a scan
    return scan_source(source, path=path)


def scan_source(source: bytes | str, *, path: Path) -> list[CiRegistration]:
    """Return the registrations in `source`, which was read from `path`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file's own style
            tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = (error.lineno if isinstance(error, SyntaxError) else None) or 1
        problem = CiProblem(path=path, line=line, message=f"is not Python: {error}")
        raise CiRegistrationError([problem], hint=_HINT) from error
    reader = _Reader(path=path, tree=tree)
    reader.read(source if isinstance(source, str) else source.decode("utf-8", "replace"))
    if reader.problems:
        raise CiRegistrationError(reader.problems, hint=_HINT)
    return reader.registrations


def python_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the Python files under `paths`, each once."""
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise ConfigError(
                f"there is no file or folder {str(path)!r}",
                hint="name test files or folders; without any, the current folder is read",
            )
        for file in [path] if path.is_file() else _walk(path):
            resolved = file.resolve()
            if resolved not in seen:
                seen.add(resolved)
                yield file


def _walk(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not _is_skipped(folder, name))
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _is_skipped(folder: str, name: str) -> bool:
    return (
        name.startswith(".")
        or name in _SKIPPED_FOLDERS
        or os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
    )


class _Unreadable(Exception):
    """Something in a call that cannot be read statically."""


class _Reader:
    """Reads one syntax tree."""

    def __init__(self, *, path: Path, tree: ast.Module) -> None:
        self._path = path
        self._tree = tree
        self._function_of = dict(_REGISTER)
        self.registrations: list[CiRegistration] = []
        self.problems: list[CiProblem] = []

    def read(self, source: str) -> None:
        top_level = {
            id(statement.value): statement.value
            for statement in self._tree.body
            if isinstance(statement, ast.Expr)
        }
        calls = [value for value in top_level.values() if isinstance(value, ast.Call)]
        # Looking at every node is most of the time of a scan, and needed only where a name is called
        # elsewhere than at the top level, has another name, or is written of in a text.
        found = sum(self._function(call) is not None for call in calls)
        if found != len(_CALLED.findall(source)) or _RENAMED.search(source):
            calls = self._every_call()
        first_line: dict[str, int] = {}
        for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
            function = self._function(call)
            if function is None:
                continue
            try:
                if id(call) not in top_level:
                    raise _Unreadable("stands inside another statement; move it to the top level")
                registration = self._registration(call, function)
                if registration.suite in first_line:
                    raise _Unreadable(
                        f"registers for {registration.suite!r} again, after line "
                        f"{first_line[registration.suite]}"
                    )
            except _Unreadable as error:
                message = f"{function.name}: {error}"
                self.problems.append(CiProblem(path=self._path, line=call.lineno, message=message))
            else:
                first_line[registration.suite] = call.lineno
                self.registrations.append(registration)

    def _every_call(self) -> list[ast.Call]:
        """Every call of the file, once it is known which names the functions have in it."""
        calls: list[ast.Call] = []
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                calls.append(node)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if alias.asname and alias.name in _REGISTER:
                        self._function_of[alias.asname] = _REGISTER[alias.name]
        return calls

    def _function(self, call: ast.Call) -> _Function | None:
        if isinstance(call.func, ast.Name):
            return self._function_of.get(call.func.id)
        if isinstance(call.func, ast.Attribute):
            return _REGISTER.get(call.func.attr)
        return None

    def _registration(self, call: ast.Call, function: _Function) -> CiRegistration:
        given = _arguments(call, function)
        backend = function.backend or _text(given, "backend")
        if backend is None:
            raise _Unreadable("backend is None; write a name, as a string")
        suite = _text(given, "suite")
        stage = _text(given, "stage")
        runner_config = _text(given, "runner_config")
        if suite is not None and (stage is not None or runner_config is not None):
            raise _Unreadable("has both suite and stage or runner_config; give one of the two")
        if suite is None:
            if stage is None or runner_config is None:
                raise _Unreadable("needs stage and runner_config together, or suite")
            suite = suite_name(stage=stage, runner_config=runner_config)
        return CiRegistration(
            path=self._path,
            line=call.lineno,
            function=function.name,
            backend=backend,
            est_time_s=_seconds(given["est_time"]),
            suite=suite,
            stage=stage,
            runner_config=runner_config,
            nightly=_flag(given, "nightly"),
            disabled=_text(given, "disabled"),
        )


def _arguments(call: ast.Call, function: _Function) -> dict[str, ast.expr]:
    if any(isinstance(argument, ast.Starred) for argument in call.args) or any(
        keyword.arg is None for keyword in call.keywords
    ):
        raise _Unreadable("has star arguments; write each argument out")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    if len(keywords) < len(call.keywords):
        raise _Unreadable("gives an argument twice")
    try:
        bound = function.signature.bind(*call.args, **keywords)
    except TypeError as error:
        raise _Unreadable(f"cannot be called like this: {error}") from None
    return dict(bound.arguments)


def _literal(name: str, node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        raise _Unreadable(f"{name} is computed: {ast.unparse(node)}; write a literal") from None


def _seconds(node: ast.expr) -> float:
    value = _literal("est_time", node)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Unreadable(f"est_time is {value!r}; write a number of seconds")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not (math.isfinite(seconds) and seconds > 0):
        raise _Unreadable(f"est_time is {ast.unparse(node)}; write a positive number of seconds")
    return seconds


def _text(given: dict[str, ast.expr], name: str) -> str | None:
    if name not in given:
        return None
    value = _literal(name, given[name])
    if value is not None and not (isinstance(value, str) and value.strip()):
        wanted = "a reason, as a string" if name == "disabled" else "a name, as a string"
        raise _Unreadable(f"{name} is {value!r}; write {wanted}")
    return value


def _flag(given: dict[str, ast.expr], name: str) -> bool:
    value = _literal(name, given[name]) if name in given else False
    if not isinstance(value, bool):
        raise _Unreadable(f"{name} is {value!r}; write True or False")
    return value
