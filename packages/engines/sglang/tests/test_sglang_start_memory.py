"""A server that runs out of memory while it starts says so at once, in SGLang's own words."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator

import pytest
from scripted_core.errors import EngineStartError
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_core.sessions.launch import ServerLaunch
from scripted_registry import EngineConfig, get_plugin_manager, hookimpl
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch
from scripted_sglang.server import server_launch

register_cpu_ci(est_time=40, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.skipif(
    launch.check_usable() is not None,
    reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
)

# SGLang, imported and with its model loaded, has 3.7 GiB mapped; the pool of the test takes 4.
_ADDRESS_SPACE = 6 << 30
_POOL_TOKENS = 1 << 23
# A machine may be slow; what is shown is that nobody waits for the end of this.
_START_TIMEOUT_S = 900.0
_LIMITED = """
import os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
os.execv(sys.argv[2], sys.argv[2:])
"""


class _BoundedMemory:
    """A setting of the engine's that bounds the memory of each of its processes."""

    SCRIPTED_API = 1

    @hookimpl(tryfirst=True)
    def scripted_make_engine(self, config: EngineConfig) -> ServerLaunch | None:
        if config.engine != "sglang":
            return None
        made = server_launch(config)
        bounded = (sys.executable, "-c", _LIMITED, str(_ADDRESS_SPACE), *made.argv)
        return dataclasses.replace(made, argv=bounded, start_timeout_s=_START_TIMEOUT_S)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    plugins = get_plugin_manager()
    plugin = _BoundedMemory()
    plugins.register(plugin, name="bounded-memory")
    yield
    plugins.unregister(plugin)


# A share of memory that is too small (`mem_fraction_static`) is no case here: on a CPU SGLang
# compares what is free before and after its start, so that one that ends meanwhile lets it start.
def test_memory_that_is_not_there_is_said_at_once() -> None:
    words = ("can't allocate memory", "you tried to allocate")
    with pytest.raises(EngineStartError, match="SGLang says: ") as caught:
        ScriptedHttpServer.start(backend="sglang", max_total_tokens=_POOL_TOKENS)
    said, _, tail = str(caught.value).partition("log tail")
    for word in words:
        assert word in said
    # It is a death that was seen, and not the end of its time; and where it was is in the log.
    # Which of its processes is seen to be gone first depends on the release and on what else runs.
    assert re.search(r"(main|scheduler|detokenizer) \(pid \d+\) (ended|was killed by)", said)
    assert "was not ready" not in said
    assert "Traceback (most recent call last)" in tail
    assert "init_memory_pool" in tail or "alloc_memory_pool" in tail
