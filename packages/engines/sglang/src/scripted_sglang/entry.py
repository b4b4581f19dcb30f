"""SGLang's way in: called through the entry-point group ``sglang.srt.plugins`` in every process.

Outside a session, and unless it is told to listen for test clients (``SCRIPTED_WIRE`` and
``SCRIPTED_LISTEN`` unset), nothing is imported and no hook is registered.
"""

from __future__ import annotations

import os
import sys

_SCHEDULER_MODULE = "sglang.srt.managers.scheduler"
_DETOKENIZER_MODULE = "sglang.srt.managers.detokenizer_manager"
_CONTROLLER_TITLE = "sglang::data_parallel_controller"


def attach() -> None:
    """Announce this process of a session's own engine; hook it if it is a scheduler's.

    SGLang imports its scheduler module before it loads plugins in a scheduler process, and only
    there: hooking it from another process would import it there as well, for seconds. A setting that
    cannot be used ends the process: SGLang swallows any other failure of a plugin.
    """
    if not (os.environ.get("SCRIPTED_WIRE") or os.environ.get("SCRIPTED_LISTEN")):
        return
    wanted = os.environ.get("SCRIPTED_ENGINE")
    if wanted != "sglang" and (wanted or os.environ.get("SCRIPTED_WIRE")):
        return
    from scripted_core.errors import ScriptedError
    from scripted_core.wire.address import open_address

    try:
        address = open_address(os.environ, engine="sglang")
    except ScriptedError as error:
        sys.exit(f"scripted: error: {error}")
    assert address is not None, "the variable was there a moment ago"
    if _SCHEDULER_MODULE not in sys.modules:
        address.announce("detokenizer" if _DETOKENIZER_MODULE in sys.modules else "main")
        return
    from scripted_core.sessions.processes import command_name

    if command_name(os.getpid()) == _CONTROLLER_TITLE:  # it has imported what it starts
        address.announce("data parallel controller")
        return
    address.announce("scheduler")
    from scripted_sglang.hooks import register

    register(address)
