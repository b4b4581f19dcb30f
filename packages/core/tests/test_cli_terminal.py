"""`scripted run` on a real terminal, in a process of its own."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=6, stage="unit", runner_config="cpu")

TESTS = Path(__file__).parent
START = "import fake_engines_plugin; from scripted_core.cli import main; main()"
SCRIPTS = """
import time

def script_short(t):
    for _ in range(3):
        yield

def script_endless(t):
    while True:
        time.sleep(0.002)
        yield
"""


class Terminal:
    """A program on a pseudo-terminal of 24 rows and 60 columns."""

    def __init__(self, *arguments: str, folder: Path, term: str = "xterm-256color") -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 60))
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        ours = {"PYTHONPATH": str(TESTS), "TERM": term, "SCRIPTED_BACKEND": "local"}
        env = {name: value for name, value in os.environ.items() if name not in UNWANTED}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=env | ours,
            preexec_fn=lambda: _own(slave),
        )
        self.output = b""

    def read_until(self, text: bytes, *, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.output:
            left_s = max(0.0, deadline - time.monotonic())
            # A read alone would wait for ever for a program that has ended: its terminal is open here.
            ready, _, _ = select.select([self._master], [], [], left_s)
            assert ready, self.output.decode(errors="replace")
            self.output += os.read(self._master, 65536)

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def wait(self) -> int:
        """The exit status, once everything that was written has been read."""
        os.set_blocking(self._master, False)
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.output.decode(errors="replace")
            self._drain()
            time.sleep(0.01)
        self._drain()
        return self.process.returncode

    def _drain(self) -> None:
        try:
            while chunk := os.read(self._master, 65536):
                self.output += chunk
        except BlockingIOError:
            pass

    @property
    def settings(self) -> list[object]:
        return termios.tcgetattr(self._slave)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self._slave)


UNWANTED = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "SCRIPTED_PLUGINS", "PYTEST_ADDOPTS")


def _own(slave: int) -> None:
    """In the child: make the terminal its own, so that Ctrl-C reaches it."""
    os.setsid()
    import fcntl

    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "terminal_scripts.py").write_text(SCRIPTS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def terminals(folder: Path) -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for one in opened:
        one.close()


def test_a_run_is_drawn_live_and_its_picture_stays(folder: Path, terminals: list[Terminal]) -> None:
    one = Terminal("run", "terminal_scripts.py:script_short", folder=folder)
    terminals.append(one)
    assert one.wait() == 0, one.output
    text = one.output
    assert b"\x1b[?25l" in text, "the cursor is hidden while it draws"
    assert text.rfind(b"\x1b[?25h") > text.rfind(b"\x1b[?25l")
    assert b"passed" in text[text.rfind(b"\x1b[?25h") :]


def test_ctrl_c_gives_the_terminal_back_and_exits_with_130(
    folder: Path, terminals: list[Terminal]
) -> None:
    one = Terminal("run", "terminal_scripts.py:script_endless", folder=folder)
    terminals.append(one)
    one.read_until(b"iteration")
    one.press(b"\x03")
    assert one.wait() == 130, one.output.decode(errors="replace")
    assert one.settings == one.before
    assert one.output.rfind(b"\x1b[?25h") > one.output.rfind(b"\x1b[?25l")
    assert b"interrupted after" in one.output
    assert b"Traceback" not in one.output
    assert "stop local {}" in (folder / "events.txt").read_text().splitlines()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_like_ctrl_c(
    folder: Path, terminals: list[Terminal], sent: signal.Signals
) -> None:
    one = Terminal("run", "terminal_scripts.py:script_endless", folder=folder)
    terminals.append(one)
    one.read_until(b"iteration")
    one.process.send_signal(sent)
    assert one.wait() == 128 + sent
    assert f"ended by {sent.name}".encode() in one.output
    assert "stop local {}" in (folder / "events.txt").read_text().splitlines()


def test_a_dumb_terminal_gets_the_table(folder: Path, terminals: list[Terminal]) -> None:
    one = Terminal("run", "terminal_scripts.py:script_short", folder=folder, term="dumb")
    terminals.append(one)
    assert one.wait() == 0
    assert b"\x1b[" not in one.output
    assert b"| iteration |" in one.output
