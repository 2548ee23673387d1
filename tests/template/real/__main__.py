"""Real chat templates: fetched, and what quire makes of them.

`python -m tests.template.real fetch FOLDER` fetches the set that the manifest names.
`... measure FOLDER [NAME ...]` prints what is wrong with the templates of a folder, of the set or not:
renderings beside transformers' `apply_chat_template`, and answers that a template writes, read back.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from quire.errors import QuireError
from tests.template.real.measure import READING, RENDERING, Finding, Measure
from tests.template.real.reference import fixed_time
from tests.template.real.templates import fetch, read_folder, read_manifest


def measure(templates: dict[str, str], *, read: bool, compare: bool, quiet: bool) -> list[Finding]:
    """Measure templates, and print a line for each and what is wrong with it."""
    findings: list[Finding] = []
    for name, text in templates.items():
        try:
            with fixed_time():
                one = Measure(name, text)
                found = one.finding
                if compare:
                    one.compare()
                if read:
                    one.read()
        except QuireError as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            continue
        findings.append(found)
        tools = one.reader.template.tool_format
        shows = [word for word in ("tools", "calls", "thoughts") if getattr(found, f"shows_{word}")]
        counts = " ".join(one for one in (found.renderings, found.readings) if one)
        print(f"{name}: {counts} shows {' '.join(shows) or 'neither'}; "
              f"{tools.name if tools else 'no tool format'}", flush=True)  # fmt: skip
        for line in () if quiet else found.details:
            print(f"    {line}")
    return findings


def summary(findings: list[Finding]) -> str:
    """Counts over all templates."""
    renderings, readings = Counter[str](), Counter[str]()
    for found in findings:
        renderings.update(found.renderings)
        readings.update(found.readings)
    said: list[str] = []
    if renderings:
        whole = sum(found.renders for found in findings)
        said.append(f"Rendered: {whole} of {len(findings)} templates, all conversations.")
        said += [f"  {renderings[key]} {what}" for key, what in RENDERING.items()]
    if readings:
        calling = [found for found in findings if found.shows_calls]
        whole = sum(found.reads for found in calling)
        said.append(f"Read: {whole} of {len(calling)} templates that show calls, all answers; "
                    f"{sum(found.reads for found in findings)} of all {len(findings)}.")  # fmt: skip
        said += [f"  {readings[key]} {what}" for key, what in READING.items()]
    return "\n".join(said)


def main(words: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.template.real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["fetch", "measure", "read", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="only templates whose names hold one of these")
    parser.add_argument("--quiet", action="store_true", help="one line a template")
    given = parser.parse_args(words)
    if given.command == "fetch":
        problems = list(fetch(read_manifest(), given.folder))
        print("\n".join(problems) or f"All templates of the set are in {given.folder}.")
        return 1 if problems else 0
    templates = {
        name: text
        for name, text in read_folder(given.folder).items()
        if not given.names or any(one in name for one in given.names)
    }
    findings = measure(
        templates,
        read=given.command != "compare",
        compare=given.command != "read",
        quiet=given.quiet,
    )
    print(summary(findings))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
