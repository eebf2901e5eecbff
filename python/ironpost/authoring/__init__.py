"""What people who write and collect rules need: lint, cases, import, coverage."""

from ironpost.authoring.cases import Case, CaseReport, find_cases, run_cases
from ironpost.authoring.collection import Collection, collect
from ironpost.authoring.lint import Finding, lint
from ironpost.authoring.sarif import to_sarif

__all__ = ["Case", "CaseReport", "Collection", "Finding", "collect", "find_cases", "lint", "run_cases", "to_sarif"]
