"""What kits stand on: a typed client of serving engines, reports, and `scripted kit`.

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from scripted_kit_client._version import __version__

if TYPE_CHECKING:
    from scripted_kit_client.client import ServerClient, ServerFacts, open_client
    from scripted_kit_client.errors import (
        CheckFailed,
        ConnectionBroken,
        KitFailed,
        RequestRefused,
        RequestTimedOut,
        ServerUnreachable,
    )
    from scripted_kit_client.kit import Kit, KitRun, Probe, run_probes
    from scripted_kit_client.launching import (
        DEFAULT_DRAFT_MODEL_EAGLE3,
        DEFAULT_MODEL_NAME_FOR_TEST,
        DEFAULT_TARGET_MODEL_EAGLE3,
        DEFAULT_TIMEOUT_FOR_SERVER_LAUNCH,
        DEFAULT_URL_FOR_TEST,
        free_url,
        kill_process_tree,
        popen_launch_server,
    )
    from scripted_kit_client.options import option
    from scripted_kit_client.progress import NoProgress, Progress
    from scripted_kit_client.replies import Generation, StreamEvent, TokenLogprob
    from scripted_kit_client.report import Check, KitReport, Outcome, Series, Table
    from scripted_kit_client.running import run_and_judge, run_installed
    from scripted_kit_client.target import Api, Target
    from scripted_kit_client.unittest_case import CustomTestCase, KitMixin

_WHERE = {
    "client": ("ServerClient", "ServerFacts", "open_client"),
    "errors": (
        "CheckFailed",
        "ConnectionBroken",
        "KitFailed",
        "RequestRefused",
        "RequestTimedOut",
        "ServerUnreachable",
    ),
    "kit": ("Kit", "KitRun", "Probe", "run_probes"),
    "launching": (
        "DEFAULT_DRAFT_MODEL_EAGLE3",
        "DEFAULT_MODEL_NAME_FOR_TEST",
        "DEFAULT_TARGET_MODEL_EAGLE3",
        "DEFAULT_TIMEOUT_FOR_SERVER_LAUNCH",
        "DEFAULT_URL_FOR_TEST",
        "free_url",
        "kill_process_tree",
        "popen_launch_server",
    ),
    "options": ("option",),
    "progress": ("NoProgress", "Progress"),
    "replies": ("Generation", "StreamEvent", "TokenLogprob"),
    "report": ("Check", "KitReport", "Outcome", "Series", "Table"),
    "running": ("run_and_judge", "run_installed"),
    "target": ("Api", "Target"),
    "unittest_case": ("CustomTestCase", "KitMixin"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "DEFAULT_DRAFT_MODEL_EAGLE3",
    "DEFAULT_MODEL_NAME_FOR_TEST",
    "DEFAULT_TARGET_MODEL_EAGLE3",
    "DEFAULT_TIMEOUT_FOR_SERVER_LAUNCH",
    "DEFAULT_URL_FOR_TEST",
    "Api",
    "Check",
    "CheckFailed",
    "ConnectionBroken",
    "CustomTestCase",
    "Generation",
    "Kit",
    "KitFailed",
    "KitMixin",
    "KitReport",
    "KitRun",
    "NoProgress",
    "Outcome",
    "Probe",
    "Progress",
    "RequestRefused",
    "RequestTimedOut",
    "Series",
    "ServerClient",
    "ServerFacts",
    "ServerUnreachable",
    "StreamEvent",
    "Table",
    "Target",
    "TokenLogprob",
    "__version__",
    "free_url",
    "kill_process_tree",
    "open_client",
    "option",
    "popen_launch_server",
    "run_and_judge",
    "run_installed",
    "run_probes",
]


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
