"""The fixture `pd_pair`. Nothing heavy is imported here: pytest loads this in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scripted_core.sessions.base import Session

    from scripted_backend_pd.pair_client import PdPair


@pytest.fixture
def pd_pair(scripted_session: Session) -> PdPair:
    """The pair of servers of `@pytest.mark.scripted(**pair_kwargs())`, on the engine of the run.

    It is that of `scripted_session`. An engine that runs in the process of its tests is skipped.
    """
    from scripted_core import ScriptedHttpServer

    from scripted_backend_pd.pair_client import PdPair

    name = scripted_session.config.engine
    if not isinstance(scripted_session, ScriptedHttpServer):
        pytest.skip(
            f"engine {name!r} runs in this process and has no URLs: --scripted-backend {name}:server"
        )
    return PdPair.of(scripted_session)
