"""What the rows of a trained model stand for: `hogshead predict` in a later process, and after the data have changed."""

import pytest

from deploy.cli import main

JOB = """
[task]
name = "{task}"
{options}

[data]
train = "train.csv"
{data}

[strategy]
name = "hogwild"

[rule]
name = "sgd"
lr = 0.05

[workers]
count = 1

[stop]
epochs = 2
"""


@pytest.fixture
def trained(tmp_path, monkeypatch):
    def trained(task, train, options="", data=""):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "train.csv").write_text(train)
        (tmp_path / "job.toml").write_text(JOB.format(task=task, options=options, data=data))
        assert main(["train", "job.toml", "--quiet", "--run", "run"]) == 0
        return tmp_path

    return trained


def test_ratings(trained, capsys):
    train = "rating,user,item\n5,a,0195153448\n1,b,0195153448\n2,b,019515344X\n"
    folder = trained("matrix_completion", train, "rank = 2")
    (folder / "new.csv").write_text("user,item\na,0195153448\nc,195153448\n")
    capsys.readouterr()
    assert main(["predict", "run", "new.csv"]) == 0
    said = capsys.readouterr()
    assert len(said.out.split()) == 2 and float(said.out.split()[1]) == pytest.approx(8 / 3)
    assert "1 of the 2 users and 1 of the 2 items" in said.err and "the first line is a header: user, item" in said.err
    (folder / "train.csv").write_text(train.replace("b,", "B,"))
    assert main(["predict", "run", "new.csv"]) == 1
    assert "the training data hold other ids now" in capsys.readouterr().err


def test_labels_of_any_alphabet(trained, tmp_path, capsys):
    (tmp_path / "terminals.csv").write_text("1,海\n01,ö\n", encoding="utf-8")
    trained("graph_cuts", "u,v,weight\n1,2,1\n2,01,3\n", data='terminals = "terminals.csv"')
    (tmp_path / "nodes").write_text("node\n1\n01\n")
    capsys.readouterr()
    assert main(["predict", "run", "nodes"]) == 0
    assert capsys.readouterr().out == "海\nö\n"
    assert main(["predict", "run", "nodes", "--out", "labels.csv"]) == 0
    assert (tmp_path / "labels.csv").read_text(encoding="utf-8") == "海\nö\n"
