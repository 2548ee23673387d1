"""Real chat templates: fetched, and what quire makes of them.

`python -m tests.template.real fetch FOLDER` fetches the set that the manifest names, over the network.
`... measure FOLDER [NAME ...]` prints what is wrong with the templates of a folder, of the set or not:
their renderings beside transformers' `apply_chat_template`, and the answers that they write, read back;
`compare` and `read` do one of the two. `--vllm` has vLLM's parsers read the same answers.
`... record FOLDER` measures the set, and records what is found for the documentation; what vLLM reads
stays as it was recorded, unless `--vllm` is given too.
`... check FOLDER` measures the set, and fails where something is not as recorded.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from quire.errors import QuireError
from tests.template.real.measure import Measure
from tests.template.real.outputs import Output, output_of, write_outputs
from tests.template.real.records import (
    READING,
    RECORDS,
    RENDERING,
    RIGHT,
    WRONG,
    Finding,
    read_records,
    write_records,
)
from tests.template.real.reference import fixed_time
from tests.template.real.templates import (
    digest,
    fetch,
    read_folder,
    read_manifest,
    read_text,
)


def measure(
    templates: dict[str, str], *, compare: bool = True, read: bool = True, vllm: bool = False
) -> Iterator[tuple[Finding, Output | None]]:
    """Measure templates; one that cannot be loaded is a finding without letters.

    With each comes what there is to record of its answers.
    """
    for name, text in templates.items():
        try:
            with fixed_time():
                one = Measure(name, text)
                if compare:
                    one.compare()
                if read or vllm:
                    one.read()
                    one.force()
                if vllm and one.finding.shows_calls:
                    from tests.template.real.vllm_parsers import read_with_vllm

                    one.finding.vllm = read_with_vllm(one)
                yield one.finding, output_of(one) if read else None
        except QuireError as error:
            details = [f"{type(error).__name__}: {error}"]
            yield Finding(name, digest(text), details=details), None


def show(found: Finding, *, quiet: bool) -> None:
    """Print a line of letters for a template, and what is wrong with it."""
    shown = [word for word in ("tools", "calls", "thoughts") if getattr(found, f"shows_{word}")]
    parts = (found.renderings, found.readings, found.forced)
    letters = " ".join(one for one in parts if one)
    vllm = found.vllm
    beside = f"; vLLM {vllm.readings} {vllm.tool_parser}, {vllm.reasoning_parser}" if vllm else ""
    print(f"{found.name}: {letters} shows {' '.join(shown) or 'nothing'}{beside}", flush=True)
    for line in () if quiet else found.details:
        print(f"    {line}")


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
        forced = Counter("".join(found.forced for found in findings))
        said.append(f"Forced: {forced[RIGHT]} answers taken and read, {forced[WRONG]} not.")
    beside = [found for found in findings if found.vllm]
    if beside:
        ours = sum(found.readings.count(RIGHT) for found in beside)
        theirs = sum(found.vllm.readings.count(RIGHT) for found in beside if found.vllm)
        said.append(f"Of the answers of {len(beside)} templates that show calls, quire reads {ours}, "
                    f"vLLM {theirs}.")  # fmt: skip
    return "\n".join(said)


def the_set(folder: Path) -> dict[str, str]:
    """The templates of the manifest, from a folder.

    Raises:
        SystemExit: the folder lacks one, or has another text.
    """
    templates: dict[str, str] = {}
    for source in read_manifest():
        path = folder / source.file_name
        text = read_text(path) if path.is_file() else ""
        if digest(text) != source.sha256:
            raise SystemExit(f"{path} is not the manifest's: `fetch {folder}` brings it.")
        templates[source.name] = text
    return templates


def keep_vllm(findings: list[Finding]) -> None:
    """Take over what vLLM's parsers read, as recorded, where it was not measured again."""
    recorded = read_records() if RECORDS.is_file() else {}
    for found in findings:
        before = recorded.get(found.name)
        if found.vllm is None and before is not None and before.sha256 == found.sha256:
            found.vllm = before.vllm


def check(findings: list[Finding]) -> list[str]:
    """What is not as recorded."""
    recorded = read_records()
    wrong: list[str] = []
    for found in findings:
        was = recorded[found.name]
        for name in ("renderings", "hashes", "readings", "forced"):
            if getattr(found, name) != getattr(was, name):
                wrong.append(
                    f"{found.name}: {name} {getattr(found, name)}, not {getattr(was, name)}"
                )
    return wrong


def main(words: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.template.real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = ("fetch", "measure", "compare", "read", "record", "check")
    parser.add_argument("command", choices=commands)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="only templates whose names hold one of these")
    parser.add_argument("--quiet", action="store_true", help="one line a template")
    parser.add_argument("--vllm", action="store_true", help="and what vLLM's parsers read")
    given = parser.parse_args(words)
    if given.command == "fetch":
        problems = list(fetch(read_manifest(), given.folder))
        print("\n".join(problems) or f"All templates of the set are in {given.folder}.")
        return 1 if problems else 0
    of_set = given.command in ("record", "check")
    templates = the_set(given.folder) if of_set else read_folder(given.folder)
    wanted = given.names or [""]
    templates = {name: templates[name] for name in templates if any(one in name for one in wanted)}
    findings: list[Finding] = []
    outputs: list[Output] = []
    for found, output in measure(
        templates,
        compare=given.command != "read",
        read=given.command != "compare",
        vllm=given.vllm,
    ):
        findings.append(found)
        outputs += [output] if output else []
        show(found, quiet=given.quiet or of_set)
    print(summary(findings))
    if given.command == "record":
        keep_vllm(findings)
        write_records(findings)
        write_outputs(outputs)
    problems = check(findings) if given.command == "check" else []
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
