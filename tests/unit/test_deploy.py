"""The files in `server/deploy`, as Docker Compose, kubectl and Prometheus read them, and beside the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml
from phi_vision.cli.main import parser
from phi_vision.config import ServeConfig
from phi_vision.errors import RequestError
from phi_vision.limits import Limits
from phi_vision.serving.metrics import DECLARED
from phi_vision.spec import PHI_3_5_VISION

from tests.support.programs import program
from tests.support.prometheus import DEPLOY

ROOT = DEPLOY.parents[1]
TOOLS = Path(sys.executable).parent
MONITORING = DEPLOY / "kubernetes" / "monitoring"
KUBERNETES = ("1.30", "1.37")  # the oldest with all that is used, and the newest that the schemas know

DEFAULTS = ServeConfig()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HOME = PurePosixPath("/home/phi")
CHECK_INTERVAL_S = 1  # of HAProxy
ENGINE_STOP_S = 15  # what a server takes beyond its requests, with room to spare


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def composed() -> Any:
    """The file as Docker Compose understands it."""
    words = ("--file", str(DEPLOY / "compose.yml"), "--profile", "monitoring", "config", "--format", "json")
    return json.loads(run(str(TOOLS / "docker-compose"), *words))


@pytest.fixture(scope="module")
def servers(composed: Any) -> list[dict[str, Any]]:
    """The services that serve."""
    found = [service for name, service in composed["services"].items() if name.startswith("server-")]
    assert len(found) > 1
    return found


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `kubectl apply -k` would send, by kind and name without the digest of its content."""
    folder = tmp_path_factory.mktemp("deploy") / "deploy"
    shutil.copytree(DEPLOY, folder, ignore=shutil.ignore_patterns("api-keys"))
    (folder / "api-keys").write_text("a-key\n")
    rendered = yaml.safe_load_all(run(str(TOOLS / "kubectl"), "kustomize", str(folder)))
    return {
        f"{each['kind']}/{re.sub('-[a-z0-9]{10}$', '', each['metadata']['name'])}": each for each in rendered
    }


@pytest.fixture(scope="module")
def pod(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["Deployment/server"]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object(objects: dict[str, dict[str, Any]], version: str) -> None:
    assert len(objects) > 10
    for each in objects.values():
        kubernetes_validate.validate(each, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):  # a field that there is not
        server = objects["Deployment/server"]
        kubernetes_validate.validate(
            {**server, "spec": {**server["spec"], "replica": 2}}, version, strict=True
        )


def test_the_servers_get_flags_that_there_are(servers: list[dict[str, Any]], pod: dict[str, Any]) -> None:
    for words in (*(server["command"] for server in servers), pod["containers"][0]["args"]):
        options, unknown = parser().parse_known_args(["serve", *words])
        assert not unknown
        config = ServeConfig.from_flags(options, ())
        assert config.model == PHI_3_5_VISION.hub_id  # never the demo
        assert config.limits.stop_notice_s > CHECK_INTERVAL_S
        assert config.api_key_file and PurePosixPath(config.api_key_file).name == "api-keys"


def test_keys_are_mounted_where_the_flag_looks(
    composed: Any, servers: list[dict[str, Any]], pod: dict[str, Any]
) -> None:
    for server in servers:
        (secret,) = server["secrets"]
        assert secret["target"] in server["command"] and secret["source"] in composed["secrets"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert f"--api-key-file={mounts['api-keys']}/api-keys" in pod["containers"][0]["args"]


def test_all_ports_are_the_servers(
    composed: Any, objects: dict[str, dict[str, Any]], pod: dict[str, Any]
) -> None:
    port = DEFAULTS.port
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(port)]
    gateway = composed["services"]["gateway"]
    assert gateway["environment"]["SERVERS"] == f"servers:{port}"
    assert [published["target"] for published in gateway["ports"]] == [port]
    assert re.findall(r"^ +bind :(\d+)$", (DEPLOY / "haproxy.cfg").read_text(), re.MULTILINE) == [str(port)]
    assert f"port: {port}" in composed["configs"]["prometheus"]["content"]
    assert [each["containerPort"] for each in pod["containers"][0]["ports"]] == [port]
    (ingress,) = objects["NetworkPolicy/server"]["spec"]["ingress"]
    assert ingress["ports"] == [{"port": port}]
    headless = objects["Service/servers"]
    container = objects["Deployment/gateway"]["spec"]["template"]["spec"]["containers"][0]
    (address,) = [each["value"] for each in container["env"]]
    namespace = headless["metadata"]["namespace"]
    assert address == f"servers.{namespace}.svc.cluster.local:{headless['spec']['ports'][0]['port']}"


def test_probes_ask_routes_that_there_are(servers: list[dict[str, Any]], pod: dict[str, Any]) -> None:
    source = (ROOT / "server/phi_vision/serving/routes/health.py").read_text()  # importing it takes seconds
    routes = set(re.findall(r'^@router\.get\("(.+)"\)', source, re.MULTILINE))
    container = pod["containers"][0]
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {probe["path"] for probe in probes.values()} <= routes
    # A pod that downloads must not be restarted, and gets no requests.
    assert probes["startup"]["path"] == probes["liveness"]["path"] == "/livez"
    assert probes["readiness"]["path"] == "/readyz"
    assert "GET /readyz" in (DEPLOY / "haproxy.cfg").read_text()
    for server in servers:
        assert f"127.0.0.1:{DEFAULTS.port}/readyz" in server["healthcheck"]["test"][-1]


def test_a_server_has_the_time_to_stop(servers: list[dict[str, Any]], pod: dict[str, Any]) -> None:
    needed_s = DEFAULTS.shutdown_timeout + ENGINE_STOP_S
    assert pod["terminationGracePeriodSeconds"] >= needed_s
    for server in servers:
        assert server["stop_grace_period"] == "1m0s" and needed_s <= 60


def test_the_gateway_has_the_time_to_stop(objects: dict[str, dict[str, Any]]) -> None:
    spec = objects["Deployment/gateway"]["spec"]["template"]["spec"]
    pause_s = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    (minutes,) = re.findall(r"hard-stop-after (\d+)m\b", (DEPLOY / "haproxy.cfg").read_text())
    assert spec["terminationGracePeriodSeconds"] >= 60 * int(minutes) + pause_s


def test_a_server_runs_as_the_images_user(pod: dict[str, Any]) -> None:
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    assert f"--uid {user} phi" in DOCKERFILE
    context = pod["securityContext"]
    assert context["runAsUser"] == context["fsGroup"] == int(user) and context["runAsNonRoot"]


def test_what_servers_share_lies_where_they_look(
    servers: list[dict[str, Any]], pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(HOME))
    wanted = {
        "weights": str(HOME / ".cache/huggingface"),
        "files": str(Limits().files_path),
        "cache": str(HOME / ".cache"),
    }
    container = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert wanted.items() <= container.items()
    claims = {each["name"] for each in pod["volumes"] if "persistentVolumeClaim" in each}
    assert claims == {"weights", "files"}
    for number, server in enumerate(servers):
        volumes = {volume["source"]: volume["target"] for volume in server["volumes"]}
        assert {name.removesuffix(f"-{number}"): target for name, target in volumes.items()} == wanted
    # Volumes get their owner from the image.
    (made,) = re.findall(r"mkdir -p (.+) \\", DOCKERFILE)
    assert {wanted["weights"], wanted["files"]} <= set(made.split())


def test_each_server_has_a_gpu_of_its_own(servers: list[dict[str, Any]], pod: dict[str, Any]) -> None:
    gpus = [server["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for server in servers]
    assert gpus == [[str(number)] for number in range(len(servers))]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_gateway_waits_for_clients_and_refuses_as_the_servers_do() -> None:
    config = (DEPLOY / "haproxy.cfg").read_text()
    for timeout in ("http-request", "client"):
        assert re.findall(rf"timeout {timeout} (\d+)s", config) == [f"{DEFAULTS.limits.client_timeout_s:.0f}"]
    bodies = {
        int(code): json.loads(body) for code, body in re.findall(r"http-error status (\d+) .*?'(.+)'", config)
    }
    assert set(bodies) == {502, 503, 504}
    for status, body in bodies.items():
        like = RequestError(body["error"]["message"], status=status).body()
        assert body == like if status == 503 else body.keys() == like.keys()
        assert body["error"].keys() == like["error"].keys() and body["error"]["code"] == status


def test_the_autoscaler_reads_a_metric_that_the_adapter_makes(
    objects: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    (wanted,) = objects["HorizontalPodAutoscaler/server"]["spec"]["metrics"]
    (rule,) = yaml.safe_load((MONITORING / "adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == wanted["pods"]["metric"]["name"]
    declared = {metric.name for metric in DECLARED}
    assert set(re.findall(r"\b(phi_vision_\w+)\{", rule["seriesQuery"] + rule["metricsQuery"])) <= declared
    # As the adapter fills it in, evaluated by Prometheus: a full server and an idle one.
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="phi-vision", pod=~"a|b"')
    series = [("in_flight", "a", 30), ("in_flight", "b", 0), ("limit", "a", 40), ("limit", "b", 40)]
    inputs = [
        {
            "series": f'phi_vision_requests_{name}{{namespace="phi-vision", pod="{pod}"}}',
            "values": f"{value}x5",
        }
        for name, pod, value in series
    ]
    samples = [{"labels": f'{{pod="{pod}"}}', "value": value} for pod, value in (("a", 0.75), ("b", 0))]
    test = {"expr": query, "eval_time": "2m", "exp_samples": samples}
    (tmp_path / "test.yml").write_text(
        json.dumps({"tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": [test]}]})
    )
    run(program("promtool", "prometheus"), "test", "rules", str(tmp_path / "test.yml"))


def test_prometheus_takes_its_configurations(composed: Any, tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", tmp_path)
    of_kubernetes = yaml.safe_load((MONITORING / "scrape.yaml").read_text())
    for config in (yaml.safe_load(composed["configs"]["prometheus"]["content"]), of_kubernetes):
        (job,) = config["scrape_configs"]
        assert job["job_name"] == "phi-vision"  # which the alerts are about
        job.pop("kubernetes_sd_configs", None)  # Debian builds Prometheus without it
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        run(program("promtool", "prometheus"), "check", "config", str(tmp_path / "prometheus.yml"))


def test_what_scrapes_and_what_is_asked_has_the_servers_label(objects: dict[str, dict[str, Any]]) -> None:
    labels = {"app": "server"}
    assert objects["Deployment/server"]["spec"]["template"]["metadata"]["labels"] == labels
    assert objects["Service/servers"]["spec"]["selector"] == labels
    for kind in ("PodDisruptionBudget", "Deployment"):
        assert objects[f"{kind}/server"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["NetworkPolicy/server"]["spec"]["podSelector"]["matchLabels"] == labels
    assert "regex: server;http" in (MONITORING / "scrape.yaml").read_text()
