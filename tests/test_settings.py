"""Settings: flags over environment over defaults, and all mistakes at once."""

import dataclasses
from pathlib import Path

import pytest

from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.settings import OPTIONS, Option, Settings, address, boolean, duration


def read(env: dict[str, str] | None = None, **flags: str) -> Settings:
    return Settings.read(flags, env or {})


def mistakes(env: dict[str, str] | None = None, **flags: str) -> list[str]:
    with pytest.raises(BadSettings) as raised:
        read(env, **flags)
    return str(raised.value).splitlines()


def test_defaults_are_the_documented_ones() -> None:
    settings = read()

    assert settings.reconcile_rate == 60.0
    assert settings.new_volume_grace == 10.0
    assert settings.workers == 10
    assert settings.bind_address == ("::", 8000)
    assert settings.metrics_address is None
    assert settings.leader_election
    assert settings.leader_election_lease_duration == 30.0
    assert settings.leader_election_renew_deadline == 25.0
    assert settings.leader_election_retry_period == 10.0
    assert settings.linstor_urls == ("http://localhost:3370",)


def test_the_environment_overrides_defaults() -> None:
    assert read({"LINSTOR_AFFINITY_WORKERS": "3"}).workers == 3


def test_flags_override_the_environment() -> None:
    assert read({"LINSTOR_AFFINITY_WORKERS": "3"}, workers="4").workers == 4


def test_an_empty_variable_is_unset() -> None:
    assert read({"LINSTOR_AFFINITY_WORKERS": "", "LINSTOR_AFFINITY_BIND_ADDRESS": ""}) == read()


def test_an_empty_flag_is_a_value() -> None:
    assert read({"LINSTOR_AFFINITY_BIND_ADDRESS": ":8001"}, bind_address="").bind_address is None


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_every_default_is_a_valid_value(option: Option) -> None:
    assert Settings.read({option.field: option.default}, {}) == read()


def test_every_option_is_a_field() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)}

    assert {option.field for option in OPTIONS} <= fields


def test_no_two_options_share_a_variable() -> None:
    assert len({option.variable for option in OPTIONS}) == len(OPTIONS)


@pytest.mark.parametrize(
    ("variable", "field"),
    [
        ("LEASE_LOCK_NAME", "lease_lock_name"),
        ("LEASE_HOLDER_IDENTITY", "leader_election_id"),
        ("POD_NAMESPACE", "lease_lock_namespace"),
        ("LS_USERNAME", ""),
    ],
)
def test_the_variables_of_the_reference_are_read(variable: str, field: str) -> None:
    env = {variable: "x", "LS_PASSWORD": "y"} if variable == "LS_USERNAME" else {variable: "x"}

    assert getattr(read(env), field or "linstor_username") == "x"


def test_a_configured_namespace_overrides_that_of_the_pod() -> None:
    assert (
        read({"POD_NAMESPACE": "pod"}, lease_lock_namespace="named").lease_lock_namespace == "named"
    )


def test_an_identity_is_used_as_configured_and_never_generated() -> None:
    assert read(leader_election_id="pod-1").leader_election_id == "pod-1"
    assert read().leader_election_id == ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("1s", 1.0),
        ("90s", 90.0),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("1h2m3s", 3723.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("250ms", 0.25),
        ("1m0.5s", 60.5),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("100ns", 1e-7),
        ("1s1m", 61.0),
    ],
)
def test_durations_have_the_syntax_of_go(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1",
        "60",
        "s",
        ".s",
        "1 s",
        "1d",
        "1S",
        "1m30",
        "-1s",
        "1e3s",
        "1s ",
        "x1s",
        "nan",
        "inf",
    ],
)
def test_anything_else_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration(text)


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_true_values_of_go_are_true(text: str) -> None:
    assert boolean(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_false_values_of_go_are_false(text: str) -> None:
    assert boolean(text) is False


@pytest.mark.parametrize("text", ["", "yes", "on", "tRUE", "2"])
def test_anything_else_is_not_a_boolean(text: str) -> None:
    with pytest.raises(ValueError, match="is not true or false"):
        boolean(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (":8000", ("::", 8000)),
        ("[::]:8000", ("::", 8000)),
        ("[::1]:8000", ("::1", 8000)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("localhost:65535", ("localhost", 65535)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
    ],
)
def test_addresses_have_the_syntax_of_go(text: str, expected: tuple[str, int] | None) -> None:
    assert address(text) == expected


@pytest.mark.parametrize(
    "text", ["8000", "localhost", "localhost:", ":65536", ":-1", ":x", "::1:8000", ":²", "[::]"]
)
def test_anything_else_is_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|brackets"):
        address(text)


def test_all_errors_are_listed_at_once() -> None:
    errors = mistakes(
        {"LINSTOR_AFFINITY_WORKERS": "many", "LS_CONTROLLERS": "ftp://x", "LS_USERNAME": "admin"},
        reconcile_rate="60",
        timeout="-1s",
        bind_address="8000",
        leader_election="maybe",
        log_format="xml",
    )

    for named in (
        "LINSTOR_AFFINITY_WORKERS='many'",
        "LS_CONTROLLERS",
        "LS_USERNAME",
        "--reconcile-rate='60'",
        "--timeout='-1s'",
        "--bind-address='8000'",
        "--leader-election='maybe'",
        "--log-format='xml'",
    ):
        assert sum(named in line for line in errors) == 1, named
    assert len(errors) == 8


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("workers", "0"),
        ("workers", "-1"),
        ("reconcile_rate", "1ms"),
        ("resync_rate", "1s"),
        ("timeout", "0"),
        ("leader_election_retry_period", "0"),
    ],
)
def test_a_value_that_is_too_small_is_reported(field: str, text: str) -> None:
    with pytest.raises(BadSettings) as raised:
        Settings.read({field: text}, {})

    [errors] = str(raised.value).splitlines()
    assert "is below" in errors


@pytest.mark.parametrize(
    ("lease", "renew", "retry"),
    [("25s", "25s", "10s"), ("20s", "25s", "10s"), ("30s", "10s", "10s")],
)
def test_the_durations_of_an_election_must_be_consistent(
    lease: str, renew: str, retry: str
) -> None:
    [errors] = mistakes(
        leader_election_lease_duration=lease,
        leader_election_renew_deadline=renew,
        leader_election_retry_period=retry,
    )

    assert "must be longer than" in errors


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        ("", ["http://localhost:3370"]),
        ("linstor", ["http://linstor:3370"]),
        ("linstor:1234", ["http://linstor:1234"]),
        ("http://linstor", ["http://linstor:3370"]),
        ("https://linstor", ["https://linstor:3371"]),
        ("linstor://linstor", ["http://linstor:3370"]),
        ("linstor+ssl://linstor", ["https://linstor:3371"]),
        ("https://linstor:443/", ["https://linstor:443"]),
        ("http://[fd00::1]:3370", ["http://[fd00::1]:3370"]),
        ("a, b ,,http://c", ["http://a:3370", "http://b:3370", "http://c:3370"]),
        ("a,a", ["http://a:3370"]),
        (" , ", ["http://localhost:3370"]),
    ],
)
def test_controllers_have_the_syntax_of_the_linbit_clients(given: str, urls: list[str]) -> None:
    assert list(read({"LS_CONTROLLERS": given}).linstor_urls) == urls


@pytest.mark.parametrize("name", ["linstor-controller.piraeus.svc", "LINSTOR", "10.0.0.1"])
def test_the_expected_certificate_name_is_a_host_name(name: str) -> None:
    assert read({"LS_TLS_SERVER_NAME": name}).linstor_tls_server_name == name


@pytest.mark.parametrize("name", ["https://linstor", "a b", "linstor/x", "7"])
def test_the_expected_certificate_name_must_be_a_host_name(name: str) -> None:
    assert mistakes({"LS_TLS_SERVER_NAME": name}) == [
        f"LS_TLS_SERVER_NAME={name!r} is not a host name"
    ]


@pytest.mark.parametrize(
    ("given", "access"),
    [("local", "local"), ("all", "all"), ("off", "off"), ("true", "local"), ("false", "off")],
)
def test_the_page_is_local_unless_configured_for_all(given: str, access: str) -> None:
    assert read().status_page == "local"
    assert read(status_page=given).status_page == access


def test_the_page_has_no_other_audience() -> None:
    assert mistakes(status_page="some") == ["--status-page='some' is not local, all or off"]


@pytest.mark.parametrize("variable", ["LS_ROOT_CA", "LS_ROOT_CA_FILE"])
def test_with_certificates_a_controller_without_scheme_uses_tls(variable: str) -> None:
    settings = read({"LS_CONTROLLERS": "linstor", variable: "x"})

    assert settings.linstor_urls == ("https://linstor:3371",)


@pytest.mark.parametrize(
    "given",
    [
        "ftp://linstor",
        "http://",
        "http://linstor/v1",
        "http://linstor?x=1",
        "http://admin:secret@linstor",
        "http://linstor:99999",
        "http://linstor:x",
        "http://[::1",
    ],
)
def test_an_invalid_controller_is_reported(given: str) -> None:
    errors = mistakes({"LS_CONTROLLERS": f"good,{given}"})

    assert [line.startswith("LS_CONTROLLERS") for line in errors] == [True]


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"LS_USERNAME": "x"}, id="user without password"),
        pytest.param({"LS_PASSWORD": "x"}, id="password without user"),
        pytest.param(
            {"LS_USERNAME": "x", "LS_PASSWORD": "y", "LS_BEARER_TOKEN_FILE": "z"},
            id="user and token",
        ),
        pytest.param({"LS_USER_CERTIFICATE": "x"}, id="certificate without key"),
        pytest.param({"LS_USER_KEY_FILE": "x"}, id="key without certificate"),
    ],
)
def test_inconsistent_credentials_are_reported(env: dict[str, str]) -> None:
    assert len(mistakes(env)) == 1


def test_a_certificate_can_be_text_and_its_key_a_file() -> None:
    settings = read({"LS_USER_CERTIFICATE": "pem", "LS_USER_KEY_FILE": "/key"})

    assert (settings.linstor_certificate, settings.linstor_key_file) == ("pem", "/key")


SECRET = "hunter2-do-not-tell"


def test_no_secret_is_ever_shown() -> None:
    settings = read(
        {
            "LS_USERNAME": "admin",
            "LS_PASSWORD": SECRET,
            "LS_USER_CERTIFICATE": "pem",
            "LS_USER_KEY": SECRET,
        }
    )

    assert SECRET not in f"{settings!r} {settings}"


def test_no_secret_is_shown_with_an_error() -> None:
    errors = mistakes({"LS_PASSWORD": SECRET, "LS_USER_KEY": SECRET})

    assert SECRET not in "".join(errors)


@pytest.mark.parametrize(
    "given",
    [
        f"http://admin:{SECRET}@linstor",
        f"http://admin:{SECRET}/x@linstor",
        f"http://admin:{SECRET}#x@linstor",
        f"http://admin:{SECRET},x@linstor,good",
        f"http://admin:x,{SECRET}@linstor",
        f"http://adm\N{ACCOUNT OF}in:{SECRET}@linstor",
        f"admin:{SECRET}/1@linstor",
    ],
)
def test_a_password_in_an_address_is_not_shown_with_the_error(given: str) -> None:
    (error,) = mistakes({"LS_CONTROLLERS": given})

    assert "must not contain a login" in error
    assert SECRET not in error


def test_finalizers_are_a_list() -> None:
    assert read(allow_finalizer="a/b, c/*").allow_finalizer == ("a/b", "c/*")


def test_a_kubeconfig_must_exist(tmp_path: Path) -> None:
    there = tmp_path / "config"
    there.write_text("{}")

    assert read({"KUBECONFIG": str(there)}).kubeconfig == str(there)
    assert read({"KUBECONFIG": f"/nope:{there}"}).kubeconfig == f"/nope:{there}"
    with pytest.raises(BadSettings, match="KUBECONFIG='/nope' is not an existing file"):
        read({"KUBECONFIG": "/nope"})


@pytest.mark.parametrize("given", ["junk", "ftp://host", "https://", "host:6443"])
def test_a_server_must_be_an_address(given: str) -> None:
    with pytest.raises(BadSettings, match="is not a valid URL such as https://host:6443"):
        read({}, server=given)


@pytest.mark.parametrize(
    "given", ["foo bar", "a;b", "3370", "http://a:0", "localhost:3370#x", "http://a/b", "a?b"]
)
def test_a_value_that_is_not_a_controller_is_reported(given: str) -> None:
    with pytest.raises(BadSettings, match="is not of the form scheme://host:port"):
        read({"LS_CONTROLLERS": given})


def test_an_unreadable_policy_is_reported_with_all_other_errors() -> None:
    def refuse(text: str) -> None:
        raise BadSettings(f"{text} is no policy")

    with pytest.raises(BadSettings) as mistakes:
        Settings.read({"workers": "x"}, {}, check_policy=refuse)

    assert len(str(mistakes.value).splitlines()) == 2


LOGINS = [
    {"LS_USERNAME": "admin", "LS_PASSWORD": "secret"},
    {"LS_BEARER_TOKEN_FILE": "/token"},
]
MIXED = ["https://a,http://b", "http://a:3370,https://b:3371", "linstor+ssl://a,linstor://b"]


@pytest.mark.parametrize("login", LOGINS, ids=["password", "token"])
@pytest.mark.parametrize("urls", MIXED)
def test_a_login_is_not_sent_to_some_controllers_unencrypted(
    urls: str, login: dict[str, str]
) -> None:
    with pytest.raises(BadSettings) as refused:
        Settings.read({}, {"LS_CONTROLLERS": urls, **login})

    assert "the login would be sent unencrypted: use https for all controllers" in str(
        refused.value
    )
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("urls", ["https://a,https://b", "http://a,http://b"])
@pytest.mark.parametrize("login", LOGINS, ids=["password", "token"])
def test_controllers_with_one_scheme_are_sent_the_login(urls: str, login: dict[str, str]) -> None:
    assert len(Settings.read({}, {"LS_CONTROLLERS": urls, **login}).linstor_urls) == 2


@pytest.mark.parametrize("urls", MIXED)
def test_without_a_login_controllers_can_have_different_schemes(urls: str) -> None:
    assert len(Settings.read({}, {"LS_CONTROLLERS": urls}).linstor_urls) == 2
