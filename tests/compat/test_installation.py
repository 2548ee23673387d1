"""Installed by pip beside the real LLaMA-Factory: nothing is overwritten, in any order."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.demo import demo_model_path
from tests.compat.environments import Environment, build_own_wheel, build_real_wheel

COMMANDS = ("llamafactory-cli", "lmf")
SCRIPT = "vllm_infer.py"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_own_wheel(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_real_wheel(tmp_path_factory.mktemp("real"))


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    # A space in the path: the commands must stand it.
    return Environment(tmp_path / "an environment")


@pytest.fixture(scope="module")
def _installed(tmp_path_factory: pytest.TempPathFactory, own: Path) -> Environment:
    made = Environment(tmp_path_factory.mktemp("own") / "environment")
    made.install(own)
    return made


@pytest.fixture
def installed(tmp_path: Path, _installed: Environment) -> Environment:
    """An environment in which pip has installed quire-llamafactory alone."""
    return Environment(tmp_path / "an environment", like=_installed)


def _files(environment: Environment) -> dict[str, bytes]:
    """The real package's files: the package and the commands."""
    paths = [*environment.packages.glob("llamafactory/**/*.py")]
    paths += [environment.scripts / name for name in COMMANDS]
    return {path.name + path.parent.name: path.read_bytes() for path in paths if path.exists()}


def test_pip_install_is_enough_for_users_code(environment: Environment, own: Path) -> None:
    environment.install(own)
    assert environment.whose() == "quire"
    result = environment.run(
        *(environment.python, "-m", "llamafactory.cli", "chat", demo_model_path()),
        *("do_sample=false", "max_new_tokens=8"),
        text="Hello!",
    )
    assert (result.returncode, bool(result.stdout.strip())) == (0, True), result.stderr
    assert not any((environment.scripts / name).exists() for name in COMMANDS)
    environment.uninstall("quire-llamafactory")
    assert "No module named 'llamafactory'" in environment.whose()
    assert not list(environment.packages.glob("*llamafactory*"))


def test_the_real_one_comes_first_and_stays(
    environment: Environment, own: Path, real: Path
) -> None:
    environment.install(real)
    before = _files(environment)
    assert len(before) == 6
    environment.install(own)
    assert _files(environment) == before
    assert environment.whose() == "real"
    environment.uninstall("quire-llamafactory")
    assert _files(environment) == before
    assert environment.run(environment.scripts / "lmf").stdout == "the real one\n"
    assert environment.whose() == "real"


def test_the_real_one_comes_second_and_goes(installed: Environment, real: Path) -> None:
    installed.install(real)
    assert installed.whose() == "real"
    assert installed.code("import llamafactory.train, llamafactory.cli as c; c.main()") == (
        "the real one\n"
    )
    installed.uninstall("llamafactory")
    assert installed.whose() == "quire"
    assert "quire's compatibility package" in installed.code("import llamafactory.train")


def test_the_commands_are_installed_and_removed(installed: Environment) -> None:
    assert installed.manage("status").stdout.splitlines()[0] == "llamafactory: quire's"
    assert "llamafactory-cli: not there" in installed.manage("status").stdout
    assert installed.manage("install").returncode == 0
    assert installed.manage("install").returncode == 0  # twice does no harm
    assert "llamafactory-cli: quire's" in installed.manage("status").stdout
    for name in COMMANDS:
        assert installed.run(installed.scripts / name, "version").returncode == 0
        refused = installed.run(installed.scripts / name, "train", "config.yaml")
        assert (refused.returncode, "inference only" in refused.stderr) == (2, True)
    answer = installed.run(
        *(installed.scripts / "llamafactory-cli", "chat", demo_model_path()),
        "max_new_tokens=8",
        text="Hello!",
    )
    assert (answer.returncode, bool(answer.stdout.strip())) == (0, True), answer.stderr
    assert installed.manage("uninstall").returncode == 0
    assert not any((installed.scripts / name).exists() for name in COMMANDS)
    assert installed.manage("uninstall").stdout == "There was nothing to remove.\n"


def test_the_commands_of_the_real_one_are_never_touched(installed: Environment, real: Path) -> None:
    assert installed.manage("install").returncode == 0
    installed.install(real)  # pip puts the real commands in the place of quire's
    before = _files(installed)
    assert installed.run(installed.scripts / "llamafactory-cli").stdout == "the real one\n"

    refused = installed.manage("install")
    assert refused.returncode == 1
    assert f"the package in {installed.packages / 'llamafactory'}" in refused.stderr
    removed = installed.manage("uninstall").stdout  # what the real one has not
    assert removed == f"Removed {installed.scripts / SCRIPT}.\n"
    assert "it is left as it is" in installed.manage("status").stdout
    assert "llamafactory-cli: another package's" in installed.manage("status").stdout
    assert _files(installed) == before


def test_the_script_is_a_command_too(installed: Environment) -> None:
    assert installed.manage("install").returncode == 0
    script = installed.scripts / SCRIPT
    for command in ((script,), (installed.python, script)):
        shown = installed.run(*command, "--help")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "--model_name_or_path" in shown.stdout
        refused = installed.run(*command, "m", "--templat", "qwen")
        assert (refused.returncode, "did you mean 'template'" in refused.stderr) == (2, True)
    assert installed.manage("uninstall").returncode == 0
    assert not script.exists()


def test_the_script_in_a_folder_of_the_users(
    installed: Environment, real: Path, tmp_path: Path
) -> None:
    """`python scripts/vllm_infer.py`, in an environment with the real package as well."""
    installed.install(real)
    folder = tmp_path / "some scripts"
    assert installed.manage("install", str(folder)).returncode == 1  # there is no such folder
    folder.mkdir()
    assert installed.manage("install", str(folder)).stdout == f"Wrote {folder / SCRIPT}.\n"
    shown = installed.run(installed.python, folder / SCRIPT, "--help")
    assert (shown.returncode, "Usage: vllm_infer.py" in shown.stdout) == (0, True), shown.stderr
    assert "quire's" in installed.manage("status", str(folder)).stdout.splitlines()[-1]
    assert installed.manage("uninstall", str(folder)).returncode == 0
    assert not list(folder.iterdir())

    theirs = folder / SCRIPT
    theirs.write_text("import fire\n")
    refused = installed.manage("install", str(folder))
    assert (refused.returncode, str(theirs) in refused.stderr) == (1, True)
    installed.manage("uninstall", str(folder))
    assert theirs.read_text() == "import fire\n"


def test_a_command_that_is_somebody_elses_is_left(installed: Environment) -> None:
    other = installed.scripts / "lmf"
    other.write_text("#!/bin/sh\necho mine\n")
    refused = installed.manage("install")
    assert (refused.returncode, str(other) in refused.stderr) == (1, True)
    assert not (installed.scripts / "llamafactory-cli").exists()  # all or none
    installed.manage("uninstall")
    assert other.read_text() == "#!/bin/sh\necho mine\n"


def test_quires_command_hands_over_to_a_real_one(
    installed: Environment, real: Path, tmp_path: Path
) -> None:
    """A real one on the path without its commands, such as a checkout: it runs, with a note."""
    assert installed.manage("install").returncode == 0
    checkout = tmp_path / "checkout"
    installed.pip("install", "--no-deps", "--no-index", "--target", str(checkout), str(real))
    (installed.packages / "checkout.pth").write_text(f"{checkout}\n")  # as an editable one is
    assert installed.whose() == "real"
    result = installed.run(installed.scripts / "llamafactory-cli")
    assert (result.returncode, result.stdout) == (0, "the real one\n")
    assert result.stderr.count("\n") == 1
    assert "its own command runs" in result.stderr


def test_a_hidden_real_one_is_an_error(installed: Environment, real: Path) -> None:
    """As where one environment lies over another: the real one is further back on the path."""
    further_back = installed.packages / "further back"
    installed.pip("install", "--no-deps", "--no-index", "--target", str(further_back), str(real))
    (installed.packages / "zz_back.pth").write_text(f"{further_back}\n")
    error = installed.whose()
    assert "ImportError: LLaMA-Factory 0.9.5 is installed, but Python finds quire's" in error
    assert "pip uninstall quire-llamafactory" in error
    assert installed.manage("install").returncode == 1


def test_activate_serves_a_folder_without_pth_files(
    environment: Environment, own: Path, real: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    environment.pip("install", "--no-deps", "--no-index", "--target", str(target), str(own))
    start = f"import sys; sys.path.insert(0, {str(target)!r})\nimport quire_llamafactory as q\n"
    assert "No module named 'llamafactory'" in environment.code(start + "import llamafactory")
    ask = (
        "print(q.activate())\nfrom llamafactory.chat import ChatModel; print(ChatModel.__module__)"
    )
    assert environment.code(start + ask) == "True\nquire.chat.chat_model\n"

    environment.install(real)
    answer = environment.code(start + ask)
    assert "False\nllamafactory.chat\n" in answer
    assert "RuntimeWarning: `llamafactory` stays the package in" in answer
