"""The embedded reference engine of scripted: a small scheduler whose every token can be foretold.

Kept light to import: the engine is in `scripted_reference.scheduler`, its arguments are in
`scripted_reference.args`.
"""

from __future__ import annotations

from scripted_reference.models.closed_form import expected_output

__all__ = ["expected_output"]
