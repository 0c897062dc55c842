"""The environment is read once, and what is wrong with it stops the start."""

from pathlib import Path

import pytest

from b1.errors import InvalidSetting, MissingSecret, UnknownSetting
from b1.settings import Secret, Settings, known_names

PRODUCTION = {"B1_ENV": "production", "ADMIN_TOKEN": "a" * 40, "AUTH_JWT_SECRET": "s" * 40}


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({})
    assert (
        settings.env,
        settings.port,
        settings.db_connections,
        settings.redis_connections,
        settings.workers,
    ) == ("development", 8000, 3, 2, 1)


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(UnknownSetting, match=r"B1_MEMORY_LIMT='1750MiB'.*did you mean B1_MEMORY_LIMIT\?"):
        Settings.from_env({"B1_MEMORY_LIMT": "1750MiB"})


def test_names_of_others_are_left_alone() -> None:
    assert Settings.from_env({"WEB_CONCURRENCY": "4", "B2_THING": "x"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "80000", "a port is 1 to 65535"),
        ("PORT", "http", "expected"),
        ("B1_MEMORY_LIMIT", "lots", "expected something like 64MiB"),
        ("B1_PROXY", "nginx", "azure, none, or the number"),
        ("B1_LIMIT_SCALE", "0", "a number above 0"),
        ("B1_LIMIT_SCALE", "nan", "a number above 0"),
        ("B1_WORKERS", "2", "one core runs one worker"),
        ("ENABLE_CACHING", "maybe", "expected 1 or 0"),
        ("LOG_LEVEL", "loud", "debug or info or warning or error"),
        ("CORS_ORIGINS", "app.example.com", "origins such as"),
        ("REDIS_URL", "http://example.com", "redis://"),
        ("B1_IDEMPOTENCY_MISMATCH_STATUS", "500", "409 or 422"),
        ("B1_TRACE_MEMORY_S", "601", "seconds from 0 to 600"),
        ("B1_TRACE_MEMORY_S", "-1", "seconds from 0 to 600"),
        ("B1_TRACE_MEMORY_S", "nan", "seconds from 0 to 600"),
        ("B1_TRACE_MEMORY_S", "a minute", "B1_TRACE_MEMORY_S"),
    ],
)
def test_a_value_that_does_not_parse_names_itself_and_what_was_expected(name: str, value: str, expected: str) -> None:
    with pytest.raises(InvalidSetting, match=expected) as caught:
        Settings.from_env({name: value})
    assert name in str(caught.value)


def test_a_secret_never_shows_itself() -> None:
    url = "postgresql://user:hunter2@db.example.com/app"
    settings = Settings.from_env({"DATABASE_URL": url})
    assert "hunter2" not in repr(settings) + str(settings.database_url)
    assert settings.database_url is not None
    assert url == settings.database_url.reveal()
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env({"DATABASE_URL": "mysql://user:hunter2@db.example.com/app"})
    assert "hunter2" not in str(caught.value)


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    assert Secret("from-a-file") == Settings.from_env({"ADMIN_TOKEN_FILE": str(tmp_path / "token")}).admin_token
    with pytest.raises(InvalidSetting, match="ADMIN_TOKEN_FILE"):
        Settings.from_env({"ADMIN_TOKEN_FILE": str(tmp_path / "absent")})


def test_a_webhook_from_a_file_is_read_and_its_file_remembered(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://alerts.example.com/a\n")
    settings = Settings.from_env({"ALERT_WEBHOOK_URL_FILE": str(tmp_path / "url")})
    assert (Secret("https://alerts.example.com/a"), tmp_path / "url") == (
        settings.alert_webhook_url,
        settings.alert_webhook_url_file,
    )


def test_a_webhook_that_is_named_directly_counts_and_its_file_does_not(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("whsec_b2xk")
    settings = Settings.from_env(
        {"ALERT_WEBHOOK_SECRET": "whsec_bmV3", "ALERT_WEBHOOK_SECRET_FILE": str(tmp_path / "secret")}
    )
    assert (Secret("whsec_bmV3"), None) == (settings.alert_webhook_secret, settings.alert_webhook_secret_file)


def test_memory_can_be_pretended_and_traced_in_staging() -> None:
    settings = Settings.from_env({"B1_MEMORY_INJECTION_FILE": "/tmp/ratio", "B1_TRACE_MEMORY_S": "30"})
    assert (Path("/tmp/ratio"), 30.0) == (settings.memory_injection_file, settings.trace_memory_s)


def test_production_needs_its_secrets() -> None:
    assert Settings.from_env(PRODUCTION).is_production
    for name in ("ADMIN_TOKEN", "AUTH_JWT_SECRET"):
        rest = {key: value for key, value in PRODUCTION.items() if key != name}
        with pytest.raises(MissingSecret, match=name):
            Settings.from_env({**rest, "DATABASE_URL": "postgresql://db/app"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("B1_DEMO", "1"),
        ("B1_LIMIT_SCALE", "1000"),
        ("B1_MEMORY_INJECTION_FILE", "/tmp/ratio"),
        ("CORS_ORIGINS", "*"),
        ("AUTH_JWT_SECRET", "short"),
    ],
)
def test_production_refuses_what_only_tests_may_do(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=name):
        Settings.from_env({**PRODUCTION, name: value})


def test_app_service_is_production_behind_its_proxy() -> None:
    platform = {"WEBSITE_SITE_NAME": "pantry", "WEBSITE_INSTANCE_ID": "1"}
    secrets = {key: value for key, value in PRODUCTION.items() if key != "B1_ENV"}
    settings = Settings.from_env({**platform, **secrets})
    assert (settings.env, settings.proxy, settings.namespace) == ("production", "azure", "pantry")


def test_the_second_name_of_a_setting_works() -> None:
    assert Settings.from_env({"CACHE_MAX_SIZE_MB": "20"}).cache_max == 20 * 1024**2
    assert Secret("redis://r") == Settings.from_env({"AZURE_REDIS_URL": "redis://r"}).redis_url
    assert (
        Secret("redis://first")
        == Settings.from_env({"REDIS_URL": "redis://first", "AZURE_REDIS_URL": "redis://r"}).redis_url
    )
    assert not Settings.from_env({"ENABLE_REDIS_CACHING": "0"}).enable_caching


def test_every_setting_has_a_sentence() -> None:
    assert [name for name, sentence in known_names().items() if len(sentence) < 8] == []
