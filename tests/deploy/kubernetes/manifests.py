"""Reads the manifests below deploy/kubernetes, and says what the API server would refuse of them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

HERE = Path(__file__).parent
FOLDER = HERE.parents[2] / "deploy" / "kubernetes"
VERSION = "1.33"  # of Kubernetes
OF_RAY = {"RayCluster", "RayJob"}
SECRETS = {"token": "a-token", "redis": "a-password"}

Manifest = dict[str, Any]


def copied(folder: Path) -> Path:
    """The manifests with the secrets that its first lines say how to make, in a folder of a test's own."""
    copy = folder / "kubernetes"
    shutil.copytree(FOLDER, copy)
    for name, content in SECRETS.items():
        (copy / "base" / "secrets" / name).write_text(content, encoding="utf-8")
    return copy


def read(kustomization: Path) -> list[Manifest]:
    """What a folder's kustomization holds, without its transformations (and so without those of an overlay)."""
    told = yaml.safe_load((kustomization / "kustomization.yaml").read_text(encoding="utf-8"))
    found = []
    for name in told["resources"]:
        path = kustomization / name
        found += read(path) if path.is_dir() else parse(path.read_text(encoding="utf-8"))
    for kind, key in (("Secret", "secretGenerator"), ("ConfigMap", "configMapGenerator")):
        found += [_generated(kind, entry, kustomization) for entry in told.get(key, ())]
    return found


def rendered(kustomization: Path) -> list[Manifest]:
    """What ``kubectl apply -k`` would send."""
    command = ["kubectl", "kustomize", str(kustomization)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


def parse(text: str) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def faults(manifest: Manifest) -> list[str]:
    """What is wrong with a manifest: path and message, and nothing if it would be accepted."""
    if manifest["kind"] not in OF_RAY:
        try:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [f"{'.'.join(map(str, error.path))}: {error.message}"]
        return []
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in _of_ray(manifest["kind"]).iter_errors(manifest)
    ]


def pods(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Name and template of each kind of pod that comes of a manifest."""
    name, spec = manifest["metadata"]["name"], manifest.get("spec", {})
    if manifest["kind"] == "Deployment":
        yield name, spec["template"]
    if manifest["kind"] == "RayJob":
        yield f"{name}/submitter", spec["submitterPodTemplate"]
    if manifest["kind"] in OF_RAY:
        cluster = spec.get("rayClusterSpec", spec)
        yield f"{name}/head", _labelled(cluster["headGroupSpec"]["template"], name, "head")
        for group in cluster["workerGroupSpecs"]:
            yield f"{name}/{group['groupName']}", _labelled(group["template"], name, "worker")


def _labelled(template: Manifest, cluster: str, kind: str) -> Manifest:
    """With the labels that KubeRay adds."""
    metadata = template.get("metadata", {})
    labels = {**metadata.get("labels", {}), "ray.io/cluster": cluster, "ray.io/node-type": kind}
    return {**template, "metadata": {**metadata, "labels": labels}}


def _generated(kind: str, entry: Manifest, folder: Path) -> Manifest:
    content = {}
    for file in entry["files"]:
        key, _, path = file.rpartition("=")
        text = (folder / path).read_text(encoding="utf-8")
        content[key or Path(path).name] = base64.b64encode(text.encode()).decode() if kind == "Secret" else text
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": entry["name"]}, "data": content}


@cache
def _of_ray(kind: str) -> jsonschema.Draft202012Validator:
    schema = yaml.safe_load((HERE / "kuberay.yaml").read_text(encoding="utf-8"))
    registry = Registry(retrieve=_core).with_resource("", Resource.from_contents(schema, DRAFT202012))
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", **schema}, registry=registry)


def _core(uri: str) -> Resource[Any]:
    """Definitions of Kubernetes itself; those in which a field is unknown refuse it."""
    if uri.startswith("core:"):
        schema = {"$ref": f"/api/_definitions.json#/$defs/{uri.removeprefix('core:')}"}
        return Resource.from_contents(schema, DRAFT202012)
    return _definitions()


@cache
def _definitions() -> Resource[Any]:
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict"
    return Resource.from_contents(json.loads((folder / "_definitions.json").read_text(encoding="utf-8")), DRAFT202012)
