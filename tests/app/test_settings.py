from __future__ import annotations

from pathlib import Path

import pytest

from server.errors import StartError
from server.settings import DEFAULT_MODEL_DIR, Settings, catalog, fit_model, read_settings
from tests.app.harness import MODEL


def test_an_empty_environment_is_enough() -> None:
    settings = read_settings({})
    assert (settings.host, settings.port, settings.api_key, settings.listen_fd) == ("::", 8080, None, None)
    assert (settings.drain_seconds, settings.grace_seconds) == (1, 25)
    assert settings.model_dir == DEFAULT_MODEL_DIR == MODEL
    assert settings.max_body_bytes <= settings.max_queue_bytes


def test_every_field_is_the_variable_of_its_name_in_capitals(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    given = {
        "MODEL_DIR": ("/models/one", Path("/models/one")),
        "HOST": ("::1", "::1"),
        "PORT": ("0", 0),
        "LISTEN_FD": ("3", 3),
        "READY_FD": ("4", 4),
        "DRAIN_SECONDS": ("0", 0),
        "GRACE_SECONDS": ("2.5", 2.5),
        "LOG_LEVEL": ("debug", "debug"),
        "MAX_BODY_BYTES": ("1000", 1000),
        "MAX_ROWS": ("1", 1),
        "MAX_QUEUE_ROWS": ("2", 2),
        "MAX_QUEUE_BYTES": ("2000", 2000),
        "QUEUE_SECONDS": ("0.5", 0.5),
        "TIMEOUT_MS": ("100", 100),
        "READ_SECONDS": ("1e1", 10),
        "CORS_ORIGINS": (
            "https://app.example.com , http://localhost:3000,https://[::1]:8443,tauri://localhost",
            {b"https://app.example.com", b"http://localhost:3000", b"https://[::1]:8443", b"tauri://localhost"},
        ),
    }
    texts = {name: text for name, (text, _) in given.items()}
    settings = read_settings(texts | {"API_KEY_FILE": str(key), "UNKNOWN": "x"})
    assert settings.api_key == b"secret"
    for name, (_, value) in given.items():
        assert getattr(settings, name.lower()) == value


def test_all_mistakes_are_reported_at_once() -> None:
    environment = {
        "PORT": "http",
        "DRAIN_SECONDS": "-1",
        "GRACE_SECONDS": "nan",
        "LOG_LEVEL": "loud",
        "MAX_BODY_BYTES": "4MiB",
        "MAX_ROWS": "0",
        "MAX_QUEUE_ROWS": "0",
        "MAX_QUEUE_BYTES": "-1",
        "QUEUE_SECONDS": "inf",
        "TIMEOUT_MS": "0.5",
        "READ_SECONDS": "",
        "READY_FD": "stdout",
        "LISTEN_FD": "1",
        "MODEL_DIR": "",
        "API_KEY_FILE": "/does/not/exist",
    }
    with pytest.raises(StartError) as error:
        read_settings(environment)
    message = str(error.value)
    assert [name for name in environment if f"{name}=" not in message] == []
    assert "PORT='http' must be a whole number from 0 to 65535" in message
    assert "API_KEY_FILE='/does/not/exist' cannot be read: No such file or directory" in message
    assert "LOG_LEVEL='loud' must be debug, info, warning or error" in message
    assert "READ_SECONDS='' must be a number of seconds from 0.1 to 3600" in message
    assert "\n" not in message


NO_ORIGINS = ("*", "null", "app.example.com", "https://", "https://a/", "https://a/b", "https://a?b", "https://u@a")
NO_ORIGINS += ("HTTPS://a", "https://A", "https://a b", "https://ä", "https://a:", "https://a:0", "https://a:65536")
NO_ORIGINS += ("https://a:443", "http://a:80", "https://*.a", "https://a\nb", "")


@pytest.mark.parametrize("origin", NO_ORIGINS)
def test_what_is_no_origin_is_refused_with_what_one_is(origin: str) -> None:
    with pytest.raises(StartError) as error:
        read_settings({"CORS_ORIGINS": f"https://app.example.com,{origin}"})
    assert "CORS_ORIGINS='https://app.example.com," in str(error.value)
    assert "must list origins as browsers send them, scheme://host[:port]" in str(error.value)
    assert str(error.value).endswith(f"; {origin.strip()!r} is none")


@pytest.mark.parametrize("name", ["LISTEN_FD", "READY_FD", "API_KEY_FILE", "CORS_ORIGINS"])
def test_no_text_stands_for_a_variable_that_is_not_set(name: str) -> None:
    with pytest.raises(StartError, match=f"{name}='null'"):
        read_settings({name: "null"})


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(StartError, match=r"MAX_BODY_BYTES='2' must not be above MAX_QUEUE_BYTES, 1$"):
        read_settings({"MAX_BODY_BYTES": "2", "MAX_QUEUE_BYTES": "1"})


def test_the_catalog_describes_every_variable_and_its_defaults_are_those_of_the_settings() -> None:
    described = {variable.name: variable for variable in catalog()}
    assert len(described) == len(Settings.__struct_fields__)
    assert all(
        variable.description.endswith(".") and variable.rule and variable.type for variable in described.values()
    )
    assert not any(str(DEFAULT_MODEL_DIR) in variable.default for variable in described.values())
    given = {name: variable.default for name, variable in described.items() if variable.default}
    del given["MODEL_DIR"]
    assert read_settings(given) == read_settings({})
    limit = described["MAX_BODY_BYTES"]
    assert (limit.type, limit.unit, limit.default) == ("whole number", "bytes", "4194304")
    assert limit.rule == "a whole number of bytes from 1 to 1073741824"
    assert described["API_KEY_FILE"].default == ""
    assert described["PREDICTION_LOG_INPUTS"].default == "false"


def test_the_key_is_the_file_without_its_line_end_and_stays_out_of_the_representation(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret-key\n")
    settings = read_settings({"API_KEY_FILE": str(file)})
    assert settings.api_key == b"s3cret-key"
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in f"{settings} {settings.api_key}"


@pytest.mark.parametrize(
    ("content", "message"), [(" \n", "empty file"), ("two words", "printable"), ("schlüssel", "printable")]
)
def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    with pytest.raises(StartError, match=message) as error:
        read_settings({"API_KEY_FILE": str(file)})
    assert content.strip() == "" or content not in str(error.value)


@pytest.mark.parametrize(
    ("environment", "row_bytes", "longest"),
    [
        ({}, 100, 4 * 2**20),
        ({}, 16 * 2**20, 16 * 2**20),
        ({}, 2**40, 32 * 2**20),
        ({"MAX_QUEUE_BYTES": str(8 * 2**20)}, 2**40, 4 * 2**20),
        ({"MAX_BODY_BYTES": str(4 * 2**20)}, 2**40, 4 * 2**20),
        ({"MAX_BODY_BYTES": "1000"}, 100, 1000),
    ],
)
def test_the_model_raises_the_longest_body_unless_it_is_set(
    environment: dict[str, str], row_bytes: int, longest: int
) -> None:
    assert fit_model(read_settings(environment), row_bytes).max_body_bytes == longest
