"""A server engine for the tests: it speaks the wire and has a health page, and runs no scripts.

``python fake_engine_program.py HOW PORT``: ``HOW`` is what it does at its start; what it does with
a script is decided by the script's name.
"""

from __future__ import annotations

import faulthandler
import http.server
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import zmq
from scripted_core.trace import ChecksDone, StepTrace
from scripted_core.wire.address import STACKS_SIGNAL, SessionAddress, address_from_env
from scripted_core.wire.messages import (
    PROTOCOL_VERSION,
    HookReady,
    OutOfBandError,
    RunScript,
    ScriptFailed,
    ScriptSucceeded,
    Shutdown,
    StepsEnded,
)
from scripted_core.wire.progress import ProgressWriter
from scripted_core.wire.transport import EngineSideChannel, report_out_of_band

RANK = """
import os
from scripted_core.wire.address import address_from_env
address_from_env(os.environ).announce("rank 1")
"""
HOW, PORT = sys.argv[1], int(sys.argv[2])


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if HOW == "loses_its_front":
            print("error: its front could not listen", file=sys.stderr, flush=True)
            os._exit(1)
        self.send_response(503 if HOW == "never_healthy" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


def forever():
    while True:
        signal.pause()


def main():
    print("fake engine:", HOW, flush=True)
    if HOW == "refuses":
        print("error: unrecognized argument --colour", file=sys.stderr, flush=True)
        sys.exit(2)
    if HOW == "silent":
        forever()
    address = address_from_env(os.environ)
    if HOW == "stranger":
        address = SessionAddress(address.directory, "a guess")
    if HOW == "breaks":
        report_out_of_band(address, OutOfBandError("rank 1", 1, "OSError", "no memory", "Tb"))
        forever()
    if HOW == "has_helpers":  # a compiler, ldconfig, …: they end, and that means nothing
        helpers = [subprocess.Popen(["sleep", str(0.3 * n)]) for n in (1, 2)]
        for helper in helpers:
            helper.wait()
    if HOW == "loses_a_rank":  # at once, and nobody here makes anything of it
        subprocess.run([sys.executable, "-c", RANK], check=False)
        forever()
    worker = subprocess.Popen(["sleep", "1000"])
    signal.signal(signal.SIGTERM, lambda *_: (worker.kill(), os._exit(0)))
    stacks = open(address.stacks(os.getpid()), "w")  # noqa: SIM115
    faulthandler.register(STACKS_SIGNAL, file=stacks, all_threads=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if HOW == "has_semaphores":  # as with every engine that spawns with multiprocessing
        global semaphore
        semaphore = multiprocessing.get_context("spawn").Semaphore()
        print("semaphore", semaphore._semlock.name, flush=True)
    if HOW == "swallowed":
        print("Skipping plugin scripted (not wanted)", flush=True)
        forever()
    channel = EngineSideChannel(address)
    channel.send(
        HookReady(
            protocol_version=PROTOCOL_VERSION - (HOW == "old"),
            engine="other" if HOW == "other" else "fake",
            engine_version="1",
            capabilities=("chunked_prefill",),
            pids={"scheduler": os.getpid(), "worker": worker.pid},
            hooks_fired=() if HOW == "unhooked" else ("step",),
        )
    )
    serve(address, channel, ProgressWriter(address.progress), worker)


def serve(address, channel, progress, worker):
    poller = zmq.Poller()
    poller.register(channel.pollables()[0], zmq.POLLIN)
    while True:
        poller.poll()
        message = channel.receive()
        if isinstance(message, Shutdown):
            print("told to shut down", flush=True)
        if isinstance(message, RunScript):
            run(message, address, channel, progress, worker)


def run(message, address, channel, progress, worker):
    n = message.request_id
    failed = ScriptFailed(n, "failed", "ValueError", "a bad value", "Tb: in script", "step 2")
    match message.script.qualname:
        case "succeeds":
            channel.send(ScriptSucceeded(n, 1, f"digest-{n}"))
        case "echoes":
            text = repr((message.args, message.kwargs, message.seed, message.check_invariants))
            channel.send(ScriptFailed(n, "failed", "Echo", text, "", ""))
        case "echoes_environment":
            text = os.environ.get("FAKE_FOLDER", "")
            channel.send(ScriptFailed(n, "failed", "Echo", text, "", ""))
        case "fails":
            channel.send(failed)
        case "skips":
            channel.send(ScriptFailed(n, "skipped", "Skipped", "not today", "", ""))
        case "streams":
            stale = (StepTrace(9, "-", {}, 1, 1),)
            steps = tuple(StepTrace(step, "-", {}, 1, 1) for step in (1, 2, 4))
            channel.offer(StepsEnded(n - 1, stale))
            channel.offer(StepsEnded(n, steps[:2] if message.stream_steps else ()))
            channel.offer(StepsEnded(n, steps[2:]))
            time.sleep(0.3)  # another socket: the reply would overtake them
            channel.send(ScriptSucceeded(n, 4, "d", steps, ChecksDone(("pages",), 4)))
        case "after_stale_replies":
            channel.send(ScriptSucceeded(n - 1, 1, "stale"))
            channel.send(ScriptFailed(n + 7, "failed", "E", "stale", "", ""))
            channel.send(ScriptSucceeded(n, 1, "fresh"))
        case "never_answers":
            deaf_to_the_wire()
        case "never_ends":
            for step in range(10**9):
                progress.tick(n, step)
                time.sleep(0.01)
        case "exits":
            print("about to exit", flush=True)
            os._exit(3)
        case "lets_go_of_the_wire":  # as one that tears down a GPU's context before it ends
            channel.send(ScriptSucceeded(n, 1, "last"))
            channel.close()
            print("has let go", flush=True)
            time.sleep(0.7)
            os._exit(3)
        case "loses_a_worker":
            worker.kill()
        case "reports":
            report = OutOfBandError("rank 1", worker.pid, "OSError", "no memory", "Tb: rank 1")
            report_out_of_band(address, report)
        case "speaks_out_of_turn":
            stranger = EngineSideChannel(SessionAddress(address.directory, "a guess"))
            stranger.close()
            channel.send(HookReady(1, "fake", "1", (), {}, ("step",)))
            channel.send(ScriptSucceeded(n, 1, "d"))


def deaf_to_the_wire():
    forever()


if __name__ == "__main__":
    main()
