"""Every file of the package `cli` is a command with help, documented in docs/commands.md."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from keras_savekit import cli
from keras_savekit.cli.main import savekit
from keras_savekit.store.manifest import DEPTHS

FILES = sorted(Path(cli.__file__).parent.glob("[!_]*.py"))
NAMES = sorted(path.stem.replace("_", "-") for path in FILES if path.stem != "main")
PAGE = (Path(__file__).parent.parent / "docs" / "commands.md").read_text()
CONTEXT = click.Context(savekit, info_name="savekit")


def section(name):
    (text,) = re.findall(rf"^## `savekit {name}[ `](.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return text


def test_every_file_is_a_command_and_nothing_else_is():
    assert savekit.list_commands(CONTEXT) == NAMES
    assert {"list", "verify", "resume-plan", "check", "explain", "schema"} <= set(NAMES)
    assert {"from-keras", "convert", "pin", "unpin"} <= set(NAMES)
    for name in ("main", "_output", "-output", "resume_plan", "__init__"):
        assert savekit.get_command(CONTEXT, name) is None


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_for_itself_and_each_of_its_options(name):
    result = CliRunner().invoke(savekit, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert f" {name} " in result.output.splitlines()[0]
    command = savekit.get_command(CONTEXT, name)
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_the_page_of_commands_has_a_section_for_every_command_and_no_other():
    assert sorted(re.findall(r"^## `savekit ([\w-]+)", PAGE, re.MULTILINE)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_section_of_a_command_names_all_of_its_arguments_and_options(name):
    params = savekit.get_command(CONTEXT, name).params
    options = {option for param in params for option in param.opts if option.startswith("--")}
    assert set(re.findall(r"`(--[\w-]+)", section(name))) == options
    arguments = [param.name.upper() for param in params if isinstance(param, click.Argument)]
    assert f"## `{' '.join(['savekit', name, *arguments])}`\n" in PAGE


def test_verify_offers_every_depth():
    (depth,) = (
        param for param in savekit.get_command(CONTEXT, "verify").params if param.name == "depth"
    )
    assert tuple(depth.type.choices) == DEPTHS


def test_a_file_is_all_that_a_new_command_needs(tmp_path, monkeypatch):
    (tmp_path / "say_hello.py").write_text(
        "import click\n@click.command\ndef command():\n"
        "    'Print a greeting.'\n    click.echo('hello')\n    return 3\n"
    )
    (tmp_path / "_helper.py").write_text("raise AssertionError('imported')\n")
    (tmp_path / "broken.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    assert {"say-hello", "broken"} <= set(savekit.list_commands(CONTEXT))
    result = CliRunner().invoke(savekit, ["say-hello"], standalone_mode=False)
    assert (result.output, result.return_value) == ("hello\n", 3)
