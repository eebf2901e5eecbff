"""``ironpost config``: show and check the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ironpost.cli.options import ConfigOption, JsonOption, load_configuration
from ironpost.cli.output import error_text, print_error, print_json, print_line, safe, say
from ironpost.errors import ConfigError, PlacedError, RuleError

config_app = typer.Typer(help="Show and check the configuration.", no_args_is_help=True)


@config_app.command()
def show(
    *,
    config: ConfigOption = None,
    section: Annotated[str, typer.Option(help="Only this section, for example log_pipeline.")] = "",
    origin: Annotated[
        bool, typer.Option("--origin", help="Say which layer set each value that isn't a default.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Print the configuration in effect: defaults, file, environment; passwords masked."""
    from ironpost.config import Configuration, to_plain, to_toml

    loaded = load_configuration(config)
    if section and section not in Configuration.model_fields:
        known = ", ".join(Configuration.model_fields)
        raise ConfigError(f"unknown section {section!r}", hint=f"sections: {known}")
    origins = {key: layer for key, layer in loaded.origins.items() if not section or key.startswith(f"{section}.")}
    if json:
        data = to_plain(loaded.config, section=section)
        print_json({**data, "origin": origins} if origin else data)
        return
    print_line(to_toml(loaded.config, section=section).rstrip("\n"))
    if origin:
        for key, layer in origins.items():
            print_line(f"# {key}: {layer}")


@config_app.command()
def validate(*, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check the configuration, and the rules and policies it leads to; exit code 2 when something is refused."""
    check_everything(config, {}, json=json)


@config_app.command()
def example() -> None:
    """Print a commented file with every key at its default."""
    from ironpost.config import example as example_text

    print_line(example_text().rstrip("\n"))


def check_everything(config: Path | None, flags: dict[str, tuple[str, Any]], *, json: bool) -> None:
    """Says whether a start would use all of the configuration, its rules and its policies.

    Args:
        config: The file named by the user.
        flags: Dotted key → (name of the flag, value); None is not given.
        json: Print one JSON document instead of lines.

    Raises:
        typer.Exit: With code 2 when something is refused.
    """
    found = _look(config, flags)
    if json:
        print_json(
            {
                "source": found.source,
                "valid": not found.problems,
                "rules": found.rules,
                "policies": found.policies,
                "errors": [
                    {
                        "field": problem.field,
                        "path": problem.path,
                        "line": problem.line,
                        "reason": problem.reason,
                        "hint": problem.hint,
                        "message": error_text(problem),
                    }
                    for problem in found.problems
                ],
                "notices": list(found.notices),
            }
        )
    else:
        for notice in found.notices:
            say(f"notice: {safe(notice)}")
        for problem in found.problems:
            print_error(problem)
        loaded = f"; {found.rules} rules, {found.policies} policies" if found.is_loaded else ""
        verdict = f"refused: {len(found.problems)}" if found.problems else "valid"
        print_line(f"{safe(found.source)}: {verdict}{loaded}")
    if found.problems:
        raise typer.Exit(2)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a start would find; without the configuration there are no rules and policies to look at."""

    source: str
    problems: tuple[PlacedError, ...]
    notices: tuple[str, ...] = ()
    rules: int = 0
    policies: int = 0
    is_loaded: bool = False


def _look(config: Path | None, flags: dict[str, tuple[str, Any]]) -> _Found:
    import os

    from ironpost.config import decide_places
    from ironpost.decisions import load_policies
    from ironpost.detections import RuleSet
    from ironpost.events import load as load_extractors
    from ironpost.ownership import setting_doubt

    try:
        loaded = load_configuration(config, flags, doubt=setting_doubt)
        places = decide_places(loaded, environment=os.environ)
    except ConfigError as error:
        return _Found(str(config or error.path), getattr(error, "problems", (error,)))
    problems: list[PlacedError] = []
    try:
        rules = RuleSet.load(
            *places.rule_dirs, field_maps=places.field_map_dirs, doubt=setting_doubt, python_files=True
        )
    except RuleError as error:
        problems.append(error)
        rules = RuleSet.load()
    problems += [RuleError(rule.reason, path=rule.path, line=rule.line, hint=rule.hint) for rule in rules.refused]
    policies = load_policies(*places.policy_dirs, doubt=setting_doubt)
    problems += policies.refused
    problems += load_extractors(*places.extractor_dirs, doubt=setting_doubt).refused
    return _Found(
        str(loaded.path) if loaded.path else "embedded defaults",
        tuple(problems),
        loaded.notices,
        len(rules.rules),
        len(policies.policies),
        is_loaded=True,
    )
