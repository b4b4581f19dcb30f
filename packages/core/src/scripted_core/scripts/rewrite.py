"""Compile test modules with pytest's own assertion rewriting, outside a pytest run.

A failed ``assert`` in a script then shows the same introspection as in any test. Without pytest's
rewriter (another pytest, say) the plain compile is used and only the introspection is lost.
"""

from __future__ import annotations

import ast
import types

from _pytest.assertion import util
from _pytest.assertion.rewrite import rewrite_asserts


def compile_rewritten(source: bytes, path: str) -> types.CodeType:
    """Code of a module with its asserts rewritten; ``SyntaxError`` as from ``compile``."""
    tree = ast.parse(source, filename=path)
    rewrite_asserts(tree, source, path)
    return compile(tree, path, "exec", dont_inherit=True)


def install_comparison_details() -> None:
    """Let rewritten comparisons explain themselves (which element, which key differs)."""
    if util._reprcompare is None:
        util._reprcompare = _explain


def _explain(op: str, left: object, right: object) -> str | None:
    # The explainer is not public and its signature moves between releases of pytest: a failure of
    # it costs the details of the comparison and nothing else.
    try:
        lines = list(
            util.assertrepr_compare(
                op,
                left,
                right,
                verbose=1,
                highlighter=lambda source, lexer="python": source,
                assertion_text_diff_style="ndiff",
            )
        )
    except Exception:
        return None
    if not lines:
        return None
    return "\n~".join(line.replace("\n", "\\n") for line in lines).replace("%", "%%")
