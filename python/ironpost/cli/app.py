"""The command tree. Commands import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

import typer

from ironpost.cli.configure import config_app
from ironpost.cli.demo import demo
from ironpost.cli.detect import detect
from ironpost.cli.doctor import doctor
from ironpost.cli.explain import explain_rules
from ironpost.cli.importing import import_rules
from ironpost.cli.logs import logs_app
from ironpost.cli.offline import parse, policies_app
from ironpost.cli.response import alerts, allow, approve, ban, decisions, tail, unban, undo
from ironpost.cli.rules import rules_app
from ironpost.cli.run import start, status, stop

app = typer.Typer(
    name="ironpost",
    help="A Linux host that watches itself and answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    start,
    stop,
    status,
    alerts,
    decisions,
    tail,
    ban,
    unban,
    allow,
    undo,
    approve,
    detect,
    parse,
    doctor,
    demo,
):
    app.command()(command)
rules_app.command("explain")(explain_rules)
rules_app.command("import")(import_rules)
app.add_typer(config_app, name="config")
app.add_typer(rules_app, name="rules")
app.add_typer(logs_app, name="logs")
app.add_typer(policies_app, name="policies")


@app.callback()
def _root() -> None:
    """A Linux host that watches itself and answers."""
