"""SGLang's own scripted harness on the same scripts: a process of its own, driven by a plan file.

It runs as ``python -m bench.peer PLAN OUT`` with the environment of an engine process, since that
harness starts the server from the process that it is imported in. Times are taken in the same places
as ours, and written to ``OUT`` as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from bench.server_times import Plan, measure_server


def main() -> None:
    """Start SGLang's harness with the engine arguments of the plan, and measure."""
    plan_file, out = (Path(argument) for argument in sys.argv[1:])
    plan = Plan.read(plan_file)
    from sglang.test.scripted_runtime.http_server import ScriptedHttpServer

    start = time.perf_counter()
    server = ScriptedHttpServer.start(**plan.engine_kwargs)
    started_s = time.perf_counter() - start
    times = measure_server(lambda script, args: server.execute_script(script, args=args), plan=plan)
    times.start.append(started_s)
    out.write_text(json.dumps(times.as_json()), encoding="utf-8")
    # Its shutdown waits a minute for a server that does not end, and then ends it. Whoever started
    # this process ends its group instead, the server included.
    os._exit(0)


if __name__ == "__main__":
    main()
