#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Check the rules of this project that no other tool knows.

Usage: house_rules.py FILE...

FILEs are named relative to the top of the checkout.  Prints `ok` or `not ok` a rule, and
under it where it is broken.  Exit status 1 if any is.
"""

import re
import sys

UNSAFE_ROOM = "rust/xen_dma/"
MAX_LINES = 600
SOURCE = re.compile(r"(\.(rs|c|h|py|sh|config)|(^|/)(Kbuild|Kconfig|Makefile[^/]*|parameters|suites))$")
MACHINE_PATH = re.compile(r"(?<![\w$}./*)-])/(?:root|home|work|Users)/\w")

# What stands in Rust source and is no code.  A lifetime ('a) is no character.
NO_CODE = re.compile(
    r"""//[^\n]*|b?r(?P<fence>\#*)".*?"(?P=fence)|b?"(?:\\.|[^"\\])*"|b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])'""",
    re.DOTALL,
)


def blank(text):
    """`text` with everything but its line ends made spaces."""
    return re.sub(r"[^\n]", " ", text)


def code_of(source):
    """Rust source without comments, strings and characters, line for line."""
    output, position = [], 0
    token = re.compile(rf"(?P<block>/\*)|{NO_CODE.pattern}", re.DOTALL)
    while found := token.search(source, position):
        output.append(source[position : found.start()])
        position = found.end()
        if found["block"]:
            depth = 1
            for mark in re.finditer(r"/\*|\*/", source[position:]):
                depth += 1 if mark[0] == "/*" else -1
                if not depth:
                    position += mark.end()
                    break
            else:
                position = len(source)
        output.append(blank(source[found.start() : position]))
    return "".join(output) + source[position:]


def in_trait_impl(code, offset):
    """Whether the item at `offset` is directly in an `impl Trait for Type`."""
    depth = 0
    for index in range(offset - 1, -1, -1):
        if code[index] == "}":
            depth += 1
        elif code[index] == "{":
            if not depth:
                header = re.split(r"[;{}]", code[:index])[-1]
                return bool(re.search(r"\bimpl\b.*\bfor\b", header, re.DOTALL)) or "extern" in header
            depth -= 1
    return False


def documented(lines, number):
    """Whether the documentation above line `number` (from 1) has a `# Safety` section."""
    for line in reversed(lines[: number - 1]):
        stripped = line.strip()
        if stripped.startswith("///") and "# Safety" in stripped:
            return True
        if not stripped.startswith(("///", "//", "#[", "#![")) and not stripped.endswith(")]"):
            return False
    return False


def unsafe_outside(path, text):
    """Lines with `unsafe` where there must be none."""
    if not path.endswith(".rs") or path.startswith(UNSAFE_ROOM):
        return
    for number, line in enumerate(code_of(text).split("\n"), 1):
        if re.search(r"\bunsafe\b", line):
            yield number, "`unsafe` outside rust/xen_dma"


def unsafe_undocumented(path, text):
    """Unsafe functions whose documentation does not say what the caller must uphold."""
    if not path.endswith(".rs"):
        return
    code, lines = code_of(text), text.split("\n")
    for found in re.finditer(r'\bunsafe\s+(?:extern\s+(?:"C"\s+|\s*)?)?fn\s+(\w+)', code):
        number = code.count("\n", 0, found.start()) + 1
        if not documented(lines, number) and not in_trait_impl(code, found.start()):
            yield number, f"unsafe fn {found[1]} has no `# Safety` section"


def spdx_missing(path, text):
    """Source files that do not say their licence in the first two lines."""
    script = text.startswith("#!")
    if (script or SOURCE.search(path)) and "SPDX-License-Identifier: " not in "\n".join(text.split("\n")[:2]):
        yield 1, "no SPDX-License-Identifier"


def machine_paths(path, text):
    """Paths that exist on somebody's machine only."""
    for number, line in enumerate(text.split("\n"), 1):
        if found := MACHINE_PATH.search(line):
            yield number, f"a path of one machine: {line[found.start():][:40]}"


def too_long(path, text):
    """Source files that hold more than one concept."""
    count = text.count("\n")
    if count > MAX_LINES and (text.startswith("#!") or SOURCE.search(path)):
        yield count, f"{count} lines, {MAX_LINES} at most"


RULES = (
    ("unsafe only in rust/xen_dma", unsafe_outside),
    ("unsafe functions say what they need", unsafe_undocumented),
    ("a licence in every source file", spdx_missing),
    ("no path of one machine", machine_paths),
    (f"no file above {MAX_LINES} lines", too_long),
)


def main(paths):
    """Command line entry."""
    if not paths or paths[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if paths else 2
    files = []
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                files.append((path, file.read()))
        except UnicodeDecodeError:
            pass
    bad = False
    for name, rule in RULES:
        broken = [f"    {path}:{line}: {what}" for path, text in files for line, what in rule(path, text)]
        print("\n".join([f"{'not ok' if broken else 'ok'} {name}", *broken]))
        bad = bad or bool(broken)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
