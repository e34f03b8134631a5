"""Prometheus collects what the cluster serves, and Grafana's dashboard shows series that exist, with labels that they have."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from deploy.cluster.prometheus import _METRICS as METRICS
from deploy.job import Job
from deploy.sinks import open_sinks

FOLDER = Path(__file__).parents[3] / "deploy" / "monitoring"
PROVISIONING = FOLDER / "grafana" / "provisioning"
OF_PROMETHEUS = {"instance", "service", "job"}  # labels that it puts on every series
FUNCTIONS = {"max", "sum", "avg", "by", "rate", "increase", "deriv", "clamp_min", "histogram_quantile"}


def settings(path):
    return yaml.safe_load((FOLDER / path).read_text(encoding="utf-8"))


def dashboard():
    return json.loads((FOLDER / "grafana" / "dashboards" / "hogshead.json").read_text(encoding="utf-8"))


def targets():
    return [(panel, target) for panel in dashboard()["panels"] for target in panel.get("targets", ())]


def served():
    """Series of Hogshead by name, with their labels."""
    series = {}
    for name, (kind, tags, _) in METRICS.items():
        labels = {"job", *tags}
        if kind == "histogram":
            series |= {f"ray_hogshead_{name}_{part}": labels for part in ("sum", "count")}
            series[f"ray_hogshead_{name}_bucket"] = {*labels, "le"}
        else:
            series[f"ray_hogshead_{name}{'_total' if kind == 'counter' else ''}"] = labels
    return series


def of_ray():
    """Gauges of a node that Ray itself serves, read from its source; importing that takes seconds."""
    place = Path(importlib.util.find_spec("ray").origin).parent / "dashboard/modules/reporter/reporter_agent.py"
    names = re.findall(r'^    "(node_\w+)": Gauge\(', place.read_text(encoding="utf-8"), re.MULTILINE)
    return {f"ray_{name}": OF_PROMETHEUS for name in names}


def faults(expression, legend, series):
    """What in a query names something that is not there."""
    found = []
    for name in re.findall(r"\bray_\w+", expression):
        if name not in series:
            found.append(f"no series {name}")
    known = [series[name] for name in re.findall(r"\b(?:ray_\w+|up)", expression) if name in series]
    grouped = [{label.strip() for label in group.split(",")} for group in re.findall(r"by \(([^)]*)\)", expression)]
    asked = {*re.findall(r"[{,](\w+)[=!]", expression), *(label for group in grouped for label in group)}
    found += [f"no label {label}" for label in asked if not all(label in labels for labels in known)]
    shown = set(re.findall(r"{{(\w+)}}", legend))
    found += [f"{label} is not left after grouping" for label in shown if not all(label in group for group in grouped)]
    words = set(re.findall(r"\b([a-z_]+)(?: by)? ?\(", re.sub(r'"[^"]*"', "", expression)))
    found += [f"no function {word}" for word in words - FUNCTIONS]
    return found


def every_series():
    return {**served(), **of_ray(), "up": OF_PROMETHEUS}


def test_every_query_names_series_and_labels_that_exist():
    series = every_series()
    wrong = {target["expr"]: faults(target["expr"], target.get("legendFormat", ""), series) for _, target in targets()}
    assert len(wrong) > 30
    assert {expression: found for expression, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    "expression, legend",
    [
        ("max by (job) (ray_hogshead_los)", "{{job}}"),
        ("max by (job) (ray_hogshead_examples)", "{{job}}"),  # a counter, so _total
        ("max by (job, replica) (ray_hogshead_loss)", "{{job}}"),
        ('max by (job) (ray_hogshead_loss{metric="x"})', "{{job}}"),
        ("max by (job) (ray_hogshead_loss)", "{{job}} {{node}}"),
        ("max by (job) (ray_node_cpu_utilisation)", "{{job}}"),
        ("maximum by (job) (ray_hogshead_loss)", "{{job}}"),
    ],
)
def test_a_wrong_query_would_be_found(expression, legend):
    assert faults(expression, legend, every_series())


def test_every_metric_of_a_run_is_shown():
    shown = " ".join(target["expr"] for _, target in targets())
    unseen = {name for name in METRICS if not re.search(rf"\bray_hogshead_{name}(_total|_bucket)?\b", shown)}
    assert unseen == set()


def test_panels_are_told_apart_and_do_not_overlap():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        ids = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(ids)) == len(ids), panel["title"]
        if panel["type"] != "row":
            assert panel["description"], panel["title"]


def test_the_dashboard_asks_only_for_what_is_set_up():
    text = json.dumps(dashboard())
    variables = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used == variables
    assert {panel["datasource"]["uid"] for panel, _ in targets()} == {"${datasource}"}


def test_grafana_finds_prometheus_and_the_dashboard():
    (source,) = settings("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    (provider,) = settings("grafana/provisioning/dashboards/hogshead.yml")["providers"]
    assert provider["type"] == "file" and Path(provider["options"]["path"]).is_absolute()


@pytest.mark.parametrize("run, name", [("runs/digits-2", "digits-2"), ("jobs/digits-2/run", "digits-2")])
def test_runs_are_told_apart_by_their_label(tmp_path, monkeypatch, run, name):
    made = []
    monkeypatch.setattr("deploy.sinks._is_on_ray", lambda: True)
    monkeypatch.setattr("deploy.cluster.prometheus.PrometheusSink", made.append)
    tables = {"task": {"name": "mlp"}, "data": {"train": "sklearn:digits"}, "strategy": {"name": "easgd"}}
    job = Job.from_dict({**tables, "backend": "ray"})
    open_sinks(job, tmp_path / run)
    assert made == [name]


def test_prometheus_scrapes_every_container_and_keeps_the_labels_of_runs():
    (scrape,) = [entry for entry in settings("prometheus.yml")["scrape_configs"] if entry["job_name"] == "ray"]
    assert scrape["honor_labels"] is True  # else a run's `job` would be called exported_job
    (found,) = scrape["dns_sd_configs"]
    assert (found["names"], found["type"], found["port"]) == (["head", "node"], "A", 8080)
    assert {rule["target_label"] for rule in scrape["relabel_configs"]} <= OF_PROMETHEUS
    dropped = [re.compile(rule["regex"]) for rule in scrape["metric_relabel_configs"] if rule["action"] == "drop"]
    used = set(re.findall(r"\bray_\w+", " ".join(target["expr"] for _, target in targets())))
    assert dropped and not [name for name in used for pattern in dropped if pattern.fullmatch(name)]
