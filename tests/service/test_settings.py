"""Settings: where they come from and how they are refused."""

import pytest
from pydantic import ValidationError

from service.settings import PREFIX, Settings, describe_settings, given_names, unknown_settings


def test_help_names_every_setting_and_its_default():
    text = describe_settings()
    for field in Settings.model_fields:
        assert f"  {PREFIX}{field.upper()} " in text
    assert "[the bundled model]" in text and "[127.0.0.1]" in text and "[true]" in text


@pytest.mark.parametrize(
    "change",
    [
        {"port": 70000},
        {"max_crops": 0},
        {"deadline_s": 0},
        {"batch_wait_ms": -1},
        {"provider": "tpu"},
        {"log_format": "xml"},
        {"threads": -1},
        {"deadline_s": float("inf")},
        {"min_free_mb": float("inf")},
        {"receive_s": float("nan")},
        {"max_body_mb": 300},  # more than all bodies together
    ],
)
def test_a_value_out_of_range_is_refused(change):
    with pytest.raises(ValidationError):
        Settings(_env_file=None, **change)


def test_a_url_is_no_gallery_folder():
    with pytest.raises(ValidationError, match="is a URL, wanted a folder"):
        Settings(_env_file=None, gallery="postgresql://host/people")


def test_keys_do_not_show_when_settings_are_printed():
    assert "sesame" not in repr(Settings(_env_file=None, api_keys="sesame"))


def test_a_misspelt_setting_is_pointed_out_with_the_right_one():
    (complaint,) = unknown_settings(["REID_PROT", "REID_PORT", "PATH"])
    assert complaint == "REID_PROT is no setting and is ignored; did you mean REID_PORT?"


def test_an_unknown_setting_is_pointed_out():
    (complaint,) = unknown_settings(["REID_ZZZZZZZZZZZ"])
    assert "--help lists the settings" in complaint


def test_the_clients_variable_is_none_of_ours_and_no_mistake():
    assert unknown_settings(["REID_URL"]) == []


def test_the_names_in_the_env_file_are_examined_too(tmp_path):
    (tmp_path / ".env").write_text("# keys\nREID_API_KEY=secret\nREID_PORT=9000\n")
    (complaint,) = unknown_settings(given_names(tmp_path / ".env") - given_names(tmp_path / "none"))
    assert complaint == "REID_API_KEY is no setting and is ignored; did you mean REID_API_KEYS?"


def test_the_names_in_the_environment_are_examined_without_an_env_file(tmp_path):
    assert "PATH" in given_names(tmp_path / "none")
