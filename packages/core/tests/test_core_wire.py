from __future__ import annotations

import dataclasses
import enum
import pathlib
import stat
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from scripted_core.errors import ConfigError, HandshakeError, ScriptNotImportable
from scripted_core.testing import FakePairChannel
from scripted_core.wire import transport
from scripted_core.wire.address import (
    ENV_TOKEN,
    ENV_WIRE,
    SessionAddress,
    address_from_env,
    create_address,
)
from scripted_core.wire.messages import (
    HookReady,
    OutOfBandError,
    RunScript,
    ScriptFailed,
    ScriptRef,
    ScriptSucceeded,
    Shutdown,
    decode,
    encode,
)
from scripted_core.wire.plain import from_plain, to_plain
from scripted_core.wire.progress import ProgressReader, ProgressWriter
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=4, stage="unit", runner_config="cpu")

text = st.text(st.characters(codec="utf-8"), max_size=20)
plain_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | text | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
refs = st.builds(
    ScriptRef,
    path=text,
    module_name=text,
    qualname=text,
    content_hash=text,
    sys_path=st.lists(text, max_size=3).map(tuple),
    is_method=st.booleans(),
)
messages = st.one_of(
    st.builds(
        RunScript,
        request_id=st.integers(0, 2**63),
        script=refs,
        args=st.lists(plain_data, max_size=3),
        kwargs=st.dictionaries(text, plain_data, max_size=3),
    ),
    st.just(Shutdown()),
    st.builds(
        HookReady,
        protocol_version=st.integers(0, 9),
        engine=text,
        engine_version=text,
        capabilities=st.lists(text, max_size=3).map(tuple),
        pids=st.dictionaries(text, st.integers(1, 2**22), max_size=3),
        hooks_fired=st.lists(text, max_size=3).map(tuple),
    ),
    st.builds(ScriptFailed, st.integers(0, 99), text, text, text, text, text),
    st.builds(OutOfBandError, text, st.integers(1, 2**22), text, text, text),
)


# -- frames ------------------------------------------------------------------------------------


@given(messages)
def test_a_message_survives_its_frame(message):
    assert decode(encode(message, token="t"), token="t") == message


@given(messages, text.filter(lambda token: token != "mine"))
def test_a_frame_with_another_token_is_a_strangers(message, token):
    with pytest.raises(HandshakeError, match="token") as caught:
        decode(encode(message, token=token), token="mine")
    assert caught.value.hint


@given(st.binary(max_size=60))
def test_any_bytes_are_a_handshake_error_and_nothing_else(frame):
    with pytest.raises(HandshakeError):
        decode(frame, token="token")


def test_deep_nesting_is_a_handshake_error():
    body = b"\x91" * 5000 + b"\xc0"
    with pytest.raises(HandshakeError):
        decode(b"\x92\xa1t" + body, token="t")


@pytest.mark.parametrize(
    "body", [{"type": "NoSuchMessage"}, {"type": "ScriptSucceeded", "request_id": "one"}, [1], 7]
)
def test_an_unknown_message_names_the_versions(body):
    frame = msgspec.msgpack.encode(["t", body])
    with pytest.raises(HandshakeError) as caught:
        decode(frame, token="t")
    assert "scripted-core" in caught.value.hint


@given(messages, st.data())
def test_a_truncated_frame_is_a_handshake_error(message, data):
    frame = encode(message, token="t")
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(HandshakeError):
        decode(frame[:cut], token="t")


# -- plain data --------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Name(enum.StrEnum):
    A = "a"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    tags: tuple = ()
    label: str = dataclasses.field(default="p", kw_only=True)


class Outer:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        of: object


OWN = {
    f"{cls.__module__}:{cls.__qualname__}": cls
    for cls in (Colour, Level, Name, Access, Point, Outer.Inner)
}


def travel(value):
    """Through tags and MessagePack and back."""
    frame = msgspec.msgpack.encode(to_plain(value, what="argument 0"))
    return from_plain(msgspec.msgpack.decode(frame), resolve_type=OWN.__getitem__)


def same(left, right):
    """Equal, and of the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(map(repr, left)) == list(map(repr, right)) and all(
            same(left[key], right[key]) for key in left
        )
    return (
        left == right and repr(left) == repr(right) if not isinstance(left, set) else left == right
    )


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | text
    | st.binary(max_size=8)
)
hashables = st.recursive(
    scalars
    | st.sampled_from([*Colour, *Level, *Name, *Access])
    | text.map(lambda name: Path("/", name.replace("\0", ""))),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(inner, max_size=3)
        | st.builds(Point, x=inner, tags=st.lists(inner, max_size=2).map(tuple))
        | st.builds(Outer.Inner, of=inner)
    ),
    max_leaves=5,
)
values = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.sets(hashables, max_size=3)
        | st.dictionaries(text | hashables, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
def test_plain_data_arrives_as_what_it_was(value):
    arrived = travel(value)
    assert arrived == value
    assert type(arrived) is type(value)


@given(st.lists(scalars | st.lists(scalars, max_size=3).map(tuple), max_size=4))
def test_types_arrive_all_the_way_down(value):
    assert same(travel(value), value)


def test_a_dict_that_looks_like_a_tag_is_not_taken_for_one():
    value = {"!scripted": "tuple", "v": [1]}
    assert travel(value) == value
    assert travel({"a": value}) == {"a": value}


def test_a_composed_flag_travels():
    value = Access.READ | Access.WRITE
    assert travel(value) == value


def test_dict_order_is_kept():
    value = {3: "c", "a": 1, (1, 2): None}
    assert list(travel(value)) == list(value)


class Unfit:
    pass


def local_dataclass():
    @dataclasses.dataclass
    class Local:
        x: int = 1

    return Local()


def local_enum():
    return enum.Enum("Local", "A", module=__name__, qualname="f.<locals>.Local").A


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Unfit(), "Unfit"),
        ([1, (2, {"k": Unfit()})], "Unfit"),
        (lambda: None, "function"),
        (object(), "object"),
        (Unfit, "type"),
        (1j, "complex"),
        (bytearray(b"x"), "bytearray"),
        (iter([]), "list_iterator"),
        (local_dataclass(), "Local"),
        (local_enum(), "Local"),
        ("\udcff", "Unicode"),
        (Path("/tmp/\udcff"), "Unicode"),
        ({"\udcff": 1}, "Unicode"),
    ],
)
def test_what_cannot_travel_is_refused_by_the_name_of_the_argument(value, named):
    with pytest.raises(ScriptNotImportable, match="argument or fixture 'server'") as caught:
        to_plain(value, what="argument or fixture 'server'")
    assert named in str(caught.value)
    assert caught.value.hint


def test_a_refused_field_of_a_dataclass_is_named():
    with pytest.raises(ScriptNotImportable, match=r"argument 0\.of"):
        to_plain(Outer.Inner(of=Unfit()), what="argument 0")


def test_a_value_that_holds_itself_is_refused_and_not_followed():
    value: list = []
    value.append(value)
    with pytest.raises(ScriptNotImportable, match="argument 0"):
        to_plain(value, what="argument 0")


def test_an_unknown_tag_is_an_error():
    with pytest.raises(ScriptNotImportable, match="'matrix'"):
        from_plain({"!scripted": "matrix", "v": 1}, resolve_type=OWN.__getitem__)


def test_a_pure_path_arrives_as_a_path():
    assert travel(pathlib.PurePosixPath("/a/b")) == Path("/a/b")


# -- address, progress, sockets ----------------------------------------------------------------


@pytest.fixture
def address():
    one = create_address()
    yield one
    one.remove()
    assert not Path(one.directory).exists()


def test_an_address_is_private_and_short(address):
    directory = Path(address.directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(address.wire) < 100
    other = create_address()
    other.remove()
    assert other.token != address.token
    assert other.directory != address.directory


def test_a_long_temporary_directory_is_passed_over(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    one = create_address()
    try:
        assert len(one.directory) < 90
        assert list(long.iterdir()) == []
    finally:
        one.remove()


def test_the_environment_carries_the_address(address):
    assert address_from_env(address.env(engine="fake")) == address
    assert address_from_env({}) is None
    with pytest.raises(ConfigError, match=ENV_TOKEN):
        address_from_env({ENV_WIRE: "/tmp/x"})


def test_the_progress_board(address):
    reader = ProgressReader(address.progress)
    assert reader.read() == (0, 0, 0)
    writer = ProgressWriter(address.progress)
    assert reader.read() == (0, 0, 0)
    writer.tick(4, 10)
    writer.tick(4, 11)
    assert reader.read() == (2, 4, 11)
    writer.close()
    assert reader.read() == (2, 4, 11)


def receive(channel):
    poller = zmq.Poller()
    for one in channel.pollables():
        poller.register(one, zmq.POLLIN)
    assert poller.poll(5000)
    return channel.receive()


def test_messages_pass_both_ways_and_out_of_band_comes_first(address):
    test_side = transport.TestSideChannel(address)
    engine_side = transport.EngineSideChannel(address)
    try:
        assert test_side.receive() is None
        engine_side.send(ScriptSucceeded(1, 2, "d"))
        assert receive(test_side) == ScriptSucceeded(1, 2, "d")
        test_side.send(Shutdown())
        assert receive(engine_side) == Shutdown()
        assert engine_side.receive() is None
        report = OutOfBandError("rank 1", 7, "ValueError", "m", "tb")
        transport.report_out_of_band(address, report)
        assert receive(test_side) == report
    finally:
        engine_side.close()
        engine_side.close()
        test_side.close()
        test_side.close()


def test_a_stranger_on_the_socket_is_a_handshake_error(address):
    test_side = transport.TestSideChannel(address)
    stranger = transport.EngineSideChannel(SessionAddress(address.directory, "guessed"))
    try:
        stranger.send(Shutdown())
        with pytest.raises(HandshakeError, match="token"):
            receive(test_side)
    finally:
        stranger.close()
        test_side.close()


def test_the_fake_channel_carries_the_same_frames():
    test_side, engine_side = FakePairChannel.pair(token="t")
    try:
        engine_side.send(ScriptSucceeded(1, 2))
        assert receive(test_side) == ScriptSucceeded(1, 2)
        assert test_side.receive() is None
        engine_side.send_frame(b"\xc1")
        with pytest.raises(HandshakeError):
            receive(test_side)
    finally:
        test_side.close()
        engine_side.close()
