"""Which tests share an engine, for CI that divides them among machines."""

from __future__ import annotations

import re

from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

pytest_plugins = ["pytester"]


def test_tests_of_one_configuration_are_one_group(scripted_pytester):
    """What `scripted ci run` divides tests by."""
    scripted_pytester.makeconftest(
        """
        def pytest_collection_finish(session):
            for item in session.items:
                group = item.ihook.pytest_scripted_engine_group(item=item)
                print(f"group of {item.name}: {group}")
        """
    )
    scripted_pytester.makepyfile(
        """
        import pytest

        @pytest.mark.scripted(chunked_prefill_size=64)
        def test_a(t):
            yield

        @pytest.mark.scripted(chunked_prefill_size=64)
        def test_b(t):
            yield

        @pytest.mark.scripted(chunked_prefill_size=32)
        def test_c(t):
            yield

        def test_plain():
            pass
        """
    )
    groups = []
    for _ in range(2):
        done = scripted_pytester.run_in_process("--collect-only", "-q")
        groups.append(dict(re.findall(r"group of (\w+): (\S+)", done.stdout.str())))
    assert groups[0] == groups[1], "every machine has to come to the same names"
    found = groups[0]
    assert found["test_a"] == found["test_b"] != found["test_c"]
    assert found["test_c"].startswith("local-in_process-")
    assert found["test_plain"] == "None"
