"""Settings: a file, then the environment, then flags; what is not known or not possible is said so."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from fastnl_engine.config import ENDPOINT, Config, ConfigError, client_endpoint, load


@pytest.fixture
def file(tmp_path: Path):
    def write(text: str) -> str:
        path = tmp_path / "engine.toml"
        path.write_text(text)
        return str(path)

    return write


def refusal(*args) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args)
    return str(caught.value)


def test_with_nothing_said_everything_has_its_default():
    config = load(None, {}, {})
    assert config == Config()
    assert config.state_file == Path("/var/lib/fastnl/state.db")


def test_flags_win_over_the_environment_and_the_environment_over_the_file(file):
    path = file('instance = "file"\nlog_level = "error"\nqueue = 5\n')
    environ = {"FASTNL_INSTANCE": "environment", "FASTNL_LOG_LEVEL": "warning"}
    config = load(path, environ, {"instance": "flag", "queue": None})
    assert (config.instance, config.log_level, config.queue) == ("flag", "warning", 5)


def test_the_environment_gives_text_and_every_type_is_read_from_it():
    config = load(None, {"FASTNL_QUEUE": "77", "FASTNL_DURABLE": "No", "FASTNL_STATE_DIR": "/x"}, {})
    assert (config.queue, config.durable, config.state_dir) == (77, False, "/x")


def test_other_variables_of_the_environment_are_not_looked_at():
    # FASTNL_DEBUG builds the extension, the rest is somebody else's
    assert load(None, {"FASTNL_DEBUG": "1", "HOME": "/root", "instance": "x"}, {}) == Config()


def test_an_unknown_setting_of_the_file_is_named_with_those_that_there_are(file):
    path = file('endpiont = "ipc:///x"\n')
    message = refusal(path, {}, {})
    assert path in message
    assert "'endpiont'" in message
    assert all(f.name in message for f in fields(Config))


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("queue = true", "queue"),
        ('queue = "1"\ndurable = "maybe"', "durable"),
        ("queue = 1.5", "queue"),
        ("durable = 1", "durable"),
        ("instance = 5", "instance"),
        ("endpoint = ['ipc:///x']", "endpoint"),
        ("[state_dir]", "state_dir"),
    ],
)
def test_a_setting_of_the_wrong_type_is_named_with_the_type_it_needs(file, text, setting):
    message = refusal(file(text), {}, {})
    assert f"{setting} must be of type" in message


@pytest.mark.parametrize("value", ["", "-1", "1e3", "²", "1.0", "many"])
def test_a_number_of_the_environment_that_is_none_is_refused(value):
    assert "the environment: queue must be of type int" in refusal(None, {"FASTNL_QUEUE": value}, {})


@pytest.mark.parametrize(
    ("values", "word"), [({"log_level": "loud"}, "loud"), ({"queue": 0}, "queue"), ({"audit": -1}, "audit")]
)
def test_a_value_out_of_bounds_is_refused(values, word):
    message = refusal(None, {}, values)
    assert "the command line" in message and word in message


@pytest.mark.parametrize("scheme", ["tcp", "udp", "ws", "vmci"])
@pytest.mark.parametrize(("setting", "keyed"), [("endpoint", "tcp"), ("events", "tcp_events")])
def test_what_would_be_open_to_a_network_is_refused_and_told_how_it_can_be(setting, keyed, scheme):
    message = refusal(None, {f"FASTNL_{setting.upper()}": f"{scheme}://0.0.0.0:1"}, {})
    assert all(word in message for word in (setting, f"{scheme}://0.0.0.0:1", keyed, "curve_secret", "ipc://"))


@pytest.mark.parametrize("setting", ["tcp", "tcp_events"])
def test_tcp_needs_a_key_from_whichever_place(file, setting):
    path = file(f'{setting} = "tcp://0.0.0.0:1"\n')
    assert f"{setting} needs curve_secret" in refusal(path, {}, {})
    assert load(path, {"FASTNL_CURVE_SECRET": "/k"}, {}).curve_secret == "/k"
    assert "tcp://ADDRESS:PORT" in refusal(None, {f"FASTNL_{setting.upper()}": "ipc:///x"}, {})


def test_folders_are_a_list_in_the_file_and_have_colons_in_the_environment(file):
    path = file('file_prefixes = ["/a", "/b:c"]\n')
    assert load(path, {}, {}).file_prefixes == ["/a", "/b:c"]
    assert load(path, {"FASTNL_FILE_PREFIXES": "/d:/e/f:"}, {}).file_prefixes == ["/d", "/e/f"]
    assert load(path, {"FASTNL_FILE_PREFIXES": ""}, {}).file_prefixes == []
    assert "file_prefixes must be of type list" in refusal(file("file_prefixes = [1]"), {}, {})


def test_a_file_that_is_missing_or_no_toml_is_named(file, tmp_path):
    assert "none.toml" in refusal(str(tmp_path / "none.toml"), {}, {})
    assert "engine.toml" in refusal(file("endpoint = "), {}, {})
    Path(tmp_path / "latin.toml").write_bytes(b'instance = "\xe9"')
    assert "latin.toml" in refusal(str(tmp_path / "latin.toml"), {}, {})


def test_a_client_takes_what_it_was_given_then_the_environment_then_the_default(monkeypatch):
    monkeypatch.delenv("FASTNL_ENDPOINT", raising=False)
    assert client_endpoint(None) == ENDPOINT
    monkeypatch.setenv("FASTNL_ENDPOINT", "ipc:///e")
    assert client_endpoint(None) == "ipc:///e"
    assert client_endpoint("ipc:///given") == "ipc:///given"
