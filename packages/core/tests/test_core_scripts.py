from __future__ import annotations

import dataclasses
import functools
import importlib.util
import sys
from textwrap import dedent

import pytest
from scripted_core.errors import ScriptNotImportable
from scripted_core.scripts import ScriptLoader, reference_of, resolve_fn
from scripted_core.scripts.reference import content_hash
from scripted_core.wire.messages import ScriptRef
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


@pytest.fixture(autouse=True)
def same_modules(monkeypatch):
    """Whatever a loader puts into ``sys.modules`` and ``sys.path`` goes away again."""
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        if not name.startswith("_pytest") and "scripted" not in name:
            del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = path


def write(path, source):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source))
    return path


def ref(path, qualname="script", module_name=None, **kwargs):
    return ScriptRef(
        path=str(path),
        module_name=module_name or path.stem,
        qualname=qualname,
        content_hash=content_hash(path.read_bytes()),
        **kwargs,
    )


# -- the loader --------------------------------------------------------------------------------


def test_a_module_is_loaded_once_for_its_content(tmp_path):
    path = write(tmp_path / "test_it.py", "runs = []\nruns.append(1)\ndef script(t): return runs\n")
    loader = ScriptLoader()
    first = loader.load(ref(path))
    assert loader.load(ref(path)) is first
    assert first(None) == [1]


def test_same_named_files_in_two_folders_are_two_modules(tmp_path):
    loader = ScriptLoader()
    paths = [
        write(tmp_path / folder / "test_same.py", f"def script(t): return {folder!r}\n")
        for folder in ("a", "b")
    ]
    scripts = [loader.load(ref(path)) for path in paths]
    assert [script(None) for script in scripts] == ["a", "b"]
    assert loader.load(ref(paths[0])) is scripts[0]


def test_a_changed_file_is_loaded_again(tmp_path):
    path = write(tmp_path / "test_it.py", "def script(t): return 1\n")
    loader = ScriptLoader()
    assert loader.load(ref(path))(None) == 1
    write(path, "def script(t): return 2\n")
    assert loader.load(ref(path))(None) == 2


def test_a_file_that_differs_from_the_tests_is_an_error(tmp_path):
    path = write(tmp_path / "test_it.py", "def script(t): return 1\n")
    old = ref(path)
    write(path, "def script(t): return 2\n")
    with pytest.raises(ScriptNotImportable, match=r"test_it\.py is not the same file") as caught:
        ScriptLoader().load(old)
    assert caught.value.hint


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    path = write(tmp_path / "test_it.py", "def script(t): return 1\n")
    gone = ref(path)
    path.unlink()
    with pytest.raises(ScriptNotImportable, match=r"cannot read .*test_it\.py"):
        ScriptLoader().load(gone)


def test_main_is_loaded_under_another_name(tmp_path):
    path = write(
        tmp_path / "program.py",
        """
        ran = __name__ == "__main__"
        def script(t): return ran
        """,
    )
    assert ScriptLoader().load(ref(path, module_name="__main__"))(None) is False
    assert sys.modules["__main__"].__dict__.get("ran") is None


def test_a_module_in_use_under_the_same_name_stays(tmp_path):
    path = write(tmp_path / "textwrap.py", "def script(t): return 'ours'\n")
    before = sys.modules["textwrap"]
    assert ScriptLoader().load(ref(path))(None) == "ours"
    assert sys.modules["textwrap"] is before


def test_methods_get_a_fresh_instance_and_nested_names_are_walked(tmp_path):
    path = write(
        tmp_path / "test_it.py",
        """
        class TestOuter:
            class TestInner:
                def __init__(self): self.n = 0
                def script(self, t):
                    self.n += 1
                    return self.n
            @staticmethod
            def static(t): return "static"
            @classmethod
            def klass(cls, t): return cls.__name__
        """,
    )
    loader = ScriptLoader()
    bound = ref(path, "TestOuter.TestInner.script", is_method=True)
    assert loader.load(bound)(None) == 1
    assert loader.load(bound)(None) == 1
    assert loader.load(ref(path, "TestOuter.static"))(None) == "static"
    assert loader.load(ref(path, "TestOuter.klass"))(None) == "TestOuter"


def test_a_class_that_wants_arguments_is_an_error(tmp_path):
    path = write(
        tmp_path / "test_it.py",
        """
        class C:
            def __init__(self, x): pass
            def script(self, t): pass
        """,
    )
    with pytest.raises(ScriptNotImportable, match="instance"):
        ScriptLoader().load(ref(path, "C.script", is_method=True))


def test_an_import_error_names_file_and_cause(tmp_path):
    path = write(tmp_path / "test_it.py", "import no_such_module_anywhere\n")
    with pytest.raises(ScriptNotImportable) as caught:
        ScriptLoader().load(ref(path))
    assert str(path) in str(caught.value)
    assert "no_such_module_anywhere" in str(caught.value)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert "test_it" not in sys.modules


def test_a_syntax_error_is_named(tmp_path):
    path = write(tmp_path / "test_it.py", "def script(t:\n")
    with pytest.raises(ScriptNotImportable, match="SyntaxError"):
        ScriptLoader().load(ref(path))


def test_a_function_that_is_not_defined_there_is_named(tmp_path):
    path = write(tmp_path / "test_it.py", "x = 1\n")
    with pytest.raises(ScriptNotImportable, match="'script'"):
        ScriptLoader().load(ref(path))


def test_helpers_beside_the_test_are_found_through_its_sys_path(tmp_path):
    write(tmp_path / "helper_of_this_test.py", "VALUE = 7\n")
    path = write(
        tmp_path / "test_it.py",
        "from helper_of_this_test import VALUE\ndef script(t): return VALUE\n",
    )
    assert ScriptLoader().load(ref(path, sys_path=(str(tmp_path),)))(None) == 7


def test_dataclasses_and_types_of_the_module_resolve(tmp_path):
    path = write(
        tmp_path / "test_it.py",
        """
        from __future__ import annotations
        import dataclasses, enum
        @dataclasses.dataclass
        class Case:
            n: int
            class Kind(enum.Enum):
                A = 1
        def script(t): return Case(1)
        """,
    )
    loader = ScriptLoader()
    script = loader.load(ref(path))
    assert type(script(None)) is loader.resolve_type("test_it:Case")
    assert loader.resolve_type("test_it:Case.Kind").A.value == 1
    assert loader.resolve_type("pathlib:Path").__name__ == "Path"


@pytest.mark.parametrize("name", ["no_such_module_anywhere:X", "pathlib:NoSuch", "pathlib:os"])
def test_a_type_that_cannot_be_found_is_named(name):
    with pytest.raises(ScriptNotImportable, match=name):
        ScriptLoader().resolve_type(name)


def test_a_failed_assert_explains_itself(tmp_path):
    path = write(
        tmp_path / "test_it.py",
        """
        def plain(t):
            n = 1
            assert n == 2
        def lists(t):
            assert [1, 2, 3] == [1, 5, 3]
        def message(t):
            assert 1 == 2, "said why"
        """,
    )
    loader = ScriptLoader()

    def said(name):
        with pytest.raises(AssertionError) as caught:
            loader.load(ref(path, name))(None)
        return str(caught.value)

    assert "assert 1 == 2" in said("plain")
    assert "[1, 2, 3] == [1, 5, 3]" in said("lists")
    assert "At index 1 diff: 2 != 5" in said("lists")
    assert "said why" in said("message")


# -- references --------------------------------------------------------------------------------


def top_level(t):
    yield


@functools.wraps(top_level)
def not_a_plain_one(t):
    yield


class Holder:
    def method(self, t):
        yield

    @staticmethod
    def static(t):
        yield

    @classmethod
    def klass(cls, t):
        yield

    def __call__(self, t):
        yield


def test_a_reference_names_file_module_and_function():
    found = reference_of(top_level)
    assert found.path == __file__
    assert found.module_name == __name__
    assert found.qualname == "top_level"
    assert not found.is_method
    with open(__file__, "rb") as file:
        assert found.content_hash == content_hash(file.read())


def test_methods_are_known():
    assert reference_of(Holder().method).is_method
    assert reference_of(Holder().method).qualname == "Holder.method"
    assert not reference_of(Holder.static).is_method
    assert not reference_of(Holder.klass).is_method


def closure_over(alpha, beta):
    def inner(t):
        yield alpha, beta

    return inner


def no_variables():
    def inner(t):
        yield

    return inner


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda t: iter(()), ["lambda"]),
        (closure_over(1, 2), ["inner", "alpha", "beta"]),
        (no_variables(), ["no_variables", "inside another function"]),
        (functools.partial(top_level, 1), ["functools.partial"]),
        (Holder(), ["Holder", "not a function"]),
        (len, ["builtin_function"]),
    ],
)
def test_what_has_no_place_in_a_file_is_refused_by_name(function, named):
    with pytest.raises(ScriptNotImportable) as caught:
        reference_of(function)
    for word in named:
        assert word in str(caught.value)
    assert "in-process" in caught.value.hint


def test_a_function_without_a_file_is_refused():
    scope = {"__name__": "typed_in_by_hand"}
    exec("def script(t): yield", scope)
    with pytest.raises(ScriptNotImportable, match="no file"):
        reference_of(scope["script"])


def test_a_reference_and_the_loader_fit_together(tmp_path, monkeypatch):
    path = write(
        tmp_path / "deep" / "test_round.py",
        """
        class TestIt:
            def script(self, t): return "method"
        def script(t): return "function"
        """,
    )
    spec = importlib.util.spec_from_file_location("deep.test_round", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "deep.test_round", module)
    spec.loader.exec_module(module)
    loader = ScriptLoader()
    assert loader.load(reference_of(module.script))(None) == "function"
    assert loader.load(reference_of(module.TestIt().script))(None) == "method"


# -- resolve_fn --------------------------------------------------------------------------------


class TestResolveFn:
    @pytest.mark.parametrize(
        ("path", "found"),
        [
            ("functools:wraps", functools.wraps),
            ("dataclasses:Field", dataclasses.Field),
            ("pathlib:Path.cwd", None),
        ],
    )
    def test_found(self, path, found):
        resolved = resolve_fn(path)
        assert callable(resolved)
        assert found is None or resolved is found

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "functools",
            ":wraps",
            "functools:",
            "no_such_module_anywhere:f",
            "functools:no_such",
            "functools:wraps.no_such",
            "functools:f.<locals>.g",
        ],
    )
    def test_names_nothing(self, path):
        with pytest.raises(ValueError, match=r"is not of the form|import|has no"):
            resolve_fn(path)

    def test_names_something_that_cannot_be_called(self):
        with pytest.raises(TypeError, match=r"'sys:path' is a list"):
            resolve_fn("sys:path")
