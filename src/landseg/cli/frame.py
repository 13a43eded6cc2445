"""The frame of every command: the options that all have, its result on stdout, its errors as exit codes. It knows no verb."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

import click

from landseg.core import processes

F = TypeVar("F", bound=Callable[..., Any])


class Result(Protocol):
    """What every verb returns: a text for people and a document for programs."""

    def as_text(self) -> str: ...
    def as_json(self) -> dict[str, Any]: ...


class Verbs(click.Group):
    """Verbs in the order of a journey, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class WithDefault(Verbs):
    """Commands of which the first needs no name: ``landseg runs DIR`` is ``landseg runs list DIR``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the first command's name before arguments that begin with none."""
        return super().parse_args(ctx, self.named(args))

    def named(self, words: list[str]) -> list[str]:
        """The arguments with a command's name before them."""
        is_named = bool(words) and (words[0] in self.commands or words[0] in ("--help", "-h"))
        return words if is_named else [next(iter(self.commands)), *words]


def runs_model(command: F) -> F:
    """What the two verbs that run a model share: an option, and that their process, which is ours, keeps its memory."""

    @wraps(command)
    def wrapped(**arguments: Any) -> Any:
        from landseg.core.allocation import keep_memory

        keep_memory()
        return command(**arguments)

    words = "Test-time augmentation: mean over eight flips and turns, or three scales. [default: predict.tta]"
    return click.option("--tta", type=click.Choice(["none", "d4", "scales"]), help=words)(wrapped)  # type: ignore[return-value]


def common(*, settings: bool = True, overwrite: bool = True) -> Callable[[F], F]:
    """The options that every verb takes, and the one place where results are printed and errors become exit codes."""

    def decorate(command: F) -> F:
        @wraps(command)
        def wrapped(*, as_json: bool, verbose: bool, debug: bool, **arguments: Any) -> None:
            log_to_stderr(verbose or debug)
            if "set_" in arguments:
                arguments["settings"] = arguments.pop("set_")
            _finish(lambda: _alone_or_shared(command)(**arguments), as_json=as_json, debug=debug)

        options: list[Callable[[Any], Any]] = []
        if settings:
            options += [
                click.option("-c", "recipe", metavar="RECIPE", help="Recipe: a shipped one's name (`landseg recipe list`) or a YAML file."),
                click.option("--set", "set_", metavar="KEY=VALUE", multiple=True, help="One setting over the recipe; repeatable."),
            ]
        if overwrite:
            options.append(click.option("--overwrite", is_flag=True, help="Replace an output that exists."))
        options += [
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
            click.option("-v", "verbose", is_flag=True, help="Say more on stderr."),
            click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        ]
        result: Any = wrapped
        for option in reversed(options):
            result = option(result)
        return result  # type: ignore[no-any-return]

    return decorate


def _alone_or_shared(command: F) -> F:
    """The command, unless several processes were started for one that would do the same work in each of them.

    Raises:
        LandsegError: They were.
    """
    from landseg.core.errors import LandsegError

    if processes.count() > 1 and command.__name__ != "train":
        name = command.__name__.replace("_", "-")
        found = f"{processes.count()} processes of `landseg {name}`"
        raise LandsegError("torchrun", found, "one: `train` alone shares its work", "the same command without torchrun")
    return command


def _finish(work: Callable[[], Result], *, as_json: bool, debug: bool) -> None:
    """Run a verb, print its result, and end with the contract's exit code."""
    from landseg.core.errors import LandsegError

    try:
        result = work()
        if processes.is_first():
            click.echo(json.dumps(result.as_json(), ensure_ascii=False) if as_json else result.as_text())
    except LandsegError as error:
        if debug:
            traceback.print_exc()
        if error.result is not None:
            click.echo(json.dumps(error.result.as_json(), ensure_ascii=False) if as_json else error.result.as_text())
        click.echo(f"{_name()}: {error}", err=True)
        sys.exit(3 if error.is_gate else 2)
    except KeyboardInterrupt:
        if processes.is_first():
            click.echo("landseg: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`); Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _name() -> str:
    """Who says what went wrong."""
    return "landseg" if processes.is_first() else f"landseg (process {processes.number()} of {processes.count()})"


def log_to_stderr(verbose: bool) -> None:
    handler = logging.StreamHandler()
    if not processes.is_first():
        handler.setLevel(logging.ERROR)  # the first one says what all of them do
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("landseg")
    log.handlers[:] = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


def run_main(main: click.Group) -> None:
    """Run the command line, with wrong usage told in one line."""
    try:
        sys.exit(main(standalone_mode=False, prog_name="landseg"))
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "landseg"
        click.echo(f"{path}: {error.format_message().rstrip('.')}; `{path} --help` shows what there is", err=True)
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
