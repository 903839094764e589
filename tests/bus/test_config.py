"""Settings of the bus, from code and from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from parrot_mq.bus import BusConfig
from parrot_mq.errors import ConfigurationError


def test_without_variables_the_defaults_hold() -> None:
    assert BusConfig.from_env({}) == BusConfig()


def test_variables_set_fields_and_arguments_win(tmp_path: Path) -> None:
    seed_file = tmp_path / "seed"
    seed_file.write_text("SU…")
    environ = {
        "PARROT_MQ_SERVERS": "nats://a:4222, tls://b:4222",
        "PARROT_MQ_NKEY_SEED_FILE": str(seed_file),
        "PARROT_MQ_MAX_IN_FLIGHT": "16",
        "PARROT_MQ_PUBLISH_TIMEOUT_S": "2.5",
        "PARROT_MQ_STORAGE": "memory",
        "PARROT_MQ_NAME": "ignored",
        "PARROT_MQ_TOKEN": "  ",
    }
    config = BusConfig.from_env(environ, name="worker-1")
    assert config == BusConfig(
        servers=("nats://a:4222", "tls://b:4222"),
        nkey_seed_file=str(seed_file),
        max_in_flight=16,
        publish_timeout_s=2.5,
        storage="memory",
        name="worker-1",
    )


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SERVERS", ",", "one address or more"),
        ("SERVERS", "http://x", "nats://host:port"),
        ("SERVERS", "a b", "nats://host:port"),
        ("MAX_IN_FLIGHT", "many", "a whole number"),
        ("MAX_IN_FLIGHT", "0", "1 to 4096"),
        ("PUBLISH_TIMEOUT_S", "soon", "seconds"),
        ("PUBLISH_TIMEOUT_S", "-1", "more than 0"),
        ("MAX_AGE_S", "nan", "more than 0"),
        ("REPLICAS", "2", "1, 3 or 5"),
        ("STORAGE", "tape", "file or memory"),
        ("INBOX_PREFIX", "a.*", "without wildcards"),
        ("INBOX_PREFIX", "a..b", "without wildcards"),
        ("PASSWORD", "secret", "a user as well"),
        ("CREDENTIALS_FILE", "/no/such/file", "a file that exists"),
        ("TLS_CERT_FILE", "/no/such/file", "both or none"),
    ],
)
def test_a_malformed_value_names_variable_and_form(variable: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"PARROT_MQ_\w+=.*expected.*{expected}") as caught:
        BusConfig.from_env({f"PARROT_MQ_{variable}": value})
    assert "secret" not in caught.value.message


def test_one_way_to_authenticate_is_enough() -> None:
    with pytest.raises(ConfigurationError, match="only one of user, token"):
        BusConfig(user="a", password="b", token="c")


def test_a_bad_setting_in_code_is_named_as_a_setting() -> None:
    with pytest.raises(ConfigurationError, match="bus setting replicas=2: expected 1, 3 or 5"):
        BusConfig(replicas=2)


def test_secrets_are_not_shown() -> None:
    shown = repr(BusConfig(servers=("nats://u:hidden@h:1",), user="me", password="hidden"))
    assert "hidden" not in shown


# -- credentials of a service manager --------------------------------------------------------------------------------


def _credentials(folder: Path, **files: str) -> dict[str, str]:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return {"CREDENTIALS_DIRECTORY": str(folder)}


def test_credentials_come_from_the_service_manager(tmp_path: Path) -> None:
    config = BusConfig.from_env(_credentials(tmp_path, nats_creds="jwt and seed"))
    assert config.credentials_file == str(tmp_path / "nats.creds")
    config = BusConfig.from_env(_credentials(tmp_path, nats_creds="\n", nats_nk="seed"))
    assert (config.credentials_file, config.nkey_seed_file) == ("", str(tmp_path / "nats.nk"))


def test_an_empty_credential_counts_as_none(tmp_path: Path) -> None:
    assert BusConfig.from_env(_credentials(tmp_path, nats_creds="\n")).credentials_file == ""


def test_a_way_that_was_named_wins_over_the_service_managers(tmp_path: Path) -> None:
    environ = _credentials(tmp_path, nats_creds="jwt and seed")
    assert BusConfig.from_env({**environ, "PARROT_MQ_TOKEN": "t"}).credentials_file == ""
    assert BusConfig.from_env(environ, token="t").credentials_file == ""
