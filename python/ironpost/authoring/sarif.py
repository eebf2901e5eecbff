"""Findings as SARIF 2.1.0, which code hosts show beside the lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from ironpost.authoring.lint import Finding

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(findings: Iterable[Finding], *, version: str) -> dict[str, Any]:
    """Returns one SARIF run; paths are relative references, as they were named."""
    listed = list(findings)
    codes = sorted({finding.code for finding in listed})
    results = [
        {
            "ruleId": finding.code,
            "ruleIndex": codes.index(finding.code),
            "level": finding.severity,
            "message": {"text": f"{finding.reason} ({finding.hint})" if finding.hint else finding.reason},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": quote(finding.path)},
                        "region": {"startLine": max(1, finding.line)},
                    }
                }
            ],
        }
        for finding in listed
    ]
    driver = {"name": "ironpost rules check", "version": version, "rules": [{"id": code} for code in codes]}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
