"""Ask which of the pinned dependencies have known vulnerabilities (`make lint`).

A vulnerability ends it with 1. `make lint` shows that and goes on: an advisory is of its day, and makes no
change wrong. Where no index answers, or knows a package, that is said, and is no error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PINNED = ROOT / "constraints.txt"
SECONDS = 120
"""How long the whole may take."""


def audit() -> str:
    """Return what pip-audit found, as JSON; anything else: why it found nothing."""
    program = Path(sys.executable).with_name("pip-audit")
    options = ("--disable-pip", "--no-deps", "--format=json", "--progress-spinner=off", "--timeout=10")
    try:
        done = subprocess.run(
            [program, f"--requirement={PINNED}", *options],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout or done.stderr


def judge(found: str) -> tuple[int, list[str]]:
    """Return the exit code and what to say of what `audit` returned."""
    try:
        packages = json.loads(found)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (found.strip().splitlines() or ["no answer"])[-1]
        return 0, [f"warning: dependencies were not audited: {last}"]
    lines = [
        f"{package['name']} {package['version']}: {flaw['id']}, "
        f"{'fixed in ' + ', '.join(flaw['fix_versions']) if flaw['fix_versions'] else 'no version has a fix'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    code = 1 if lines else 0
    skipped = sum("skip_reason" in package for package in packages)
    if skipped:
        lines.append(
            f"warning: {skipped} of {len(packages)} dependencies were not audited: no index knows them"
        )
    return code, lines


if __name__ == "__main__":
    code, lines = judge(audit())
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.exit(code)
