"""What a task in PyTorch is called, what options it has, what it refuses, and the state_dicts that it reads and writes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import hogshead
from ps.errors import DataError, TaskError, UsageError
from worker.task import check_task
from worker.tasks import describe, task_class
from worker.tasks import options as options_of
from worker.tasks.made import name_in_job

torch = pytest.importorskip("torch", reason="a task in PyTorch; pip install 'hogshead[torch]'")
nn, F = torch.nn, torch.nn.functional

from . import networks  # noqa: E402
from .networks import FEATURES, Network, Squares, batch_of, data, linear, network, start  # noqa: E402


def test_the_options_of_all_functions_are_the_tasks():
    cls = hogshead.torch_task(
        network, F.cross_entropy, lambda train, seed=3: data(seed), test=lambda seed=3: data(seed)
    )
    assert list(options_of(cls)) == ["width", "dropout", "norm", "double", "train", "seed", "state_dict", "device"]
    assert cls(train="x", seed=4).options["seed"] == 4 and cls(train="x").options["width"] == 5
    with pytest.raises(UsageError, match="missing a required"):
        cls()
    with pytest.raises(UsageError, match="widht"):
        cls(train="x", widht=3)
    text = describe(name_in_job(Network))
    assert "Two layers, for tests." in text and "width = 5" in text and "device = 'auto'" in text


def test_it_is_found_by_its_name_in_its_file():
    name = name_in_job(Network)
    assert name == f"{networks.__file__}:Network" and task_class(name) is Network


def test_a_class_without_a_file_is_known_in_its_process_only():
    cls = hogshead.torch_task(network, F.cross_entropy, data)
    name = name_in_job(cls)
    assert name.startswith("python:network") and task_class(name) is cls and name_in_job(cls) == name
    other = hogshead.torch_task(network, F.cross_entropy, data)
    assert name_in_job(other) != name
    with pytest.raises(UsageError, match="only that process knows it; .* top level of a file"):
        task_class("python:gone")


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "mine.py"
    source = "import hogshead, torch\nMine = hogshead.torch_task(torch.nn.Linear, len, [1])\n"
    path.write_text(source)
    first = task_class("mine.py:Mine", tmp_path)
    assert first.__module__.startswith("hogshead_user_") and task_class("mine.py:Mine", tmp_path) is first
    assert task_class(name_in_job(first)) is first
    path.write_text(source + "Mine.changed = True\n")
    assert task_class(name_in_job(first)).changed
    assert not hasattr(first, "changed")


make, CE = hogshead.torch_task, F.cross_entropy
REFUSED = [
    (lambda: make(linear, None, Squares), "loss_fn must be a function"),
    (lambda: make(linear, CE, Squares, metrics="acuracy"), "metrics must be 'accuracy'"),
    (lambda: make(linear, CE, Squares, paths=["train"]), "paths names 'train', which is no option"),
    (lambda: make(lambda device: 0, CE, Squares), "module has an option 'device'"),
    (lambda: make(lambda n=1: 0, CE, lambda n=2: 0), "'n' must have one default, got 1 and, in dataset, 2"),
    (lambda: make(lambda: 3, CE, Squares)(), "must make a torch.nn.Module, got int"),
    (lambda: make(nn.ReLU, CE, Squares)(), "ReLU has no parameter that requires a gradient"),
    (lambda: make(lambda: linear().half(), CE, Squares)(), "all be float32 or all float64, got torch.float16"),
    (lambda: make(lambda: nn.LazyLinear(3), CE, Squares)(), "has no shape yet"),
    (lambda: make(lambda: nn.Embedding(3, 2, max_norm=1.0), CE, Squares)(), "has max_norm, which writes into"),
    (lambda: make(linear, CE, iter([1]))(), "must be a map-style data set"),
    (lambda: make(linear, CE, torch.utils.data.Subset(Squares(), []))(), "at least one example"),
    (lambda: make(linear, CE, torch.ones(3, 2, dtype=torch.bfloat16))(), "cannot be shared as an array"),
    (lambda: check_task(make(linear, lambda o, y: CE(o, y, reduction="none"), Squares)()), r"one number, .* got \(8,\)"),
    (lambda: check_task(make(linear, lambda o, y: torch.tensor(1.0), Squares)()), "does not depend on any trained"),
    (lambda: make(linear, CE, Squares, state_dict="gone.pt")(), "gone.pt: there is no such file"),
    (lambda: make(linear, CE, Squares, state_dict=__file__)(), "cannot be loaded as a state_dict of Linear"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused(call, message):
    with pytest.raises((UsageError, TaskError), match=message):
        call()


def test_without_torch_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"torch_task needs PyTorch, .* pip install 'hogshead\[torch\]'"):
        hogshead.torch_task(None, len, None)
    (tmp_path / "mine.py").write_text("import torch\n")
    with pytest.raises(UsageError, match=r"executing mine.py failed in line 1: .* pip install 'hogshead\[torch\]'"):
        task_class("mine.py:Mine", tmp_path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_training_begins_from_a_state_dict(suffix, tmp_path):
    saved = network().state_dict()
    path = str(tmp_path / f"model{suffix}")
    if suffix == ".pt":
        torch.save(saved, path)
    else:
        from safetensors.torch import save_file

        save_file(saved, path)
    for seed in (1, 2):
        parameters = start(Network(state_dict=path), seed)
        assert all((parameters[name] == saved[name].numpy()).all() for name in parameters)
    with pytest.raises(DataError, match="state_dict of Sequential: .*size mismatch"):
        Network(state_dict=path, width=9)


def test_a_module_itself_is_where_training_begins():
    module = network()
    task = hogshead.torch_task(module, F.cross_entropy, data)()
    assert (start(task)["0.weight"] == module[0].weight.detach().numpy()).all()
    task.loss_and_gradient(start(task), batch_of(task))
    assert module[1].num_batches_tracked == 0, "the user's own module is left alone"


def test_tied_weights_are_one_parameter_and_stand_twice_in_the_state_dict():
    def tied():
        module = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES))
        module[1].weight = module[0].weight
        return module

    cls = hogshead.torch_task(tied, F.cross_entropy, data)
    parameters = start(cls())
    assert set(parameters) == {"0.weight", "0.bias", "1.bias"}
    exported = cls.export({}, {name: value + 1 for name, value in parameters.items()})
    assert (exported["1.weight"] == exported["0.weight"]).all()
    np.testing.assert_array_equal(exported["0.weight"].numpy(), parameters["0.weight"] + 1)
