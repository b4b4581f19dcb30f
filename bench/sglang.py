"""SGLang on a CPU: our session beside SGLang's own scripted harness, from the same installation.

The servers run one at a time and alternate, with the same engine arguments, model and scripts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from scripted_core.sessions import ScriptedHttpServer
from scripted_sglang.launch import default_kwargs, server_env
from scripted_sglang.tiny_model import write_tiny_model

from bench import scripts
from bench.results import Result, at_most, compare, summarize
from bench.server_times import Plan, ServerTimes, measure_server

ROUNDS: Final = 2
_PEER_TIMEOUT_S: Final = 180.0
_LOG_LINES: Final = 20
_ROOT: Final = Path(__file__).resolve().parent.parent


class PeerFailed(RuntimeError):
    """SGLang's own harness did not run; the message has the end of its log."""


def measure(*, report: Callable[[str], None]) -> list[Result]:
    """All rows of the SGLang table; ``report`` is told what is going on.

    Without a peer that runs the rows of comparison are missing, and the reason is reported.
    """
    ours, checked, theirs = ServerTimes(), ServerTimes(), ServerTimes()
    with tempfile.TemporaryDirectory(prefix="scripted-bench-") as folder:
        model = write_tiny_model(Path(folder) / "model")
        kwargs = {**default_kwargs(cpu=True), **scripts.ENGINE_KWARGS, "model_path": str(model)}
        plan = Plan(engine_kwargs=kwargs)
        for number in range(1, ROUNDS + 1):
            report(f"SGLang, round {number} of {ROUNDS}: this project's session")
            _ours(plan, times=ours, checked=checked)
            report(f"SGLang, round {number} of {ROUNDS}: SGLang's own harness")
            try:
                theirs.add(_theirs(plan, Path(folder)))
            except PeerFailed as failure:
                report(str(failure))
                return _own_rows(ours, checked)
    return [*_own_rows(ours, checked), *_peer_rows(theirs), *_comparison(ours, checked, theirs)]


def _ours(plan: Plan, *, times: ServerTimes, checked: ServerTimes) -> None:
    start = time.perf_counter()
    server = ScriptedHttpServer.start(backend="sglang", **plan.engine_kwargs)
    times.start.append(time.perf_counter() - start)
    try:

        def execute(
            script: Callable[..., Any], args: tuple[Any, ...], *, check_invariants: bool
        ) -> None:
            server.execute_script(script, args=args, check_invariants=check_invariants)

        times.add(measure_server(partial(execute, check_invariants=False), plan=plan))
        only_decode = replace(plan, requests=1, resets=1)
        checked.add(measure_server(partial(execute, check_invariants=True), plan=only_decode))
        start = time.perf_counter()
    finally:
        server.shutdown()
    times.shutdown.append(time.perf_counter() - start)


def _theirs(plan: Plan, folder: Path) -> ServerTimes:
    plan_file, out, log = (folder / name for name in ("plan.json", "times.json", "peer.log"))
    plan.write(plan_file)
    env = {**os.environ, **server_env(cpu=True)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), env.get("PYTHONPATH")]))
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.peer", str(plan_file), str(out)],
            env=env,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(_PEER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)
    if code != 0:
        how = f"no end after {_PEER_TIMEOUT_S:g} s" if code is None else f"exit code {code}"
        tail = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        raise PeerFailed("\n".join([f"SGLang's own harness failed ({how}):", *tail]))
    return ServerTimes(**json.loads(out.read_text(encoding="utf-8")))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _own_rows(ours: ServerTimes, checked: ServerTimes) -> list[Result]:
    return [
        summarize("sglang: server start", ours.start, "s", None),
        summarize("sglang: start_req to arrival", _ms(ours.arrival), "ms", None),
        summarize("sglang: reset and no-op script", _ms(ours.reset), "ms", None),
        summarize("sglang: decode per yield", _ms(ours.decode), "ms", None),
        summarize("sglang: decode per yield, invariants", _ms(checked.decode), "ms", None),
        summarize("sglang: shutdown", ours.shutdown, "s", at_most(5)),
    ]


def _peer_rows(theirs: ServerTimes) -> list[Result]:
    return [
        summarize("sglang's harness: server start", theirs.start, "s", None),
        summarize("sglang's harness: start_req to arrival", _ms(theirs.arrival), "ms", None),
        summarize("sglang's harness: reset and no-op script", _ms(theirs.reset), "ms", None),
        summarize("sglang's harness: decode per yield", _ms(theirs.decode), "ms", None),
    ]


def _comparison(ours: ServerTimes, checked: ServerTimes, theirs: ServerTimes) -> list[Result]:
    def row(what: str, mine: Sequence[float], other: Sequence[float], at: float | None) -> Result:
        return compare(f"sglang: {what}, ours to theirs", mine, other, at)

    # SGLang's harness checks nothing after a step, so the row with the invariants has no target.
    return [
        row("start_req to arrival", ours.arrival, theirs.arrival, 0.5),
        row("reset and no-op script", ours.reset, theirs.reset, 0.25),
        row("decode per yield", ours.decode, theirs.decode, 1.0),
        row("decode per yield, invariants", checked.decode, theirs.decode, None),
    ]


def _ms(seconds: Sequence[float]) -> list[float]:
    return [one * 1e3 for one in seconds]
