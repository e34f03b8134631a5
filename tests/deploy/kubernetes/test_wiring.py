"""What one manifest says of another is true, and all of them fit the image, the command line and Ray."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("kubernetes_validate", reason="the tests' dependencies are not installed: make venv")

import ray

from deploy.cli import parser
from deploy.container.roles import ray_environment
from deploy.job import load_job
from tests.deploy.kubernetes.manifests import FOLDER, copied, pods, read

DEPLOY = FOLDER.parent
OF_KUBERAY = {("Secret", "hogshead")}  # it makes a Secret of the cluster's name for authOptions
PORT_OF_AGENT = 52365  # KubeRay starts every node with it


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    folder = copied(tmp_path_factory.mktemp("manifests"))
    return {name: read(folder / name) for name in ("base", "rayjob")}


@pytest.fixture(scope="module", params=["base", "rayjob"])
def manifests(request, applied):
    return applied[request.param]


def one(manifests, kind, name="hogshead"):
    return next(found for found in manifests if (found["kind"], found["metadata"]["name"]) == (kind, name))


def all_pods(manifests):
    return {name: pod for manifest in manifests for name, pod in pods(manifest)}


def container(pod):
    (only,) = pod["spec"]["containers"]
    return only


def named(tree):
    """Kind and name of all Secrets, ConfigMaps and claims that a manifest needs."""
    if isinstance(tree, list):
        return {pair for item in tree for pair in named(item)}
    if not isinstance(tree, dict):
        return set()
    found = {pair for item in tree.values() for pair in named(item)}
    for key, kind, field in (
        ("secretKeyRef", "Secret", "name"),
        ("secret", "Secret", "secretName"),
        ("configMap", "ConfigMap", "name"),
        ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
    ):
        if key in tree:
            found.add((kind, tree[key][field]))
    return found


def test_whatever_is_named_exists(manifests):
    there = {(found["kind"], found["metadata"]["name"]) for found in manifests} | OF_KUBERAY
    assert named(manifests) and named(manifests) <= there


def test_keys_of_secrets_exist(applied):
    for manifest in applied["base"]:
        for name, key in re.findall(r"'name': '(\S+)', 'key': '(\S+)'", str(manifest)):
            if ("Secret", name) not in OF_KUBERAY:
                assert key in one(applied["base"], "Secret", name)["data"]


def test_no_secret_is_in_the_repository():
    kept = [path.name for path in (FOLDER / "base" / "secrets").iterdir() if path.name not in ("token", "redis")]
    assert kept == [".gitignore"]
    assert "*" in (FOLDER / "base" / "secrets" / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "stringData" not in "".join(path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.yaml"))


def test_every_pod_is_admitted_where_pods_are_restricted(manifests):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, the level "restricted"."""
    (space,) = [found for found in manifests if found["kind"] == "Namespace"]
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert all_pods(manifests)
    for name, pod in all_pods(manifests).items():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
        assert pod["spec"]["securityContext"]["runAsUser"] > 0, name
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container(pod)["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container(pod)["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        kinds = {kind for volume in pod["spec"].get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}, name


def test_every_pod_is_bounded_and_probed_and_has_no_token_of_kubernetes(manifests):
    for name, pod in all_pods(manifests).items():
        only = container(pod)
        assert only["resources"]["requests"].keys() >= {"cpu", "memory"}, name
        assert only["resources"]["limits"]["memory"], name
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["enableServiceLinks"] is False, name
        mounted = {mount["name"] for mount in only.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in pod["spec"].get("volumes", ())}, name
        if not name.endswith("/submitter"):
            ports = {port["name"] for port in only["ports"]} | {PORT_OF_AGENT}
            for probe in ("readinessProbe", "livenessProbe"):
                how = only[probe].get("httpGet") or only[probe]["tcpSocket"]
                assert how["port"] in ports, name


def test_our_pods_run_as_the_images_user(manifests):
    (uid,) = re.findall(r"useradd --uid (\d+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    ours = {name: pod for name, pod in all_pods(manifests).items() if container(pod)["image"] == "hogshead"}
    assert len(ours) >= 3
    for name, pod in ours.items():
        context = pod["spec"]["securityContext"]
        assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {int(uid)}, name


def test_head_and_service_share_the_jobs_at_one_path_and_nothing_else(applied):
    places = {}
    for name, pod in all_pods(applied["base"]).items():
        claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["spec"]["volumes"]}
        for mount in container(pod)["volumeMounts"]:
            if claims[mount["name"]]:
                places.setdefault(claims[mount["name"]]["claimName"], {})[name] = mount["mountPath"]
    assert places.pop("hogshead-jobs") == {"hogshead": "/jobs", "hogshead/head": "/jobs"}
    assert all(len(users) == 1 for users in places.values())
    assert one(applied["base"], "PersistentVolumeClaim", "hogshead-jobs")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_ray_is_set_as_in_compose(applied, monkeypatch):
    monkeypatch.setattr("os.environ", {})
    said = {entry["name"]: entry.get("value") for entry in container(all_pods(applied["base"])["hogshead/head"])["env"]}
    # KubeRay sets the first. With the second the kernel would be left to kill, and it kills all processes of a pod at once.
    other = {"RAY_gcs_rpc_server_reconnect_timeout_s", "RAY_memory_monitor_refresh_ms"}
    assert {name: said.get(name) for name in ray_environment().keys() - other}.items() <= ray_environment().items()
    assert "RAY_memory_monitor_refresh_ms" not in said


def test_the_services_command_line_is_one_of_hogshead(applied):
    pod = all_pods(applied["base"])["hogshead"]
    only = container(pod)
    program, *arguments = [*only["command"], *only["args"]]
    assert program == "hogshead"
    told = parser().parse_args(arguments)
    mounts = {mount["mountPath"] for mount in only["volumeMounts"]}
    assert {str(told.jobs), str(Path(told.state).parent), str(Path(told.token_file).parent)} <= mounts
    secret = one(applied["base"], "Secret", "hogshead-token")
    assert Path(told.token_file).name in secret["data"]
    assert told.ray == f"http://{one(applied['base'], 'RayCluster')['metadata']['name']}-head-svc:8265"
    assert {(port["name"], port["containerPort"]) for port in only["ports"]} == {
        ("grpc", told.port),
        ("http", told.web_port),
    }


def selects(selector, pod):
    labels = pod["metadata"]["labels"]
    terms = selector.get("matchExpressions", ())
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        term["operator"] == "In" and labels.get(term["key"]) in term["values"] for term in terms
    )


def test_services_find_their_pods_and_ports(applied):
    every = all_pods(applied["base"])
    found = {}
    for service in (manifest for manifest in applied["base"] if manifest["kind"] == "Service"):
        (name,) = [name for name, pod in every.items() if selects({"matchLabels": service["spec"]["selector"]}, pod)]
        found[service["metadata"]["name"]] = name
        ports = {port["name"]: port["containerPort"] for port in container(every[name])["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    assert found == {"hogshead": "hogshead", "hogshead-redis": "hogshead-redis"}
    redis = one(applied["base"], "RayCluster")["spec"]["gcsFaultToleranceOptions"]["redisAddress"]
    assert redis == "hogshead-redis:6379"


def allowed(manifests, caller, called, port):
    """Whether the policies let one pod call another, both of this namespace."""
    policies = [manifest["spec"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"]

    def let(direction, own, other, key):
        bound = [one for one in policies if selects(one["podSelector"], own) and direction in one["policyTypes"]]
        rules = [rule for one in bound for rule in one.get(direction.lower(), ())]
        return not bound or any(
            port in [entry["port"] for entry in rule.get("ports", [{"port": port}])]
            and any(
                selects(peer["podSelector"], other) if "podSelector" in peer else "namespaceSelector" in peer
                for peer in rule.get(key, [{"podSelector": {}}])
            )
            for rule in rules
        )

    return let("Egress", caller, called, "to") and let("Ingress", called, caller, "from")


def test_the_network_lets_through_what_is_needed_and_no_more(applied):
    every = all_pods(applied["base"])
    stranger = {"metadata": {"labels": {"app": "stranger"}}}
    head, node, service, redis = (
        every[name] for name in ("hogshead/head", "hogshead/node", "hogshead", "hogshead-redis")
    )

    def may(caller, called, port):
        return allowed(applied["base"], caller, called, port)

    assert may(service, head, 8265) and may(node, head, 6379) and may(node, node, 40001) and may(head, redis, 6379)
    assert may(stranger, service, 50700) and may(stranger, service, 50780) and may(stranger, node, 8080)
    assert not may(stranger, head, 8265) and not may(stranger, head, 6379) and not may(stranger, redis, 6379)
    assert not may(node, redis, 6379) and not may(service, node, 40001) and not may(service, head, 6379)
    assert not may(redis, head, 8265)


def clusters(manifests):
    for manifest in manifests:
        if manifest["kind"] in ("RayCluster", "RayJob"):
            yield manifest["spec"].get("rayClusterSpec", manifest["spec"])


def test_rays_version_is_that_of_the_image_and_of_these_tests(manifests):
    constraints = (DEPLOY / "container" / "constraints.txt").read_text(encoding="utf-8")
    (pinned,) = re.findall(r"^ray==(\S+)$", constraints, re.MULTILINE)
    assert [spec["rayVersion"] for spec in clusters(manifests)] == [pinned]
    assert ray.__version__ == pinned


def test_ray_asks_for_its_token_and_trains_on_the_nodes_only(manifests):
    (spec,) = clusters(manifests)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_example_run_is_a_job_that_fits_its_cluster(applied):
    job = one(applied["rayjob"], "RayJob", "digits-easgd")["spec"]
    program, *arguments = shlex.split(job["entrypoint"])
    assert program == "hogshead"
    told = parser().parse_args(arguments)
    assert told.backend == "ray"

    head = job["rayClusterSpec"]["headGroupSpec"]["template"]
    mounts = {mount["mountPath"] for mount in container(head)["volumeMounts"]}
    assert {str(Path(told.job).parent), str(Path(told.run).parent)} <= mounts
    assert Path(told.job).name in one(applied["rayjob"], "ConfigMap", "digits-easgd")["data"]

    resolved = load_job(FOLDER / "rayjob" / "job.toml", overrides=["backend=ray"])
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    cpus = group["replicas"] * float(container(group["template"])["resources"]["limits"]["cpu"])
    cluster = resolved.cluster
    assert resolved.workers.count * cluster.replica_cpus + resolved.shards.count * cluster.shard_cpus <= cpus
