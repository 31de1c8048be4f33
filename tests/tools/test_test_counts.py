#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What tools/test_counts.py says of reports of every kind, empty and broken ones included. TAP."""
import json
import pathlib
import subprocess
import sys
import tempfile

COUNTS = pathlib.Path(__file__).resolve().parent.parent.parent / "tools" / "test_counts.py"
TAP = "1..3\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no reason\n"
NODE = ("# Subtest: s\n    ok 1 - in\n  ---\n    type: 'test'\nok 1 - s\n"
        "  ---\n  duration_ms: 1\n  type: 'suite'\n"
        "not ok 2 - t\n# tests 2\n# fail 1\n# cancelled 0\n")


def meson(**fields):
    good = {"name": "t", "result": "OK", "stdout": TAP.replace("not ok", "ok"), "returncode": 0}
    return json.dumps({**good, **fields})


def feature(*statuses):
    return json.dumps([{"name": "F", "elements": [
        {"name": "S", "type": "scenario", "steps": [{"result": {"status": s}} for s in statuses]}]}])


CASES = [
    ("tap counts each line", "tap", TAP, "1 1 1"),
    ("tap: a plan not met is a failure", "tap", "1..3\nok 1 - a\n", "1 1 0"),
    ("an empty report is a failure", "tap", "", "0 1 0"),
    ("meson adds cmocka's tests", "meson", meson(), "2 0 1"),
    ("meson: a program that crashed is a failure", "meson", meson(result="FAIL", returncode=-11), "2 1 1"),
    ("meson: a program without a test is a failure", "meson", meson(stdout=""), "0 1 0"),
    ("meson: python's unittest", "meson",
     meson(stdout="", stderr="Ran 4 tests in 1s\n\nOK (skipped=1)\n"), "3 0 1"),
    ("meson: python's unittest, failed", "meson",
     meson(stdout="", stderr="Ran 4 tests in 1s\n\nFAILED (failures=1, errors=1)\n", result="FAIL"), "2 2 0"),
    ("vtc", "vtc", "#    top  TEST a.vtc passed (0.1)\n#    top  TEST b.vtc FAILED (0.1) exit=2\n"
     "#    top  TEST c.vtc skipped (0.1)\n", "1 1 1"),
    ("vtc: nothing ran", "vtc", "no such file\n", "0 1 0"),
    ("node counts leaves, not suites", "node", NODE, "1 1 0"),
    ("node: the reason of a failure is on its line", "node",
     "not ok 1 - t\n  ---\n  duration_ms: 1\n  error: |-\n    one\n    \n    two\n  code: 'E'\n  ...\n"
     "# tests 1\n# fail 1\n", "0 1 0\nfailed t (error: |- one two)"),
    ("node: a file without a test", "node", "ok 1 - x.test.mjs\n# tests 1\n# fail 0\n", "0 1 0"),
    ("node: no summary", "node", "ok 1 - a\n", "1 1 0"),
    ("cucumber: passed", "cucumber", feature("passed", "passed"), "1 0 0"),
    ("cucumber: an undefined step fails", "cucumber", feature("passed", "undefined", "skipped"), "0 1 0"),
    ("cucumber: skipped", "cucumber", feature("skipped"), "0 0 1"),
    ("cucumber: zero scenarios fail", "cucumber", "[]", "0 1 0"),
    ("cucumber: no report fails", "cucumber", "", "0 1 0"),
]


def main():
    failures = 0
    print(f"1..{len(CASES)}")
    for number, (title, kind, text, expected) in enumerate(CASES, 1):
        with tempfile.NamedTemporaryFile("w") as report:
            report.write(text)
            report.flush()
            command = [sys.executable, str(COUNTS), kind, report.name]
            done = subprocess.run(command, capture_output=True, text=True)
        lines = expected.count("\n") + 1
        got = "\n".join(done.stdout.splitlines()[:lines]) if done.stdout else done.stderr
        failures += got != expected
        print(f"{'ok' if got == expected else 'not ok'} {number} - {title}")
        if got != expected:
            print(f"  # expected {expected}, got {got}")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
