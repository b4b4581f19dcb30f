"""Key files, addresses, and whether an engine of others is as a test wants it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from scripted_core.errors import ConfigError
from scripted_core.sessions.attached import AttachTo
from scripted_core.sessions.fit import misfit
from scripted_core.wire.address import ENV_KEY_FILE, ENV_LISTEN, ENV_WIRE, open_address
from scripted_core.wire.keys import make_keys, read_client_key, read_engine_key
from scripted_core.wire.tcp import TcpAddress, parse_tcp
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


def test_keys_know_each_other_and_are_for_their_owner(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    engine_file, client_file = make_keys(folder)
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    engine, client = read_engine_key(engine_file), read_client_key(client_file)
    assert client.engine_public == engine.public
    assert engine.clients == {"client": client.public}
    assert engine.secret not in client_file.read_text()
    assert client.secret not in engine_file.read_text()


def test_a_client_is_added_to_an_engine_that_keeps_its_key(tmp_path: Path) -> None:
    engine_file, _ = make_keys(tmp_path)
    before = read_engine_key(engine_file)
    _, *added = make_keys(tmp_path, clients=("ci", "laptop"))
    after = read_engine_key(engine_file)
    assert (after.public, after.secret) == (before.public, before.secret)
    assert set(after.clients) == {"client", "ci", "laptop"}
    assert {read_client_key(one).name for one in added} == {"ci", "laptop"}


@pytest.mark.parametrize("name", ["engine", "", "a/b", "..", "-x"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a client"):
        make_keys(tmp_path, clients=(name,))
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_is_there_is_not_made_anew(tmp_path: Path) -> None:
    made = make_keys(tmp_path)
    before = [one.read_bytes() for one in made]
    with pytest.raises(ConfigError, match="there is a client 'client'"):
        make_keys(tmp_path, clients=("new", "client"))
    assert [one.read_bytes() for one in made] == before
    assert not (tmp_path / "new.key").exists()


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    engine_file, client_file = make_keys(tmp_path)
    client_file.chmod(0o640)
    with pytest.raises(ConfigError, match=r"read by others \(mode 0640\)") as caught:
        read_client_key(client_file)
    assert str(caught.value.hint).startswith(f"chmod 600 {client_file}")
    with pytest.raises(ConfigError, match="the key of the other side"):
        read_client_key(engine_file)
    engine_file.write_text("{}")
    with pytest.raises(ConfigError, match="is no key file"):
        read_engine_key(engine_file)
    with pytest.raises(ConfigError, match="No such file"):
        read_engine_key(tmp_path / "none.key")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write keys to"):
        make_keys(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tcp://gpu7:7801", TcpAddress("gpu7", 7801)),
        ("gpu7:7801", TcpAddress("gpu7", 7801)),
        ("tcp://[::1]:1", TcpAddress("::1", 1)),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, wanted: TcpAddress) -> None:
    assert parse_tcp(text, what="x") == wanted
    assert parse_tcp(str(wanted), what="x") == wanted


@pytest.mark.parametrize(
    "text",
    ["", "gpu7", "7801", "ipc:///tmp/x", "tcp://gpu7:", "gpu7:70000", "*:7801", "gpu7:0", "h:-1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no address to attach to") as caught:
        parse_tcp(text, what="--scripted-attach")
    assert caught.value.hint == "write it like tcp://HOST:7801"


def test_to_listen_on_all_networks_or_any_port_is_fine() -> None:
    assert parse_tcp("*:0", what="x", listening=True).is_everywhere
    assert parse_tcp("tcp://0.0.0.0:7801", what="x", listening=True).is_everywhere


def test_an_engine_listens_only_with_keys(tmp_path: Path) -> None:
    environ = {ENV_LISTEN: "tcp://127.0.0.1:0"}
    with pytest.raises(ConfigError, match=f"{ENV_LISTEN} is set but {ENV_KEY_FILE} is not"):
        open_address(environ, engine="x")
    environ[ENV_KEY_FILE] = str(make_keys(tmp_path)[0])
    assert open_address({**environ, "SCRIPTED_ENGINE": "another"}, engine="x") is None
    assert open_address({}, engine="x") is None
    address = open_address(environ, engine="x")
    assert address is not None
    try:
        assert environ[ENV_WIRE] == address.directory  # for the engine's other processes
        assert environ[ENV_LISTEN] == "tcp://127.0.0.1:0"
        assert open_address(environ, engine="x") == address
    finally:
        address.remove()
    # A session's own engine does not listen, whatever is set around it.
    assert address.env(engine="x")[ENV_LISTEN] == ""


def test_a_client_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRIPTED_CLIENT_KEY_FILE", raising=False)
    with pytest.raises(ConfigError, match="no key to attach to") as caught:
        AttachTo(address="a:1").key_path  # noqa: B018
    assert "scripted keys DIR" in str(caught.value.hint)
    monkeypatch.setenv("SCRIPTED_CLIENT_KEY_FILE", "/k")
    assert AttachTo(address="a:1").key_path == Path("/k")


def test_only_what_differs_keeps_a_test_off_an_engine() -> None:
    runs_with = {"page_size": 16, "dtype": "auto", "sizes": [1, 2], "model_path": "m"}
    assert misfit({}, runs_with) is None
    assert misfit({"page_size": 16, "sizes": (1, 2), "unknown": 3}, runs_with) is None
    assert misfit({"model_path": "another", "port": 1, "dtype": None}, runs_with) is None
    reason = misfit({"page_size": 1, "dtype": "auto"}, runs_with)
    assert reason == "the engine that is attached to runs with page_size=16 (the test wants 1)"
