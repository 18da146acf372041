"""What these tests found is printed at the end, by whichever process they ran in."""

import pytest

FOUND = "conformance"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print each test's findings."""
    found = [
        (report.nodeid, value)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == FOUND
    ]
    if found:
        terminalreporter.section("conformance")
    for _, text in sorted(found):
        terminalreporter.write_line(text)
        terminalreporter.write_line("")
