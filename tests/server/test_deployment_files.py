"""examples/deploy: what its files say to `quire serve`, and where they look for it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from quire.arguments import read_assignments
from quire.server.app import make_app
from quire.server.arguments import ServerArguments, read_server_arguments
from tests.server.serving import service_over

FILES = Path(__file__).parents[2] / "examples" / "deploy"
KEY = {"API_KEY": "a key of a test"}


def served(words: list[str]) -> ServerArguments:
    """The words after `quire serve` and the model, as the server reads them."""
    arguments, rest = read_server_arguments(read_assignments(words), KEY)
    assert not rest
    return arguments


def routes() -> set[str]:
    return {
        getattr(route, "path", "")
        for route in make_app(service_over(None, ServerArguments())).routes
    }


def unit(name: str) -> list[str]:
    text = (FILES / "quire.service").read_text(encoding="utf-8")
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def test_systemd_serves_and_waits_for_the_drain() -> None:
    (start,) = unit("ExecStart")
    program, command, model, *words = shlex.split(start)
    assert (program, command, model) == ("/opt/quire/bin/quire", "serve", "/etc/quire/config.yaml")
    assert float(unit("TimeoutStopSec")[0]) > served(words).drain_timeout


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
def test_systemd_understands_each_line(tmp_path: Path) -> None:
    text = (FILES / "quire.service").read_text(encoding="utf-8")
    copy = tmp_path / "quire.service"  # whose program is there
    copy.write_text(text.replace("/opt/quire/bin/quire", sys.executable), encoding="utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True
    )
    told = [line for line in verified.stderr.splitlines() if "quire.service" in line]
    assert (verified.returncode, told) == (0, [])


def test_docker_listens_for_others_and_asks_whether_it_is_ready() -> None:
    text = (FILES / "Dockerfile").read_text(encoding="utf-8")
    assert json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[1]) == ["quire", "serve"]  # type: ignore[index]
    words = json.loads(re.search(r"^CMD (.*)$", text, re.MULTILINE)[1])  # type: ignore[index]
    arguments = served(words[1:])
    assert arguments.host == "0.0.0.0"
    probed = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", text)
    assert probed is not None
    assert int(probed[1]) == arguments.port
    assert probed[2] in routes()


def test_compose_gives_the_page_the_servers_address() -> None:
    services = yaml.safe_load((FILES / "compose.yaml").read_text(encoding="utf-8"))["services"]
    arguments = served(services["quire"]["command"][1:])
    address = services["open-webui"]["environment"]["OPENAI_API_BASE_URL"]
    assert address == f"http://quire:{arguments.port}/v1"
    assert float(services["quire"]["stop_grace_period"][:-1]) > arguments.drain_timeout


def test_kubernetes_probes_what_there_is() -> None:
    text = (FILES / "kubernetes.yaml").read_text(encoding="utf-8")
    deployment, service = yaml.safe_load_all(text)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    arguments = served(container["args"][1:])
    (port,) = container["ports"]
    assert port["containerPort"] == arguments.port
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert pod["terminationGracePeriodSeconds"] > arguments.drain_timeout
    probes: dict[str, Any] = {
        name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")
    }
    assert {probe["path"] for probe in probes.values()} <= routes()
    assert probes["liveness"]["path"] == "/health"
    assert probes["readiness"]["path"] == "/ready"
