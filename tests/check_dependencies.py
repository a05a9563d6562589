# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Asks whether a version in constraints.txt has a known flaw: `python -m tests.check_dependencies`, in `make quality`.

`pip-audit` asks the databases, for which it needs the network. It says "No known vulnerabilities found", and ends as
if all were well, also where a mirror knew none of the packages. So what counts here is how many it has an answer for:
nothing passes for checked that was not. Where nothing could be asked, that is said, and is an error with `--strict`
alone (`make audit-dependencies`), so that the other checks work without a network.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
SERVICES = ("pypi", "osv")
SECONDS = 300

# Flaws that do not concern us, by their id, each with the reason. They are printed with every check.
ACCEPTED: dict[str, str] = {}


class Report(NamedTuple):
    """What a database answered: packages that it knows, packages that it does not, and flaws, a line for each."""

    checked: list[str]
    unknown: list[str]
    flaws: list[str]


def read_report(report: dict[str, Any]) -> Report:
    """What is in the JSON of `pip-audit`."""
    packages = report["dependencies"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    checked = [package["name"] for package in packages if "skip_reason" not in package]
    flaws = [
        f"{package['name']} {package['version']}: {flaw['id']}"
        f" (corrected in {', '.join(flaw['fix_versions']) or 'no release yet'}): "
        f"{' '.join(flaw.get('description', '').split()):.120}"
        for package in packages
        for flaw in package.get("vulns", ())
        if not {flaw["id"], *flaw.get("aliases", ())} & set(ACCEPTED)
    ]
    return Report(checked, unknown, flaws)


def ask(service: str, constraints: Path = CONSTRAINTS, *options: str) -> Report | str:
    """The answer of a database, or why there is none."""
    command = ["-m", "pip_audit", "--requirement", str(constraints), "--no-deps", "--disable-pip", "--timeout", "10"]
    command += ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off", *options]
    try:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} s"
    try:
        return read_report(json.loads(done.stdout))
    except ValueError:
        return (done.stderr.strip().splitlines() or ["no answer"])[-1][:300]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what is known of the pinned versions; returns 1 if there are flaws, or if nobody could tell (strict)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strict", action="store_true", help="that nothing could be asked is an error")
    strict = parser.parse_args(argv).strict
    for identifier, reason in ACCEPTED.items():
        print(f"Accepted: {identifier}: {reason}")
    for service in SERVICES:
        answer = ask(service)
        if isinstance(answer, str):
            print(f"{service} could not be asked: {answer}")
        elif answer.checked:
            return _tell(answer, service, strict)
        else:
            print(f"{service} knows none of the {len(answer.unknown)} packages: a mirror without that service?")
    print("Known flaws of dependencies: NOT CHECKED, since no database could be asked. This is no pass.")
    return int(strict)


def _tell(answer: Report, service: str, strict: bool) -> int:
    if answer.unknown:
        print(f"NOT CHECKED, since {service} does not know them: {', '.join(answer.unknown)}")
    if answer.flaws:
        print("\n".join(answer.flaws))
        return 1
    print(f"{len(answer.checked)} pinned packages have no flaw that {service} knows of.")
    return int(strict and bool(answer.unknown))


if __name__ == "__main__":
    sys.exit(main())
