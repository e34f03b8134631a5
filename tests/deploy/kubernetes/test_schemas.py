"""Every manifest is what the API server and KubeRay's custom resource definitions accept."""

from __future__ import annotations

import copy
import shutil

import pytest

pytest.importorskip("kubernetes_validate", reason="the tests' dependencies are not installed: make venv")

from tests.deploy.kubernetes.manifests import copied, faults, read, rendered

KUSTOMIZATIONS = ("base", "overlays/one-machine", "rayjob")


def found(manifests, kind, name="hogshead"):
    return next(one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name))


@pytest.fixture
def folder(tmp_path):
    return copied(tmp_path)


@pytest.mark.parametrize("name", ["base", "rayjob"])
def test_every_manifest_is_accepted(folder, name):
    manifests = read(folder / name)
    assert {one["kind"] for one in manifests} & {"RayCluster", "RayJob"}
    assert {one["metadata"]["name"]: faults(one) for one in manifests if faults(one)} == {}


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_what_kustomize_makes_of_them_is_accepted(folder, name):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    manifests = rendered(folder / name)
    assert [one for one in manifests if faults(one)] == []
    namespaces = {one["metadata"].get("namespace") for one in manifests if one["kind"] != "Namespace"}
    assert namespaces == {found_namespace(manifests)}
    images = {container["image"] for container in containers_of(manifests)}
    assert images and all(":" in image for image in images)  # also in the custom resources


def found_namespace(manifests):
    return next(one["metadata"]["name"] for one in manifests if one["kind"] == "Namespace")


def containers_of(tree):
    if isinstance(tree, list):
        return [found for item in tree for found in containers_of(item)]
    if not isinstance(tree, dict):
        return []
    return [*tree.get("containers", ()), *(found for item in tree.values() for found in containers_of(item))]


def test_on_one_machine_the_volume_is_shared_by_the_pods_of_that_machine(folder):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    manifests = rendered(folder / "overlays/one-machine")
    assert found(manifests, "PersistentVolumeClaim", "hogshead-jobs")["spec"]["accessModes"] == ["ReadWriteOnce"]
    service = found(manifests, "Deployment")["spec"]["template"]["spec"]
    (near,) = service["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert near["topologyKey"] == "kubernetes.io/hostname"
    assert near["labelSelector"]["matchLabels"] == {"ray.io/cluster": "hogshead", "ray.io/node-type": "head"}


# Where, what it is made, and what is said of it: the schemas are not so wide that anything passes.
WRONG = [
    ("RayCluster", "spec.headGroupSpecs", {}, "headGroupSpecs"),
    ("RayCluster", "spec.authOptions.mode", "tokens", "tokens"),
    ("RayCluster", "spec.headGroupSpec.rayStartParams.num-cpus", 0, "0 is not of type 'string'"),
    ("RayCluster", "spec.workerGroupSpecs.0.replicas", "3", "'3' is not of type 'integer'"),
    ("RayCluster", "spec.workerGroupSpecs.0.minReplicas", None, "minReplicas"),
    ("RayCluster", "spec.headGroupSpec.template.spec.containers.0.livenessprobe", {}, "livenessprobe"),
    ("RayCluster", "spec.headGroupSpec.template.spec.containers.0.ports.0.containerPort", "6379", "6379"),
    ("RayCluster", "spec.gcsFaultToleranceOptions.redisPassword.valueFrom.secretRef", {}, "secretRef"),
    ("RayJob", "spec.entryPoint", "hogshead", "entryPoint"),
    ("RayJob", "spec.submissionMode", "Sidecar", "Sidecar"),
    ("RayJob", "spec.rayClusterSpec.headGroupSpec", None, "headGroupSpec"),
    ("RayJob", "spec.submitterPodTemplate.spec.containers.0.name", None, "name"),
    ("Deployment", "spec.template.spec.containers.0.readinessProbe.httpget", {}, "httpget"),
    ("NetworkPolicy", "spec.ingress.0.froms", [], "froms"),
]


@pytest.mark.parametrize("kind, path, value, said", WRONG, ids=[f"{kind}-{path}" for kind, path, _, _ in WRONG])
def test_a_wrong_manifest_is_refused(folder, kind, path, value, said):
    manifest = copy.deepcopy(
        next(one for one in read(folder / "base") + read(folder / "rayjob") if one["kind"] == kind)
    )
    assert faults(manifest) == []
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = manifest
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    assert any(said in fault for fault in faults(manifest)), faults(manifest)
