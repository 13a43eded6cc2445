"""The command line: the only wing that knows click."""

from __future__ import annotations

from landseg.cli.commands import main as main
from landseg.cli.frame import run_main


def run() -> None:
    """The command `landseg`."""
    run_main(main)
