"""Turns a subunit stream on stdin into JSON on stdout: {test: [status, why]}. It is run by tempest's Python, which has what reads streams."""

import json
import re
import sys

import subunit
import testtools

tests = {}


def ended(test):
    """One test, or the setting up of one class of tests."""
    texts = {name: content.as_text().strip() for name, content in test["details"].items() if content.content_type.type == "text"}
    traceback = "\n".join(text for name, text in sorted(texts.items()) if name.startswith("traceback"))
    why = texts.get("reason", "") if test["status"] == "skip" else traceback
    tests[re.sub(r"\[[^\]]*\]", "", test["id"])] = [test["status"], why]


result = testtools.StreamToDict(ended)
result.startTestRun()
subunit.ByteStreamToStreamResult(sys.stdin.buffer, non_subunit_name="stdout").run(result)
result.stopTestRun()
json.dump(tests, sys.stdout)
