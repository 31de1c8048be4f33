#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The checkers on trees made to break one rule each: a checker that cannot fail checks nothing. TAP."""
import pathlib
import subprocess
import sys
import tempfile

TOOLS = pathlib.Path(__file__).resolve().parent.parent.parent / "tools"
SPDX = "SPDX-License-Identifier: Apache-2.0"
GOOD_C = f"/* {SPDX} */\n#include \"base/buf.h\"\n\nint buf_len(void)\n{{\n\treturn 0;\n}}\n"
GOOD_H = f"/* {SPDX}\n *\n * A buffer. Its maker owns it.\n */\nint buf_len(void);\n"
GOOD = {"src/base/buf.c": GOOD_C, "src/base/buf.h": GOOD_H, "src/loop/loop.h": GOOD_H,
        "src/role/orchestratord/wire_up.c": GOOD_C, "keeper/keeper.c": f"/* {SPDX} */\n"}


def including(target, system=False):
    return f"/* {SPDX} */\n#include {'<' + target + '>' if system else chr(34) + target + chr(34)}\n"


def function(lines=3, params="void", body=""):
    return f"/* {SPDX} */\nint f({params})\n{{\n" + body + "\n" * (lines - 2 - body.count("\n")) + "}\n"


# (what is wrong, checker, files beside the good ones, a word of the rule that must fail)
BREAKS = [
    ("placement includes loop", "check_includes.py", {"src/placement/p.c": including("loop/loop.h")},
     "placement/ includes what it may"),
    ("base includes loop", "check_includes.py", {"src/base/x.c": including("loop/loop.h")},
     "base/ includes what it may"),
    ("orchestratord includes supervise", "check_includes.py",
     {"src/supervise/s.h": GOOD_H, "src/role/orchestratord/x.c": including("supervise/s.h")},
     "role/orchestratord/ includes what it may"),
    ("one role includes another", "check_includes.py",
     {"src/role/engine_provisioner/e.h": GOOD_H,
      "src/role/orchestratord/x.c": including("role/engine_provisioner/e.h")},
     "role/orchestratord/ includes what it may"),
    ("a folder nobody listed", "check_includes.py", {"src/misc/x.c": GOOD_C}, "every folder is in the table"),
    ("an include without its folder", "check_includes.py", {"src/base/x.c": including("buf.h")},
     "includes are written from src/"),
    ("another folder's foo_int.h", "check_includes.py",
     {"src/loop/loop_int.h": GOOD_H, "src/net/x.c": including("loop/loop_int.h")}, "foo_int.h stays"),
    ("uv.h outside loop", "check_includes.py", {"src/net/x.c": including("uv.h", True)}, "outside libraries"),
    ("keeper includes base", "check_includes.py", {"keeper/x.c": including("base/buf.h")},
     "keeper/ includes nothing"),
    ("fetch includes loop", "check_includes.py", {"fetch/x.c": including("loop/loop.h")},
     "fetch/ includes nothing of src/ but base"),
    ("a ring of folders", "check_includes.py",
     {"src/pool/p.h": including("proxy/x.h"), "src/proxy/x.h": including("pool/p.h")}, "one direction"),
    ("121 lines of function", "check_source.py", {"src/base/x.c": function(121)}, "functions are at most"),
    ("eight parameters", "check_source.py",
     {"src/base/x.c": function(3, "int a, int b, int c, int d, int e, int (*f)(int, int), int g, int h")},
     "parameters"),
    ("1001 lines of file", "check_source.py", {"src/base/x.c": f"/* {SPDX} */\n" + "\n" * 1000},
     "files are at most"),
    ("401 lines of header", "check_source.py", {"src/base/x.h": GOOD_H + "\n" * 396}, "files are at most"),
    ("111 columns", "check_source.py", {"src/base/x.c": f"/* {SPDX} */\nstatic int {'x' * 99};\n"},
     "columns"),
    ("strcpy", "check_source.py", {"src/base/x.c": function(4, body="\tstrcpy(a, b);\n")}, "banned"),
    ("sleep in a test", "check_source.py", {"tests/unit/x.c": function(4, body="\tsleep(1);\n")}, "banned"),
    ("typedef struct", "check_source.py",
     {"src/base/x.h": GOOD_H + "typedef struct { int a; int b; } pair;\n"},
     "typedef"),
    ("goto backwards", "check_source.py",
     {"src/base/x.c": function(6, body="again:\n\tf();\n\tgoto again;\n")},
     "goto"),
    ("no SPDX line", "check_source.py", {"src/base/x.c": "int x(void);\n"}, "SPDX"),
    ("a header without a head", "check_source.py", {"src/base/x.h": f"/* {SPDX} */\nint x(void);\n"},
     "header"),
    ("a path of one machine", "check_source.py", {"docs/x.md": "see /wo" + "rk/tree\n"}, "one machine"),
    ("a registry's host", "check_source.py", {"docs/x.md": "https://deb.deb" + "ian.org/\n"}, "one machine"),
    ("an exported variable", "check_source.py", {"src/base/x.c": f"/* {SPDX} */\nint counter;\n"}, "mutable"),
    ("orchestratord calls supervise", "check_source.py",
     {"src/supervise/s.c": f"/* {SPDX} */\nint keeper_start(void)\n{{\n\treturn 0;\n}}\n",
      "src/role/orchestratord/x.c":
      f"/* {SPDX} */\nint keeper_start(void);\nint x(void)\n{{\n\treturn keeper_start();\n}}\n"},
     "linked without"),
]
# What must not be found: a rule that fires on these would be switched off soon.
FINE = {"src/base/x.c": f"/* {SPDX} strcpy( in a comment */\nstatic int counter;\n"
        "const char *const names[] = { \"a\" };\n"
        "/* atoi(x) */\nint g(void);\nint g(void)\n{\n\tconst char *s = \"sprintf(\";\n"
        "\tif (!s)\n\t\tgoto out;\n"
        "\tcounter++;\nout:\n\treturn counter;\n}\n",
        "src/base/t.h": GOOD_H + "typedef struct {\n\tint ns;\n} mono_t;\n",
        "src/loop/x.c": including("uv.h", True), "src/net/net.c": including("loop/loop.h")}


def build(root):
    """What nm reads: one static library a folder, as Meson makes them."""
    for folder in sorted({path.parent for path in (root / "src").rglob("*.c")}):
        name = "_".join(folder.relative_to(root / "src").parts)
        objects = []
        for number, source in enumerate(sorted(folder.glob("*.c"))):
            out = root / "out" / f"{name}{number}.o"
            out.parent.mkdir(exist_ok=True)
            compile_it = ["gcc", "-w", "-fPIC", "-I", str(root / "src"), "-c", str(source), "-o", str(out)]
            done = subprocess.run(compile_it, capture_output=True)
            if done.returncode == 0:
                objects.append(str(out))
        if objects:
            subprocess.run(["ar", "rcs", str(root / "out" / f"libcorral_{name}.a"), *objects], check=True)


def run(checker, files, with_build):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {**GOOD, **files}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        command = [sys.executable, str(TOOLS / checker)]
        if checker == "check_source.py":
            command += ["--root", str(root)]
            if with_build:
                build(root)
                command += ["--build", str(root / "out")]
        else:
            command += [str(root)]
        return subprocess.run(command, capture_output=True, text=True)


def failed_rules(done):
    return [line for line in done.stdout.splitlines() if line.startswith("not ok")]


def main():
    number, failures = 0, 0
    print(f"1..{len(BREAKS) + 2}")
    for title, checker, files, rule in BREAKS:
        number += 1
        done = run(checker, files, rule in ("mutable", "linked without"))
        failed = failed_rules(done)
        expected = 2 if rule == "one direction" else 1
        good = done.returncode == 1 and len(failed) == expected and rule in failed[0]
        failures += not good
        print(f"{'ok' if good else 'not ok'} {number} - {checker} finds: {title}")
        if not good:
            print("  # " + done.stdout.replace("\n", "\n  # ") + done.stderr.replace("\n", "\n  # "))
    for checker in ("check_includes.py", "check_source.py"):
        number += 1
        done = run(checker, FINE, True)
        good = done.returncode == 0 and not failed_rules(done) and done.stdout.count("\nok") > 5
        failures += not good
        print(f"{'ok' if good else 'not ok'} {number} - {checker} accepts a good tree")
        if not good:
            print("  # " + done.stdout.replace("\n", "\n  # ") + done.stderr)
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
