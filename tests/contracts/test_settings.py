"""Every setting stands in the README's table, and every row of the table is a setting."""

import re
from pathlib import Path

from service.settings import PREFIX, Settings, shown_default

README = Path(__file__).parent.parent.parent / "README.md"
ROW = re.compile(r"^\| `(REID_[A-Z_]+)` \| (.*?) \|", re.MULTILINE)


def test_every_setting_is_documented_and_nothing_else():
    documented = [name for name, _ in ROW.findall(README.read_text())]
    assert sorted(documented) == sorted(PREFIX + field.upper() for field in Settings.model_fields)


def test_documented_defaults_are_the_defaults():
    rows = dict(ROW.findall(README.read_text()))
    defaults = {PREFIX + name.upper(): shown_default(field.default) for name, field in Settings.model_fields.items()}
    assert {name: cell.strip("`") for name, cell in rows.items()} == defaults
