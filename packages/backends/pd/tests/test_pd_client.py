"""What the client of a pair of servers refuses before anything is sent."""

from __future__ import annotations

import math

import pytest
from scripted_backend_pd.pair_client import PdPair, post_parallel_generate
from scripted_core.errors import ConfigError
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

_NOBODY = "http://127.0.0.1:9"
_PAIR = PdPair(lb_url=_NOBODY, prefill_url=_NOBODY, decode_url=_NOBODY)


@pytest.mark.parametrize("n", [-1, 0, "4", 2.5, None, True, 10**30])
def test_a_number_of_requests_that_cannot_be(n):
    with pytest.raises(ConfigError, match=rf"send_parallel_short_requests: n={n!r} is") as refused:
        _PAIR.send_parallel_short_requests(n)
    assert refused.value.hint


@pytest.mark.parametrize("timeout", [0, -1, "1", None, math.inf, math.nan, 10**30])
def test_a_timeout_that_cannot_be(timeout):
    with pytest.raises(ConfigError, match=rf"requests: timeout={timeout!r} is no") as refused:
        _PAIR.send_parallel_short_requests(1, timeout=timeout)
    assert "seconds" in refused.value.hint
    with pytest.raises(ConfigError, match="post_parallel_generate: timeout"):
        post_parallel_generate(url=_NOBODY, prompts=["a"], max_new_tokens=1, timeout=timeout)


def test_a_number_of_tokens_that_cannot_be():
    with pytest.raises(ConfigError, match="max_new_tokens='8'"):
        _PAIR.send_parallel_short_requests(1, max_new_tokens="8")


def test_good_numbers_reach_for_the_router():
    (result,) = _PAIR.send_parallel_short_requests(1, assert_all_success=False, timeout=0.5)
    assert result["status_code"] == 0
