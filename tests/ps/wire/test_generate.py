"""The generated code is that of the schema, and it runs with old and new protobuf."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2

from deploy.wire import jobs_pb2
from ps.wire import generate, parameters_pb2

GENERATED = {"parameters": parameters_pb2, "jobs": jobs_pb2}


@pytest.mark.parametrize("schema", GENERATED)
def test_it_is_generated_from_the_schema_as_it_is(schema, tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed (extra `test`)")
    made = generate.generate(schema, tmp_path).read_text(encoding="utf-8")
    # Not the code, which every version of the generator writes differently, but the description in it.
    line = next(line for line in made.splitlines() if line.startswith("DESCRIPTOR"))
    serialized = eval(line.split("AddSerializedFile(", 1)[1].rsplit(")", 1)[0])
    assert descriptor_pb2.FileDescriptorProto.FromString(serialized) == described(GENERATED[schema])


def described(module) -> descriptor_pb2.FileDescriptorProto:
    proto = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(proto)
    return proto


def test_a_schema_that_differs_is_noticed(tmp_path, monkeypatch):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed (extra `test`)")
    schema = (generate.SCHEMAS / "parameters.proto").read_text(encoding="utf-8")
    (tmp_path / "parameters.proto").write_text(
        schema.replace("uint32 window = 5", "uint32 window = 6"), encoding="utf-8"
    )
    monkeypatch.setattr(generate, "SCHEMAS", tmp_path)
    with pytest.raises(AssertionError):
        test_it_is_generated_from_the_schema_as_it_is("parameters", tmp_path)


@pytest.mark.parametrize("module", GENERATED.values(), ids=GENERATED)
def test_a_generator_that_suits_every_later_protobuf_wrote_it(module):
    """Newer ones write a check that refuses all but their own major version of protobuf and the next."""
    with open(module.__file__, encoding="utf-8") as file:
        assert "runtime_version" not in file.read()


def test_a_schema_with_a_mistake_says_so(tmp_path, monkeypatch, capfd):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed (extra `test`)")
    (tmp_path / "parameters.proto").write_text("syntax = 'proto3'; message {", encoding="utf-8")
    monkeypatch.setattr(generate, "SCHEMAS", tmp_path)
    with pytest.raises(RuntimeError, match="protoc refused"):
        generate.generate("parameters", tmp_path)
    assert "parameters.proto" in capfd.readouterr().err
