"""Key files for an engine that is attached to: who it is, and whom it lets in.

A key file is JSON, for its owner's eyes only. The engine's holds its own CURVE key pair and the
allow-list, the public keys of its clients by name; a client's holds its key pair and the engine's
public key. Both ends therefore know each other before they meet.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from scripted_core.errors import ConfigError

ENGINE_KEY_FILE = "engine.key"
DEFAULT_CLIENT = "client"

_Z85 = Annotated[str, msgspec.Meta(min_length=40, max_length=40)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_REMAKE = "make new ones with: scripted keys DIR"
_Key = TypeVar("_Key", bound="EngineKey | ClientKey")


class EngineKey(msgspec.Struct, frozen=True, tag="scripted-engine-key", forbid_unknown_fields=True):
    """The engine's key pair (Z85 text), and the public keys that it lets in, by client name."""

    public: _Z85
    secret: _Z85
    clients: dict[str, _Z85]


class ClientKey(msgspec.Struct, frozen=True, tag="scripted-client-key", forbid_unknown_fields=True):
    """A client's name and key pair (Z85 text), and the public key of the engine."""

    name: str
    public: _Z85
    secret: _Z85
    engine_public: _Z85


def make_keys(folder: Path, *, clients: tuple[str, ...] = (DEFAULT_CLIENT,)) -> list[Path]:
    """Write ``engine.key`` and a ``NAME.key`` for each of ``clients`` into ``folder``, mode 0600.

    An ``engine.key`` that is there is kept, and the clients are added to its allow-list, which a
    running engine reads anew for each connection. Returns the files that were written. Raises
    ``ConfigError`` for a name that will not do, a client that is there already, and a folder that
    cannot be written to.
    """
    for name in clients:
        if not _NAME.fullmatch(name) or name == Path(ENGINE_KEY_FILE).stem:
            raise ConfigError(
                f"{name!r} is no name for a client",
                hint="use letters, digits, dots, dashes and underscores; 'engine' is taken",
            )
    engine_file = folder / ENGINE_KEY_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not engine_file.exists()
        engine = EngineKey(*_pair(), clients={}) if is_new else read_engine_key(engine_file)
        allowed = dict(engine.clients)
        made: dict[Path, ClientKey] = {}
        for name in clients:
            file = folder / f"{name}.key"
            if name in allowed or file.exists():
                raise ConfigError(
                    f"there is a client {name!r} in {folder} already",
                    hint=f"use {file}, or give another name with --client",
                )
            key = ClientKey(name, *_pair(), engine_public=engine.public)
            made[file] = key
            allowed[name] = key.public
        for file, key in made.items():
            _write(file, key)
        _write(engine_file, msgspec.structs.replace(engine, clients=allowed))
    except OSError as error:
        raise ConfigError(
            f"cannot write keys to {folder}: {error.strerror or error}",
            hint="name a folder that you can write to",
        ) from error
    return [engine_file, *made]


def read_engine_key(path: Path) -> EngineKey:
    """The engine's key; ``ConfigError`` for a file that is none, or that others could read."""
    return _read(path, EngineKey, ENGINE_KEY_FILE)


def read_client_key(path: Path) -> ClientKey:
    """A client's key; ``ConfigError`` for a file that is none, or that others could read."""
    return _read(path, ClientKey, f"a client's, such as {DEFAULT_CLIENT}.key")


def _pair() -> tuple[str, str]:
    import zmq

    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def _write(path: Path, key: EngineKey | ClientKey) -> None:
    """Whole or not at all: an engine may read it at this moment."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(msgspec.json.format(msgspec.json.encode(key)) + b"\n")
    os.replace(fresh, path)


def _read(path: Path, kind: type[_Key], wanted: str) -> _Key:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the key file {path}: {error.strerror}", hint=_REMAKE
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"the key file {path} can be read by others (mode {mode:04o})",
            hint=f"chmod 600 {path}; where it is mounted, mount it with mode 0400",
        )
    try:
        key = msgspec.json.decode(text, type=EngineKey | ClientKey)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no key file: {error}", hint=_REMAKE) from error
    if not isinstance(key, kind):
        raise ConfigError(
            f"{path} is the key of the other side", hint=f"the one that is wanted is {wanted}"
        )
    return key
