"""Checks of the arguments of ``start_req``: a wrong one is named before anything is posted."""

from __future__ import annotations

from scripted_core.errors import ConfigError

MAX_RID_LENGTH = 200


def flag(name: str, value: object) -> None:
    """``value`` is ``True`` or ``False``."""
    if not isinstance(value, bool):
        raise _wrong(name, value, "is not True or False")


def whole_number(name: str, value: object) -> None:
    """``value`` is an ``int`` or ``None``."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise _wrong(name, value, "is not a whole number")


def between(name: str, value: int | None, least: int, largest: int) -> None:
    """``value`` is from ``least`` to ``largest``, or ``None``."""
    if value is not None and not least <= value <= largest:
        bound = f"below {least}" if value < least else f"above {largest}"
        raise _wrong(name, value, f"is {bound}")


def temperature(value: object) -> None:
    """``value`` is a number from 0 to 100, or ``None``."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
        raise _wrong("temperature", value, "is not a number from 0 (greedy) to 100")


def token_ids(name: str, value: object, *, vocab_size: int) -> None:
    """``value`` is a list or tuple of ids below ``vocab_size``, or ``None``."""
    if value is None:
        return
    if not isinstance(value, (list, tuple)):
        raise _wrong(name, value, f"is a {type(value).__name__}, not a list of token ids")
    for token in value:
        # An exact int: a NumPy integer looks like one and does not travel like one.
        if type(token) is not int:
            raise ConfigError(
                f"start_req: {name} holds {token!r}, a {type(token).__name__}",
                hint="token ids are plain integers",
            )
        if not 0 <= token < vocab_size:
            raise ConfigError(
                f"start_req: token id {token} in {name} is outside the vocabulary of {vocab_size}",
                hint=f"token ids are 0 … {vocab_size - 1}",
            )


def rid(value: object) -> None:
    """``value`` is a printable string of reasonable length."""
    if not isinstance(value, str) or not value:
        raise _wrong("rid", value, "is not a non-empty string")
    if not value.isprintable() or len(value) > MAX_RID_LENGTH:
        raise ConfigError(
            f"start_req: rid {value[:40]!r} is not printable or longer than {MAX_RID_LENGTH}",
            hint="leave rid out for an automatic one",
        )


def _wrong(name: str, value: object, what: str) -> ConfigError:
    return ConfigError(f"start_req: {name}={value!r} {what}", hint="leave it out for the default")
