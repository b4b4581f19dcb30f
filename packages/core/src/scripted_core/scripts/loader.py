"""Engine side: from a :class:`ScriptRef` to the function, by file and content."""

from __future__ import annotations

import importlib
import linecache
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripted_core.errors import ScriptNotImportable
from scripted_core.scripts.reference import content_hash
from scripted_core.wire.messages import ScriptRef

_MAIN = "__main__"
_MAIN_ALIAS = "_scripted_main"


class ScriptLoader:
    """Loads test modules by path, once per content, whatever the layout of the tests is.

    Two files of the same name in two folders are two modules; a file whose content changed is
    loaded again; ``__main__`` of the test's process is loaded under another name, so that its
    ``if __name__ == "__main__"`` part does not run.
    """

    def __init__(self) -> None:
        self._modules: dict[str, tuple[str, types.ModuleType]] = {}
        self._names: dict[str, str] = {}

    def load(self, ref: ScriptRef) -> Callable[..., Any]:
        """The function that ``ref`` names; ``ScriptNotImportable`` says what is in the way."""
        module = self._module(ref)
        found: Any = module
        owner: Any = None
        for part in ref.qualname.split("."):
            owner, found = found, getattr(found, part, None)
            if found is None:
                raise ScriptNotImportable(
                    f"{ref.path} has no {ref.qualname!r} when it is imported in the engine's process",
                    hint="define the script unconditionally at the top level of the module",
                )
        if ref.is_method:
            try:
                found = getattr(owner(), found.__name__)
            except Exception as error:
                raise ScriptNotImportable(
                    f"cannot make an instance of {owner!r} for the script {ref.qualname!r}: {error}",
                    hint="use a static method or a plain function for the script",
                ) from error
        script: Callable[..., Any] = found
        return script

    def resolve_type(self, name: str) -> type:
        """The class ``module:Qual.name`` of an argument, from a loaded test module first."""
        module_name, _, qualname = name.partition(":")
        path = self._names.get(module_name)
        try:
            found: Any = (
                self._modules[path][1] if path is not None else importlib.import_module(module_name)
            )
            for part in qualname.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise ScriptNotImportable(
                f"the type {name!r} of an argument cannot be imported in the engine's process: {error}",
                hint="define it in the script's own module or in an installed package",
            ) from error
        if not isinstance(found, type):
            raise ScriptNotImportable(f"{name!r}, the type of an argument, is not a class")
        return found

    def _module(self, ref: ScriptRef) -> types.ModuleType:
        cached = self._modules.get(ref.path)
        if cached is not None and cached[0] == ref.content_hash:
            return cached[1]
        return self._execute(ref, self._source(ref))

    def _source(self, ref: ScriptRef) -> bytes:
        """The file's content: the same file here, or else what has travelled with ``ref``."""
        try:
            here: bytes | None = Path(ref.path).read_bytes()
            missing = ""
        except OSError as error:
            here, missing = None, str(error)
        if here is not None and content_hash(here) == ref.content_hash:
            return here
        if ref.source and content_hash(ref.source) == ref.content_hash:
            _show_source(ref)
            return ref.source
        if here is None:
            raise ScriptNotImportable(
                f"the engine's process cannot read {ref.path}: {missing}",
                hint="both sides need the test files at the same path",
            )
        raise ScriptNotImportable(
            f"{ref.path} is not the same file here as in the test's process",
            hint="it was edited during the run, or the two sides see different file systems",
        )

    def _execute(self, ref: ScriptRef, source: bytes) -> types.ModuleType:
        from scripted_core.scripts.rewrite import compile_rewritten, install_comparison_details

        install_comparison_details()
        for entry in ref.sys_path:
            if entry not in sys.path:
                sys.path.append(entry)
        name = _MAIN_ALIAS if ref.module_name == _MAIN else ref.module_name
        module = types.ModuleType(name)
        module.__file__ = ref.path
        module.__package__ = name.rpartition(".")[0]
        # A module of this name may already be here (an engine's own, or the test file of another
        # folder): ours is put in its place for the time of the import, since dataclasses and
        # enums look their module up, and stays only if the name was free or is ours.
        previous = sys.modules.get(name)
        sys.modules[name] = module
        try:
            exec(compile_rewritten(source, ref.path), module.__dict__)
        except BaseException as error:
            if previous is None:
                del sys.modules[name]
            else:
                sys.modules[name] = previous
            if isinstance(error, (KeyboardInterrupt, SystemExit)) or not isinstance(
                error, Exception
            ):
                raise
            raise ScriptNotImportable(
                f"importing {ref.path} in the engine's process failed: "
                f"{type(error).__name__}: {error}",
                hint=_import_hint(ref, error),
            ) from error
        if previous is not None and getattr(previous, "__file__", None) != ref.path:
            sys.modules[name] = previous
        self._modules[ref.path] = (ref.content_hash, module)
        self._names[ref.module_name] = ref.path
        return module


def _show_source(ref: ScriptRef) -> None:
    """Let tracebacks quote a file that is not on this machine."""
    lines = ref.source.decode(errors="replace").splitlines(keepends=True)
    linecache.cache[ref.path] = (len(ref.source), None, lines, ref.path)


def _import_hint(ref: ScriptRef, error: Exception) -> str:
    if ref.source and isinstance(error, ImportError):
        return (
            "only the script's own file travels to the engine's machine: install what it imports "
            "there, or have the test files there at the same path"
        )
    return "the module has to import in the engine's environment too"
