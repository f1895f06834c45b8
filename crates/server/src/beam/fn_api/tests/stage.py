"""Writes the descriptor of a stage with one DoFn, as a runner's plan has it, to the file in argv."""
import os
import signal
import sys

import apache_beam as beam
from apache_beam.portability.api import beam_fn_api_pb2 as fn_api
from apache_beam.portability.api import beam_runner_api_pb2 as api


def work(element):
    import time
    if element == b"raise":
        raise ValueError("no such luck")
    if element == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    if element == b"sleep":
        time.sleep(600)
    if element == b"big":
        yield b"x" * 100_000_000
    elif element == b"staged":
        import staged_module
        yield staged_module.VALUE
    else:
        yield element.upper()


pipeline = beam.Pipeline()
(pipeline | beam.Impulse() | "Work" >> beam.FlatMap(work).with_output_types(bytes))
proto = pipeline.to_runner_api()
components = proto.components
(name, pardo), = [(n, t) for n, t in components.transforms.items() if t.spec.urn == "beam:transform:pardo:v1"]
(given,), (made,) = pardo.inputs.values(), pardo.outputs.values()
descriptor = fn_api.ProcessBundleDescriptor(id="stage")
for field in ("pcollections", "windowing_strategies", "coders", "environments"):
    for key, value in getattr(components, field).items():
        getattr(descriptor, field)[key].CopyFrom(value)
strategy = components.windowing_strategies[components.pcollections[given].windowing_strategy_id]
coder = api.Coder(
    spec=api.FunctionSpec(urn="beam:coder:windowed_value:v1"),
    component_coder_ids=[components.pcollections[given].coder_id, strategy.window_coder_id])
descriptor.coders["wire"].CopyFrom(coder)
port = fn_api.RemoteGrpcPort(coder_id="wire").SerializeToString()
descriptor.transforms[name].CopyFrom(pardo)
descriptor.transforms["source"].CopyFrom(api.PTransform(
    unique_name="source", outputs={"out": given},
    spec=api.FunctionSpec(urn="beam:runner:source:v1", payload=port)))
descriptor.transforms["sink"].CopyFrom(api.PTransform(
    unique_name="sink", inputs={"in": made},
    spec=api.FunctionSpec(urn="beam:runner:sink:v1", payload=port)))
with open(sys.argv[1], "wb") as file:
    file.write(descriptor.SerializeToString())
