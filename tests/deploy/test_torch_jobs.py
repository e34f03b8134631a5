"""Jobs with tasks in PyTorch: in forked processes and in virtual time, resumed, exported, and where nothing may be forked."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import hogshead
from deploy.cli import main
from deploy.isolation import in_child
from ps.checkpoint import Checkpoint
from ps.errors import DataError, JobError, TaskError, UsageError
from tests.deploy.conftest import evaluated

torch = pytest.importorskip("torch", reason="tasks in PyTorch; pip install 'hogshead[torch]'")
nn, F = torch.nn, torch.nn.functional
torch.set_num_threads(1)  # small operations on a busy machine would wait for each other's threads

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits_cnn.toml"


def blobs(seed: int = 0, examples: int = 240):
    """Three clouds of points."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (examples,), generator=generator)
    return torch.randn(examples, 4, generator=generator) + 2.5 * F.one_hot(y, 4), y


def network(width: int = 8, dropout: float = 0.2):
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 3)
    )


Blobs = hogshead.torch_task(network, F.cross_entropy, blobs, test=lambda: blobs(1), metrics="accuracy")


def loss_that_tells_its_process(output, target):
    with open(os.environ["HOGSHEAD_TEST_PIDS"], "a") as file:
        file.write(f"{os.getpid()}\n")
    return F.cross_entropy(output, target)


Watched = hogshead.torch_task(network, loss_that_tells_its_process, blobs)

SECTIONS = {
    "task": Blobs,
    "data": {"batch_size": 16},
    "strategy": {"name": "easgd", "tau": 4},
    "local_rule": {"name": "torch.Adam", "lr": 0.02},
    "stop": {"epochs": 6},
}


def train(run: Path, **changes):
    return hogshead.train(**{**SECTIONS, **changes}, run=run, quiet=True)


@pytest.mark.parametrize("strategy", ["downpour", "easgd", "eamsgd", "synchronous"])
def test_two_processes_learn(strategy, tmp_path):
    own = {} if strategy == "synchronous" else {"local_rule": SECTIONS["local_rule"]}
    rule = {"downpour": {"name": "adam", "lr": 0.02}, "synchronous": {"name": "adam", "lr": 0.02}}.get(strategy)
    sections = {key: value for key, value in SECTIONS.items() if key not in ("local_rule", "strategy")}
    result = hogshead.train(
        **sections, **own, strategy=strategy, rule=rule, workers={"count": 2}, run=tmp_path / "run", quiet=True
    )
    assert result.summary["status"] == "done" and max(evaluated(result, "test_accuracy")) > 0.85
    assert np.abs(result.parameters["1.running_mean"]).max() > 0.05


def test_threads_of_the_launcher_do_not_hang_its_workers(tmp_path):
    """The pool of OpenMP that a parallel operation leaves behind has no threads in a forked process."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        large = torch.randn(700, 700)
        (large @ large).sum()
        assert train(tmp_path / "run", workers={"count": 2}).summary["status"] == "done"
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_worker_computes_in_one_thread(tmp_path):
    from worker.tasks.torch_device import limit_threads

    def count():
        torch.set_num_threads(2)
        limit_threads(os.getppid())
        return {"threads": np.array(torch.get_num_threads())}

    assert in_child(count)["threads"] == 1


def test_a_resumed_run_is_what_it_would_have_been(tmp_path):
    """One worker, dropout, batch normalisation and torch.Adam: bit for bit."""
    one = {"workers": {"count": 1}}
    whole = train(tmp_path / "whole", **one)
    train(tmp_path / "cut", **one, stop={"epochs": 3})
    resumed = hogshead.train(**{**SECTIONS, **one}, run=tmp_path / "cut", resume=True, quiet=True)
    for name, value in whole.parameters.items():
        np.testing.assert_array_equal(resumed.parameters[name], value, err_msg=name)
    slots = Checkpoint.newest(tmp_path / "cut" / "checkpoint").arrays("replica-0")
    assert np.abs(slots["slot.exp_avg_sq"]).max() > 0


def test_the_simulation_repeats_itself(tmp_path):
    changes = {"backend": "simulation", "workers": {"count": 4}}
    first, again = (train(tmp_path / name, **changes) for name in ("a", "b"))
    assert first.evaluation == again.evaluation and first.evaluation["test_accuracy"] > 0.8
    for name, value in first.parameters.items():
        np.testing.assert_array_equal(value, again.parameters[name])


def test_a_recorded_run_is_replayed_bit_for_bit(tmp_path, capsys):
    train(tmp_path / "run", workers={"count": 2}, record=True)
    assert main(["replay", str(tmp_path / "run")]) == 0
    assert "equal: the center is the recorded one, bit for bit" in capsys.readouterr().out


def test_what_has_no_file_trains_too_and_says_so_later(tmp_path, capsys):
    cls = hogshead.torch_task(network, F.cross_entropy, blobs, test=lambda: blobs(1), metrics="accuracy")
    result = train(tmp_path / "run", task=cls, stop={"epochs": 1})
    assert result.summary["status"] == "done"
    assert result.predict(blobs(2)[0]).shape == (240, 3)
    job = (tmp_path / "run" / "job.toml").read_text()
    name = next(line for line in job.splitlines() if "python:" in line).partition("=")[2].strip().strip('"')
    (tmp_path / "run" / "job.toml").write_text(job.replace(name, "python:gone"))
    assert main(["predict", str(tmp_path / "run"), "x.npy"]) == 2
    assert "only that process knows it" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "m.safetensors")]) == 0
    assert "only the parameters are exported" in capsys.readouterr().err


# -- export -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_export_is_the_state_dict_of_the_trained_module(suffix, tmp_path, capsys):
    one = {"workers": {"count": 1}}
    result = train(tmp_path / "run", task={"name": Blobs, "width": 5}, **one)
    out = tmp_path / f"model{suffix}"
    assert main(["export", str(tmp_path / "run"), str(out)]) == 0
    assert "9 tensors" in capsys.readouterr().out
    if suffix == ".pt":
        values = torch.load(out, weights_only=True)
    else:
        from safetensors.torch import load_file

        values = load_file(out)
    module = network(5)
    module.load_state_dict(values)
    x, y = blobs(1)
    accuracy = (module.eval()(x).argmax(1) == y).float().mean().item()
    assert accuracy == pytest.approx(result.evaluation["test_accuracy"])
    described = {"name": Blobs, "width": 5, "state_dict": str(out)}
    again = train(tmp_path / "again", task=described, stop={"epochs": 1}, **one)
    assert again.summary["evaluation"]["test_accuracy"] > 0.8
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_export_of_other_tasks_is_their_parameters(tmp_path):
    from safetensors.numpy import load_file

    result = hogshead.train(
        task={"name": "mlp", "hidden": [4]}, data={"train": "sklearn:iris"}, strategy="downpour", stop={"epochs": 1},
        run=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "m.safetensors")]) == 0
    found = load_file(tmp_path / "m.safetensors")
    for name, value in result.parameters.items():
        np.testing.assert_array_equal(found[name], value)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "m.pt")]) == 0
    assert set(torch.load(tmp_path / "m.pt", weights_only=True)) == set(found)


def test_export_refusals(tmp_path, capsys, monkeypatch):
    assert main(["export", str(tmp_path), str(tmp_path / "m.onnx")]) == 2
    assert "must end in .pt, .pth, .safetensors" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none"), str(tmp_path / "m.pt")]) == 1
    assert "no such run directory" in capsys.readouterr().err
    train(tmp_path / "run", stop={"epochs": 1})
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "absent" / "m.pt")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "m.pt")]) == 2
    assert "pip install 'hogshead[torch]'" in capsys.readouterr().err


# -- rules of other libraries in jobs -----------------------------------------------------------------------------------


def test_defaults_of_the_library_are_filled_in():
    job = hogshead.load(**SECTIONS)
    assert job.local_rule["betas"] == [0.9, 0.999] and job.local_rule["lr"] == 0.02
    assert "params" not in job.local_rule and hogshead.load(json.loads(json.dumps(job.to_dict()))) == job


WRONG = [
    ({"strategy": "downpour", "rule": "torch.Adam"}, r"\[rule\] torch.Adam: .* in \[local_rule\]"),
    ({"local_rule": "torch.Adma"}, r"\[local_rule\] there is no rule 'torch.Adma'.*did you mean 'torch.Ada"),
    ({"local_rule": {"name": "torch.Adam", "lrr": 1}}, r"torch.Adam: there is no parameter 'lrr'; did you mean 'lr'"),
    ({"local_rule": {"name": "torch.Adam", "lr": -1}}, r"\[local_rule\] torch.Adam: Invalid learning rate"),
    ({"local_rule": "tensorflow.Adam"}, r"there is no rule 'tensorflow.Adam'"),
    ({"task": {"name": Blobs, "widht": 3}}, r"\[task\] widht: unknown key; did you mean 'width'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_refused_before_anything_runs(changes, message):
    sections = {key: value for key, value in SECTIONS.items() if key != "local_rule" or "strategy" not in changes}
    with pytest.raises(JobError, match=message):
        hogshead.load(**{**sections, **changes})


def test_sparse_tables_need_a_rule_of_ours(tmp_path):
    cls = hogshead.torch_task(
        lambda: nn.Sequential(nn.Embedding(5, 3, sparse=True)),
        lambda output, target: output.sum(1).pow(2).mean(),
        (np.arange(20) % 5, np.zeros(20)),
    )
    with pytest.raises(
        UsageError, match=r"\[local_rule\] torch.Adam: steps dense gradients only, but the task's '0.weight'"
    ):
        train(tmp_path / "a", task=cls)
    one = {"workers": {"count": 1}}
    result = train(tmp_path / "b", task=cls, local_rule={"name": "adam", "lr": 0.1}, stop={"epochs": 60}, **one)
    assert result.summary["status"] == "done" and np.abs(result.parameters["0.weight"].sum(1)).max() < 0.5


def test_commands_describe_them(capsys):
    assert main(["rules"]) == 0
    assert "torch.Adam" in capsys.readouterr().out
    assert main(["rules", "torch.AdamW"]) == 0
    assert "weight_decay = 0.01" in capsys.readouterr().out
    assert main(["rules", "torch.AdamX"]) == 2
    assert main(["tasks", f"{ROOT / 'examples' / 'digits_cnn.py'}:DigitsCNN"]) == 0
    assert "channels = 16" in capsys.readouterr().out


# -- libraries that do not survive forking ------------------------------------------------------------------------------


def test_a_launcher_that_must_not_compute_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HOGSHEAD_TEST_PIDS", str(tmp_path / "pids"))
    monkeypatch.setattr("worker.tasks.torch_device.cuda_devices", lambda: 1)
    changes = {"task": {"name": Watched, "device": "cpu"}, "workers": {"count": 2}, "stop": {"epochs": 1}}
    assert train(tmp_path / "run", **changes).summary["status"] == "done"
    pids = set((tmp_path / "pids").read_text().split())
    assert len(pids) >= 2 and str(os.getpid()) not in pids, "one or both workers, and a child that tries the task out"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UsageError, match="CUDA has been used in this process already"):
        train(tmp_path / "other", **changes)


def test_arrays_come_back_from_a_child_as_they_were():
    arrays = {"z": np.arange(6.0).reshape(2, 3).T, "a": np.float32([1]), "m": np.array(2.5)}
    found = in_child(lambda: arrays)
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_errors_come_back_from_a_child():
    def fail(error):
        def function():
            raise error

        return function

    with pytest.raises(DataError, match="^row 3$"):
        in_child(fail(DataError("row 3")))
    with pytest.raises(TaskError, match="^ZeroDivisionError: oh$"):
        in_child(fail(ZeroDivisionError("oh")))
    with pytest.raises(TaskError, match="must return a dict of numpy arrays"):
        in_child(lambda: 3)
    with pytest.raises(TaskError, match="was killed by signal 9"):
        in_child(lambda: os.kill(os.getpid(), 9))
    with pytest.raises(TaskError, match="ended without an answer, with code 7"):
        in_child(lambda: os._exit(7))
