"""`docs/reference.md` and `docs/hooks.md`, written from the packages themselves: `hatch run reference`.

Whatever is public is in them: commands with their options, pytest's options, ini keys, markers and
fixtures, every hook and every name that a package exports. With `--check` nothing is written, and a page
that is not what would be written is an error.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

import typer
from workspace import ROOT, packages

WRITTEN = (
    "<!-- Written by `hatch run reference`: edit the docstrings and help texts that it is from. -->"
)
_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")
_MODULES_BESIDE = ("scripted_core.testing", "scripted_core.conformance", "scripted_core.errors")
"""Public modules of a package whose names are no part of the package's own."""


def plain(text: str) -> str:
    """A text of a docstring or a help, in a cell of a table."""
    text = _ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`")
    return text.replace("|", "\\|").replace("<!--", "")


def first_paragraph(thing: Any, name: str) -> str:
    """What a public thing's docstring says first; without one it is an error, which names it."""
    text = inspect.getdoc(thing)
    if not text:
        sys.exit(f"{name} is public and has no docstring")
    return plain(text.split("\n\n")[0])


# -- commands ------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Each command of `scripted`, with those that the packages add."""
    from scripted_core.cli.app import build_app

    app, broken = build_app()
    if broken is not None:
        sys.exit(f"a plugin cannot be loaded: {broken}")
    yield from _commands_below(typer.main.get_command(app), "scripted")


def _commands_below(command: Any, path: str) -> Iterator[str]:
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _commands_below(child, f"{path} {name}")
    if hasattr(command, "commands"):
        return
    if not command.help:
        sys.exit(f"{path} has no help")
    summary = plain(command.help.split("\n\n")[0])
    yield f"### `{path}`\n\n{summary}\n\n| option | is |\n|---|---|"
    for option in command.params:
        if option.name == "help":
            continue
        names = (
            option.opts
            if option.param_type_name == "option"
            else [option.metavar or str(option.name).upper()]
        )
        if not getattr(option, "help", None):
            sys.exit(f"{path}: {names[0]} has no help")
        yield f"| {', '.join(f'`{one}`' for one in names)} | {plain(option.help)} |"
    yield ""


# -- pytest --------------------------------------------------------------------------------------


class _Options:
    """Stands in for pytest's parser, and takes down what it is told."""

    def __init__(self) -> None:
        self.rows: list[str] = []

    def getgroup(self, *names: str) -> _Options:
        """A group is the parser."""
        return self

    def addoption(self, *names: str, help: str = "", **rest: Any) -> None:
        """A command-line option."""
        self.rows.append(f"| {', '.join(f'`{one}`' for one in names)} | {plain(help)} |")

    def addini(self, name: str, help: str, **rest: Any) -> None:
        """A key of the ini file."""
        self.rows.append(f"| ini `{name}` | {plain(help)} |")

    def addinivalue_line(self, kind: str, line: str) -> None:
        """A marker."""
        name, _, text = line.partition(": ")
        self.rows.append(f"| marker `{name.strip()}` | {plain(text)} |")


def pytest_options() -> Iterator[str]:
    """Options, ini keys, markers and fixtures of the pytest plugin."""
    from scripted_core.pytest_plugin import _options
    from scripted_core.pytest_plugin._runtime import ScriptedRuntime

    seen = _Options()
    _options.add_options(seen)  # type: ignore[arg-type]
    _options.register_markers(seen)  # type: ignore[arg-type]
    yield "| option | is |\n|---|---|"
    yield from seen.rows
    for name, value in vars(ScriptedRuntime).items():
        if type(value).__name__ == "FixtureFunctionDefinition":
            text = first_paragraph(value._get_wrapped_function(), name)
            yield f"| fixture `{name}` | {text} |"


# -- names ---------------------------------------------------------------------------------------


def public_names() -> Iterator[str]:
    """What each package exports."""
    modules = sorted({package.import_name for package in packages()} | set(_MODULES_BESIDE))
    for module_name in modules:
        module = importlib.import_module(module_name)
        names = [name for name in getattr(module, "__all__", ()) if not name.startswith("__")]
        if not names:
            continue
        yield f"### `{module_name}`\n\n{first_paragraph(module, module_name)}\n"
        yield "| name | is |\n|---|---|"
        for name in sorted(names, key=str.lower):
            yield f"| `{name}` | {_about(getattr(module, name), f'{module_name}.{name}')} |"
        yield ""


def _about(value: Any, name: str) -> str:
    if inspect.isclass(value) or inspect.isroutine(value):
        return first_paragraph(value, name)
    if isinstance(value, str | int | float) and len(repr(value)) < 60:
        return plain(f"the constant `{value!r}`")
    return f"a constant, of type `{type(value).__name__}`"


# -- hooks ---------------------------------------------------------------------------------------


def hooks() -> Iterator[str]:
    """Every hook of both hook specifications."""
    for module_name in ("scripted_registry.hookspecs", "scripted_registry.pytest_hookspecs"):
        module = importlib.import_module(module_name)
        yield f"## `{module_name}`\n"
        for name, function in vars(module).items():
            options = _spec_of(function)
            if options is None:
                continue
            if not inspect.getdoc(function):
                sys.exit(f"the hook {name} has no docstring")
            first = " The first result that is not `None` counts." if options["firstresult"] else ""
            signature = str(inspect.signature(function)).replace("'", "")
            text = inspect.cleandoc(inspect.getdoc(function) or "")
            yield f"### `{name}`\n\n```python\n{name}{signature}\n```\n\n{text}{first}\n"


def _spec_of(function: Any) -> Any:
    return getattr(function, "scripted_spec", None) or getattr(function, "pytest_spec", None)


PAGES = {
    "reference.md": (
        "# Reference\n\n{written}\n\nCommands, pytest's options and every public name. "
        "What the calls of a script mean is in [semantics.md](semantics.md), errors are in "
        "[errors.md](errors.md), hooks in [hooks.md](hooks.md).\n\n"
        "## Commands\n\n{commands}\n## pytest\n\n{pytest}\n\n## Public names\n\n{names}"
    ),
    "hooks.md": (
        "# Hooks\n\n{written}\n\nA plugin implements a hook by a function of its name, marked with "
        "`scripted_registry.hookimpl`, that takes those of the arguments that it needs, by "
        "their names. Where to put it is in [authors.md](authors.md).\n\n{hooks}"
    ),
}


def page(template: str) -> str:
    """One page, whole."""
    parts = {
        "written": WRITTEN,
        "commands": "\n".join(commands()) if "{commands}" in template else "",
        "pytest": "\n".join(pytest_options()) if "{pytest}" in template else "",
        "names": "\n".join(public_names()) if "{names}" in template else "",
        "hooks": "\n".join(hooks()) if "{hooks}" in template else "",
    }
    return template.format(**parts).rstrip() + "\n"


def main() -> None:
    """Write the pages, or say which are stale."""
    stale = []
    for name, template in PAGES.items():
        file = ROOT / "docs" / name
        text = page(template)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(f"docs/{name}")
            if "--check" not in sys.argv:
                file.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(f"stale: {', '.join(stale)}\nhint: hatch run reference")
    print(f"written: {', '.join(stale)}" if stale else "the reference is current")


if __name__ == "__main__":
    main()
