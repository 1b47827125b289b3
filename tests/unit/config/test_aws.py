"""What AWS's own files say of credentials, region and server."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.config import AwsProfile, aws_profile, azure_endpoint, google_endpoint
from symcache.config.aws import _read_section
from symcache.errors import ConfigError

SECRET = "wJalrXUtnFEMI/K7MDENG"
KEYS = f"aws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {SECRET}\n"
HAD = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": SECRET}


class Home:
    """The two files, and the variables of a process that finds them."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config"
        self.credentials = folder / "credentials"
        self.variables = {
            "AWS_CONFIG_FILE": str(self.config),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
        }

    def ask(self, name: str | None = None, *, anonymous: bool = False, **variables: str) -> AwsProfile:
        return aws_profile(name, self.variables | variables, anonymous=anonymous)

    def ask_with(self, variables: dict[str, str], name: str | None = None) -> AwsProfile:
        return aws_profile(name, self.variables | variables)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_without_files_and_variables_there_is_nothing(home: Home) -> None:
    assert home.ask() == AwsProfile()


def test_the_default_profile_is_taken_from_both_files(home: Home) -> None:
    home.credentials.write_text(f"[default]\n{KEYS}")
    home.config.write_text("[default]\nregion = eu-central-1\nendpoint_url = https://objects.test\n")
    assert home.ask() == AwsProfile(HAD, "eu-central-1", "https://objects.test")


def test_the_files_lie_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(f"[default]\n{KEYS}")
    assert aws_profile(None).keys == HAD
    assert aws_profile(None, {}).keys == HAD


@pytest.mark.parametrize("section", ["[me]", "[me] # of mine"])
def test_a_profile_is_named_by_a_setting_or_a_variable(section: str, home: Home) -> None:
    home.credentials.write_text(f"[default]\naws_access_key_id = no\n{section}\n{KEYS}aws_session_token = token\n")
    home.config.write_text("[profile me]\nregion = eu-west-1\n[default]\nregion = no\n")
    wanted = AwsProfile({**HAD, "token": "token"}, "eu-west-1", None)
    assert home.ask("me") == wanted
    assert home.ask(AWS_PROFILE="me") == wanted
    assert home.ask("me", AWS_PROFILE="default") == wanted


@pytest.mark.parametrize(
    "variable",
    [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ],
)
def test_keys_of_the_environment_come_before_the_files_unless_a_setting_names_a_profile(
    variable: str, home: Home
) -> None:
    home.credentials.write_text(f"[default]\n{KEYS}")
    home.config.write_text("[default]\nregion = eu-west-1\n")
    assert home.ask_with({variable: "x"}) == AwsProfile({}, "eu-west-1", None)
    assert home.ask_with({variable: "x"}, "default").keys == HAD


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_a_region_of_the_environment_is_left_to_it(variable: str, home: Home) -> None:
    home.config.write_text("[default]\nregion = eu-west-1\n")
    assert home.ask_with({variable: "us-east-1"}).region is None


def test_a_server_of_the_environment_comes_before_the_files(home: Home) -> None:
    home.config.write_text("[default]\nendpoint_url = https://file.test\n")
    assert home.ask(AWS_ENDPOINT="https://c.test").endpoint == "https://c.test"
    assert home.ask(AWS_ENDPOINT="https://c.test", AWS_ENDPOINT_URL="https://b.test").endpoint == "https://b.test"
    both = {"AWS_ENDPOINT_URL": "https://b.test", "AWS_ENDPOINT_URL_S3": "https://a.test"}
    assert home.ask_with(both).endpoint == "https://a.test"


def test_keys_are_those_of_one_file(home: Home) -> None:
    home.config.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = x\naws_session_token = old\n")
    home.credentials.write_text(f"[default]\n{KEYS}")
    assert home.ask().keys == HAD


@pytest.mark.parametrize("line", ["aws_access_key_id = AKIDEXAMPLE", f"aws_secret_access_key = {SECRET}"])
def test_half_a_pair_of_keys_is_an_error(line: str, home: Home) -> None:
    home.credentials.write_text(f"[default]\n{line}\n")
    with pytest.raises(ConfigError, match="AWS profile default: it has one of") as caught:
        home.ask()
    assert SECRET not in str(caught.value)
    assert home.ask(AWS_ACCESS_KEY_ID="x").keys == {}


def test_a_profile_that_is_not_there_is_an_error(home: Home) -> None:
    home.credentials.write_text(f"[default]\n{KEYS}")
    with pytest.raises(ConfigError, match="AWS profile none: there is no such profile"):
        home.ask("none")
    with pytest.raises(ConfigError, match="AWS profile none: there is no such profile"):
        home.ask(AWS_PROFILE="none")


@pytest.mark.parametrize(
    "line",
    [
        "sso_session = corp",
        "sso_start_url = https://corp.test",
        "role_arn = arn:aws:iam::1:role/x\nsource_profile = default",
        "credential_process = /bin/print-keys",
    ],
)
def test_a_profile_whose_keys_others_hold_says_how_to_get_them(line: str, home: Home) -> None:
    home.config.write_text(f"[profile corp]\n{line}\nregion = eu-west-1\n")
    with pytest.raises(ConfigError, match="aws configure export-credentials --profile corp --format env"):
        home.ask("corp")
    with pytest.raises(ConfigError, match="export-credentials"):
        home.ask(AWS_PROFILE="corp")
    # Where there are keys, or none are wanted, the rest of it counts.
    assert home.ask(AWS_PROFILE="corp", AWS_ACCESS_KEY_ID="x") == AwsProfile({}, "eu-west-1", None)
    assert home.ask("corp", anonymous=True) == AwsProfile({}, "eu-west-1", None)


@pytest.mark.parametrize(
    "text",
    [
        f"{KEYS}",
        f"[default]\n{SECRET}\n",
        f"[default\n{KEYS}",
        f"[default]\n= {SECRET}\n",
    ],
    ids=["no section", "no value", "half a section", "no name"],
)
def test_a_damaged_file_is_named_and_not_shown(text: str, home: Home) -> None:
    home.credentials.write_text(text)
    with pytest.raises(ConfigError) as caught:
        home.ask()
    assert caught.value.where == str(home.credentials)
    assert SECRET not in f"{caught.value}{caught.value!r}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe[default]", b"[default]\naws_access_key_id = \xe9\n"])
def test_a_file_that_is_no_text_is_none(content: bytes, home: Home) -> None:
    home.credentials.write_bytes(content)
    assert home.ask() == AwsProfile()


def test_a_folder_in_place_of_a_file_is_none(home: Home) -> None:
    home.credentials.mkdir()
    assert home.ask() == AwsProfile()


def test_files_may_be_written_by_windows_and_hold_what_others_need(home: Home) -> None:
    home.credentials.write_bytes(f"\ufeff[default]\r\n{KEYS}".replace("\n", "\r\n").encode())
    home.config.write_text(
        "# mine\n[default]\ns3 =\n    addressing_style = path\noutput = json\n[sso-session x]\na=b\n"
    )
    assert home.ask() == AwsProfile(HAD)


def test_a_value_that_is_empty_is_none(home: Home) -> None:
    home.config.write_text("[default]\nregion =\nendpoint_url =\naws_access_key_id =\n")
    assert home.ask() == AwsProfile()


def test_a_percent_sign_stands_for_itself(home: Home) -> None:
    home.credentials.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = %(x)s%\n")
    assert home.ask().keys["secret_access_key"] == "%(x)s%"


def test_a_profile_does_not_show_its_keys(home: Home) -> None:
    home.credentials.write_text(f"[default]\n{KEYS}")
    assert SECRET not in repr(home.ask())


@given(st.text(st.sampled_from("[]= \n#;defaultprofile_keyid:%\\\"'\t") | st.characters(codec="utf-8"), max_size=80))
def test_whatever_a_file_holds_it_is_read_or_refused(text: str) -> None:
    try:
        found = _read_section(text, "default", Path("credentials"))
    except ConfigError as error:
        said = str(error)
        found = None
    else:
        said = "credentials: it is not as AWS's tools write it"
    assert said.startswith("credentials: it is not as AWS's tools write it")
    assert found is None or all(isinstance(value, str) for value in found.values())


def test_azures_server_is_the_environments() -> None:
    assert azure_endpoint({}) is None
    assert azure_endpoint({"AZURE_ENDPOINT": "https://b.test"}) == "https://b.test"
    assert azure_endpoint({"AZURE_STORAGE_ENDPOINT": "https://a.test", "AZURE_ENDPOINT": "x"}) == "https://a.test"


def test_the_server_in_googles_place_is_named_by_its_variable() -> None:
    assert google_endpoint({}) is None
    assert google_endpoint({"GOOGLE_BASE_URL": "https://a.test"}) == "https://a.test"
