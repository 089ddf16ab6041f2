"""Makes tests/golden/openapi.json: python -m tests.service.make_openapi

A change of it is a change of the contract: look at its diff, and write it into CHANGELOG.md.
"""

import json
from pathlib import Path

from service.app import create_app
from service.settings import Settings

GOLDEN = Path(__file__).parents[1] / "golden" / "openapi.json"


def document() -> str:
    """The OpenAPI document as it is kept: indented, its fields in the order they are served in."""
    return json.dumps(create_app(Settings(_env_file=None)).openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(document())
