"""A prefill/decode pair of servers under one script, whatever the engine.

The script runs in the decode engine's scheduler. While it holds the engine, the prefill engine's
scheduler is held as well: for each iteration of the script it runs one of its own first, when it is
told to, and reports what it looks like then. They talk over a socket of the session. Between scripts
both run free. Nothing of the engine's own is used for that, nor changed: its requests come through a
router (`router`), and its KV goes the way that it always goes.
"""

from __future__ import annotations

from scripted_hook.pair.partner import Partner
from scripted_hook.pair.ports import CountsMessages, FollowsPair, LeadsPair
from scripted_hook.pair.remote import RemoteKvPool, RemoteSide
from scripted_hook.pair.transfer import UncontrolledTransfer, stage_of
from scripted_hook.pair.views import PREFILL_SUFFIX, SideView

__all__ = [
    "PREFILL_SUFFIX",
    "CountsMessages",
    "FollowsPair",
    "LeadsPair",
    "Partner",
    "RemoteKvPool",
    "RemoteSide",
    "SideView",
    "UncontrolledTransfer",
    "stage_of",
]
