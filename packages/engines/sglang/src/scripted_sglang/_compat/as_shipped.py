"""Whether the adapter makes up for SGLang's known defects, or leaves it as it was shipped.

What it makes up for is written up in `docs/findings/` of the repository, each with a script that shows
the defect; those scripts run with the variable set.
"""

from __future__ import annotations

import os
from typing import Final

ENV_AS_SHIPPED: Final = "SCRIPTED_SGLANG_AS_SHIPPED"


def is_as_shipped() -> bool:
    """Whether this process was asked to make up for nothing."""
    return bool(os.environ.get(ENV_AS_SHIPPED))
