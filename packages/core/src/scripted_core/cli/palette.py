"""How a request's state looks: its letter, its colour in a table, its cell in a timeline."""

from __future__ import annotations

from dataclasses import dataclass

from scripted_core.trace import RequestState


@dataclass(frozen=True)
class Look:
    """``letter`` tells states apart without any colour; styles are rich's."""

    letter: str
    word_style: str
    cell_style: str


LOOKS = {
    RequestState.WAITING: Look("w", "yellow", "yellow"),
    RequestState.CHUNK: Look("c", "blue", "white on blue"),
    RequestState.PREFILL: Look("p", "bold blue", "bold white on blue"),
    RequestState.DECODE: Look("d", "green", "black on green"),
    RequestState.RUNNING: Look("r", "dim green", "green"),
    RequestState.RETRACTED: Look("R", "magenta", "white on magenta"),
    RequestState.PAUSED: Look("=", "cyan", "black on cyan"),
    RequestState.FINISHED: Look("F", "bold green", "bold black on bright_green"),
    RequestState.ABORTED: Look("X", "bold red", "bold white on red"),
}
ENDED = frozenset({RequestState.FINISHED, RequestState.ABORTED})
