"""Requests made up from the server's own description, and answers held against it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from servers import Served, served

from rtseg.serve.describe import description

pytest_plugins = ["schemathesis.pytest.plugin"]
"""Here and not in every run of pytest: it takes seconds to import."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,  # all have one name, and of such pytest-xdist runs one
    pytest.mark.timeout(600),
]


def without_tokens() -> dict[str, Any]:
    """The description of a server that needs no token, as it is for this machine alone."""
    described = description()
    for operations in described["paths"].values():
        for operation in operations.values():
            del operation["security"]
    return described


schema = schemathesis.openapi.from_dict(without_tokens())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served("stub", job_dir=str(tmp_path), max_jobs=1000) as one:
        yield one


@schema.parametrize()
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case: schemathesis.Case, server: Served) -> None:
    """Not whether all that fits the description is taken: classes must be those of the model, and
    bytes an image or a video."""
    without = [positive_data_acceptance]
    case.call_and_validate(base_url=server.url, timeout=30, excluded_checks=without)
