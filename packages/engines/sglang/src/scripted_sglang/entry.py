"""SGLang's way in: called through the entry-point group ``sglang.srt.plugins`` in every process.

Outside a session (``SCRIPTED_WIRE`` unset) nothing is imported and no hook is registered.
"""

from __future__ import annotations

import os
import sys

_SCHEDULER_MODULE = "sglang.srt.managers.scheduler"
_DETOKENIZER_MODULE = "sglang.srt.managers.detokenizer_manager"


def attach() -> None:
    """Announce this process of a session's own engine; hook it if it is a scheduler's.

    SGLang imports its scheduler module before it loads plugins in a scheduler process, and only
    there: hooking it from another process would import it there as well, for seconds.
    """
    if not os.environ.get("SCRIPTED_WIRE") or os.environ.get("SCRIPTED_ENGINE") != "sglang":
        return
    from scripted_core.wire.address import address_from_env

    address = address_from_env(os.environ)
    assert address is not None, "the variable was there a moment ago"
    if _SCHEDULER_MODULE not in sys.modules:
        address.announce("detokenizer" if _DETOKENIZER_MODULE in sys.modules else "main")
        return
    address.announce("scheduler")
    from scripted_sglang.hooks import register

    register(address)
