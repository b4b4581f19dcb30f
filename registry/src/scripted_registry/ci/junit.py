"""The results of a shard as JUnit XML, in the dialect of pytest and, for retries, of Surefire.

Unlike pytest's own file it is of all attempts together and also there when pytest was killed:
a test that passed in a retry is a passed one with `<flakyFailure>`, one that never did has a
`<rerunFailure>` for every retry, and one without a result is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from scripted_registry.ci.results import Attempt, Outcome, TestResult

_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(results: Sequence[TestResult], *, suite: str, wall_s: float) -> bytes:
    """Return the document."""
    root = ElementTree.Element("testsuites")
    counts = {outcome: sum(r.outcome is outcome for r in results) for outcome in Outcome}
    skipped = counts[Outcome.SKIPPED] + counts[Outcome.XFAILED]
    element = ElementTree.SubElement(
        root,
        "testsuite",
        name=suite,
        tests=str(len(results)),
        failures=str(counts[Outcome.FAILED]),
        errors=str(counts[Outcome.ERROR] + counts[Outcome.MISSING]),
        skipped=str(skipped),
        time=f"{wall_s:.3f}",
    )
    for result in results:
        _case(element, result)
    ElementTree.indent(root, " ")
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _case(suite: ElementTree.Element, result: TestResult) -> None:
    class_name, name = address(result.nodeid)
    seconds = sum(attempt.seconds for attempt in result.attempts)
    case = ElementTree.SubElement(
        suite, "testcase", classname=_text(class_name), name=_text(name), time=f"{seconds:.3f}"
    )
    bad = [attempt for attempt in result.attempts if attempt.outcome.is_bad]
    if result.outcome is Outcome.FLAKY:
        properties = ElementTree.SubElement(case, "properties")
        ElementTree.SubElement(
            properties, "property", name="flake_rate", value=f"{result.flake_rate:.3f}"
        )
    for place, attempt in enumerate(bad):
        again = "rerun" if place else ""
        _failure(case, attempt, kind="flaky" if result.outcome is Outcome.FLAKY else again)
    last = result.attempts[-1]
    if last.outcome in (Outcome.SKIPPED, Outcome.XFAILED):
        ElementTree.SubElement(
            case, "skipped", type=f"pytest.{last.outcome}", message=_first_line(last.message)
        )


def _failure(case: ElementTree.Element, attempt: Attempt, *, kind: str) -> None:
    tag = "failure" if attempt.outcome is Outcome.FAILED else "error"
    element = ElementTree.SubElement(
        case,
        f"{kind}{tag.capitalize()}" if kind else tag,
        message=_first_line(attempt.crash or attempt.message),
    )
    element.text = _text("\n".join(part for part in (attempt.message, attempt.output) if part))


def address(nodeid: str) -> tuple[str, str]:
    """Return a node id as JUnit's class name and name, as pytest writes them."""
    path, bracket, parameters = nodeid.partition("[")
    names = path.split("::")
    names[0] = re.sub(r"\.py$", "", names[0].replace("/", "."))
    names[-1] += bracket + parameters
    return ".".join(names[:-1]), names[-1]


def _first_line(text: str) -> str:
    return _text(text.strip().partition("\n")[0])


def _text(text: str) -> str:
    """`text` with what XML cannot hold written as an escape."""
    return _NOT_IN_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
