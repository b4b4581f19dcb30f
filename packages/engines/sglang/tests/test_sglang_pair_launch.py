"""From a configuration of a pair to its command lines; what cannot be started is said."""

from __future__ import annotations

import sys

import pytest
from scripted_core.errors import CapabilityMissing, ConfigError
from scripted_core.views import Side
from scripted_registry import EngineConfig, EngineMode
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch, pair_launch, pair_transport, server

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=5, stage="single-sglang", runner_config="cpu")

_NEEDS_SGLANG = pytest.mark.skipif(
    launch.check_usable() is not None,
    reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
)


@pytest.fixture
def with_transfer(monkeypatch):
    """Mooncake is there, whether it is or not."""
    missing = pair_transport.why_no_release()
    if missing is not None:
        pytest.skip(f"needs the capability 'pd_decode': {missing}")
    monkeypatch.setattr(pair_launch, "why_no_transfer", lambda: None)
    monkeypatch.setattr(launch, "why_no_transfer", lambda: None)


def _config(**kwargs):
    return EngineConfig(engine="sglang", mode=EngineMode.SERVER, kwargs={"device": "cpu", **kwargs})


def _pair(**kwargs):
    return server.server_launch(_config(disaggregation_mode="pair", **kwargs))


def _options(argv):
    """Options in the one-word form."""
    return dict(arg.split("=", 1) for arg in argv if arg.startswith("--") and "=" in arg)


@_NEEDS_SGLANG
@pytest.mark.usefixtures("with_transfer")
def test_a_pair_is_two_servers_that_meet_and_a_router_in_front():
    made = _pair(
        prefill_kwargs={"max_total_tokens": 512},
        decode_kwargs={"max_running_requests": 3},
        num_reserved_decode_tokens=7,
    )
    assert made.argv[:3] == (sys.executable, "-m", "scripted_hook.pair.router")
    assert [member.role for member in made.members] == ["prefill", "decode"]
    prefill, decode = made.members
    assert [made.argv[made.argv.index(f"--{name}") + 1] for name in ("prefill", "decode")] == [
        prefill.base_url,
        decode.base_url,
    ]
    options = {member.role: _options(member.argv) for member in made.members}
    assert [options[side]["--disaggregation-mode"] for side in Side] == ["prefill", "decode"]
    meeting = {options[side]["--disaggregation-bootstrap-port"] for side in Side}
    assert meeting == {made.argv[made.argv.index("--bootstrap-port") + 1]}
    assert options["prefill"]["--max-total-tokens"] == "512"
    assert options["decode"]["--max-total-tokens"] != "512"
    assert options["decode"]["--max-running-requests"] == "3"
    assert options["decode"]["--num-reserved-decode-tokens"] == "7"
    assert "--num-reserved-decode-tokens" not in options["prefill"]
    ports = [made.port, prefill.port, decode.port, *map(int, meeting)]
    ports += [int(options[side]["--nccl-port"]) for side in Side]
    assert len(set(ports)) == 6
    assert {member.env["SCRIPTED_BASE_URL"] for member in made.members} == {made.base_url}


@_NEEDS_SGLANG
@pytest.mark.usefixtures("with_transfer")
@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"prefill_kwargs": 3}, "prefill_kwargs=3 is not a mapping"),
        ({"tp_size": 2}, "tp_size=2 together with disaggregation_mode='pair'"),
        ({"decode_kwargs": {"dp_size": 2}}, "dp_size=2 together with disaggregation_mode='pair'"),
        ({"decode_kwargs": {"no_such_thing": 2}}, "no argument 'no_such_thing'"),
    ],
)
def test_what_a_pair_cannot_be_is_said(kwargs, says):
    with pytest.raises(ConfigError, match=says):
        _pair(**kwargs)


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_one_half_of_a_pair_is_refused(mode):
    with pytest.raises(ConfigError, match="one half of a pair") as error:
        server.server_launch(_config(disaggregation_mode=mode))
    assert "disaggregation_mode='pair'" in str(error.value.hint)


def test_without_its_transfer_a_pair_is_a_missing_capability(monkeypatch):
    monkeypatch.setattr(pair_launch, "why_no_transfer", lambda: "libibverbs.so.1 is gone")
    monkeypatch.setattr(launch, "why_no_transfer", lambda: "libibverbs.so.1 is gone")
    with pytest.raises(CapabilityMissing, match=r"'pd_decode': libibverbs\.so\.1 is gone"):
        _pair()
    assert {"pd_prefill", "pd_decode"} <= launch.lacking({"disaggregation_mode": "pair"})


@pytest.mark.usefixtures("with_transfer")
def test_a_pair_has_capabilities_that_one_server_has_not():
    assert {"pd_prefill", "pd_decode"} <= launch.lacking({})
    lacking = launch.lacking({"disaggregation_mode": "pair"})
    assert not {"pd_prefill", "pd_decode"} & lacking
    assert {"prefix_cache", "lock_refs"} <= lacking


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ImportError('libibverbs.so.1: cannot open shared object file')", "libibverbs"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("", None),
    ],
)
def test_a_transfer_that_does_not_load_says_why(tmp_path, monkeypatch, body, says):
    package = tmp_path / "mooncake"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "engine.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = pair_transport.why_no_library()
    assert (found is None) if says is None else says in found


def test_a_release_that_hides_what_its_servers_send_has_no_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_transport, "source_folder", lambda: tmp_path)
    monkeypatch.setattr(pair_transport, "installed_version", lambda: "0.5.20")
    monkeypatch.setattr(pair_transport, "why_no_library", lambda: None)
    found = pair_transport.why_no_transfer.__wrapped__()
    assert found is not None
    assert found.startswith("SGLang 0.5.20 has no ")
    assert "CommonKVReceiver._send_bootstrap_message" in found
    monkeypatch.setattr(pair_transport, "find_place", lambda package, need: need.places[0])
    assert pair_transport.why_no_transfer.__wrapped__() is None
