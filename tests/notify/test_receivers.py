"""How addresses are read and shown."""

import pytest
from marketlake.notify.receivers import _without_secrets, receivers
from marketlake.settings import NotifySettings
from pydantic import SecretStr

SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general"


def names(urls: str | None) -> list[str]:
    settings = NotifySettings(urls=None if urls is None else SecretStr(urls))
    return [receiver.name for receiver in receivers(settings)]


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_no_address_means_no_receiver(nothing):
    assert names(nothing) == []


def test_addresses_are_separated_by_spaces_or_commas_that_stand_before_a_service():
    urls = "json://127.0.0.1:1/a,b, jsons://example.org/x json://127.0.0.1:2"

    assert names(urls) == ["json://127.0.0.1:1", "jsons://example.org", "json://127.0.0.1:2"]


def test_a_name_shows_neither_password_nor_path_nor_token():
    [plain, slack] = names(f"jsons://robot:pass1234@example.org/hook-5678 {SLACK}")

    assert plain == "jsons://example.org"
    assert slack.startswith("slack://")
    assert "T1JJ3T3L2" not in slack


def test_addresses_that_look_the_same_are_told_apart():
    assert names("json://h/one json://h/two") == ["json://h", "json://h (2)"]


def test_what_a_service_complains_of_is_told_without_the_address():
    url = SecretStr("jsons://robot:pass1234@example.org/hook-5678?+X-Auth=head-9012")
    told = _without_secrets("example.org: /hook-5678 refused robot (pass1234, head-9012)", url)

    assert told == "example.org: /**** refused **** (****, ****)"


def test_an_address_that_nobody_knows_fails_with_what_to_do():
    [receiver] = receivers(NotifySettings(urls=SecretStr("nosuch://place")))

    assert receiver.name == "unknown service"
    assert "MARKETLAKE_NOTIFY__URLS" in receiver.send(None)
