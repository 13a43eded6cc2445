"""Write the generated pages: reference/commands.md from the command line's help, reference/recipe.md from the settings' schema.

Run it as ``python docs/generate.py`` (or ``make docs``); tests/repo/test_docs.py fails while the pages are out of date. It writes nothing
by hand: a wrong word here is mended in `landseg.cli.commands` or `landseg.core.settings`.
"""

from __future__ import annotations

import inspect
import re
from itertools import groupby
from pathlib import Path

import click

from landseg.cli import main
from landseg.core.config import fields, recipe_names, recipe_text
from landseg.core.files import write_text
from landseg.core.settings import Recipe

FOLDER = Path(__file__).parent / "reference"
_NOTE = "<!-- Written by docs/generate.py; change {where} instead. -->"
_COMMON = ("-c", "--set", "--overwrite", "--json", "-v", "--debug", "--help")


def pages() -> dict[Path, str]:
    """The text of each generated page, by its path."""
    return {FOLDER / "commands.md": commands_page(), FOLDER / "recipe.md": recipe_page()}


def commands_page() -> str:
    """Every command with its arguments and options."""
    leaves = [(words, command) for words, command in walk(main) if not isinstance(command, click.Group)]
    lines = [
        "# Commands",
        "",
        _NOTE.format(where="src/landseg/cli/commands.py"),
        "",
        "In the order of a journey: "
        + ", ".join(f"[`{' '.join(words)}`](#{_anchor('landseg', *words)})" for words, _ in leaves)
        + ". `landseg COMMAND --help` says the same.",
        "",
        "## What every command has in common",
        "",
        *_table("option", _common_options()),
        "",
        "Results go to stdout, progress and logs to stderr. A command that has no such option has no use for it.",
        "",
        "| exit code | meaning |",
        "|---:|---|",
        "| 0 | done |",
        "| 1 | a bug of ours, with a traceback |",
        "| 2 | something that you can mend, in one line: what, what was found, what is needed, what to do |",
        "| 3 | a stated gate failed: `--require`, or a submission that breaks a rule |",
        "| 130 | interrupted |",
    ]
    for words, command in leaves:
        lines += ["", *_command(words, command)]
    return "\n".join(lines) + "\n"


def recipe_page() -> str:
    """Every setting by section, and the shipped recipes."""
    lines = [
        "# Recipe: every setting",
        "",
        _NOTE.format(where="src/landseg/core/settings.py or src/landseg/recipes/"),
        "",
        "A recipe is one YAML file of sections and keys; every key is optional. The order is: defaults, then the recipe of `-c` (`default`",
        "when none is named), then `--set section.key=value`, the value in YAML: `--set train.lr=1e-3`, `--set predict.bands=[1,2,3]`.",
        "A key that does not exist, or a value of another type, is an error that names the nearest key. `landseg recipe show NAME`",
        "prints the same with the values of that recipe, in a form that `-c` reads back.",
    ]
    for section, group in groupby(fields(), key=lambda row: row[0].partition(".")[0]):
        about = inspect.getdoc(Recipe.model_fields[section].default.__class__) or ""
        lines += ["", f"## {section}", "", about, "", "| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [f"| `{key}` | {_cell(kind)} | `{default}` | {_cell(text)} |" for key, kind, default, text in group]
    lines += ["", "## Shipped recipes"]
    for name in recipe_names():
        lines += ["", f"### {name}", "", "```yaml", recipe_text(name).rstrip(), "```"]
    return "\n".join(lines) + "\n"


def walk(group: click.Group, *before: str) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group, groups included, with the words that call it."""
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.commands[name]
        found.append(((*before, name), command))
        if isinstance(command, click.Group):
            found += walk(command, *before, name)
    return found


def _command(words: tuple[str, ...], command: click.Command) -> list[str]:
    context = click.Context(command, info_name=" ".join(("landseg", *words)))
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    lines = [f"## {context.command_path}", "", "```text", usage, "```", "", *_paragraphs(command.help or "")]
    options = {option.opts[0]: _row(option) for option in command.params if isinstance(option, click.Option)}
    own = [row for name, row in options.items() if name not in _COMMON]
    if own:
        lines += ["", *_table("option", own)]
    common = [name for name in _COMMON if name in options or name == "--help"]
    return [*lines, "", "Common options: " + ", ".join(f"`{name}`" for name in common) + "."]


def _common_options() -> list[tuple[str, str]]:
    rows = {option.opts[0]: _row(option) for option in main.commands["train"].params if isinstance(option, click.Option)}
    return [rows.get(name, ("--help", "Show what the command does and its options.")) for name in _COMMON]


def _row(option: click.Option) -> tuple[str, str]:
    """How an option is written, and what it does. Not by click's own help record, whose form changes from version to version."""
    value = (
        ""
        if option.is_flag
        else option.metavar
        or ("|".join(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else option.type.name.split()[0].upper())
    )
    default = f" [default: {option.default}]" if option.show_default else ""
    return f"{', '.join(option.opts)} {value}".strip(), f"{option.help or ''}{default}{' [required]' if option.required else ''}"


def _table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {title} | meaning |", "|---|---|", *(f"| `{_pipes(name)}` | {_cell(text)} |" for name, text in rows)]


def _paragraphs(text: str) -> list[str]:
    return [line for paragraph in inspect.cleandoc(text).split("\n\n") for line in (" ".join(paragraph.split()), "")][:-1]


def _anchor(*words: str) -> str:
    return "-".join(words).lower()


def _cell(text: str) -> str:
    """Text that does not break a Markdown table: no bare pipe, no bare angle bracket."""
    return _pipes(text.replace("<", "&lt;"))


def _pipes(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


if __name__ == "__main__":
    for path, text in pages().items():
        write_text(path, text)
