"""One pipeline of the benchmark against a runner behind Beam's Job API, its worker in this process (LOOPBACK) if
not told otherwise.

Prints one line of JSON: wall time, CPU time and peak memory of the runner's process and of this one. Invariant: the
pipeline counts what came out of it, and a wrong count fails the run.
"""

import argparse
import json
import os
import resource
import sys
import time
import typing

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

# Where the worker runs: in this process; in one that Beam's own runner starts; in one that stands for Beam's image.
ENVIRONMENTS = {
    "loopback": ["--environment_type=LOOPBACK"],
    "subprocess": [
        "--environment_type=beam:env:harness_subprocess_python:v1",
        f"--environment_config={sys.executable} -m apache_beam.runners.worker.sdk_worker_main",
    ],
    "image": ["--environment_type=DOCKER"],
}
# Independent parts in which elements are made.
PARTS = 20

parser = argparse.ArgumentParser()
parser.add_argument("--kind", required=True, choices=["group", "combine", "reshuffle", "tiny"])
parser.add_argument("--elements", type=int, default=0)
parser.add_argument("--keys", type=int, default=10_000)
parser.add_argument("--value-bytes", type=int, default=0, help="0: the value is a number")
parser.add_argument("--pid", type=int, required=True, help="the runner's process")
parser.add_argument("--repeat", type=int, default=1, help="how often; the median wall time is told")
parser.add_argument("--pause", type=float, default=0, help="seconds between the end of one and the next")
parser.add_argument("--environment", default="loopback", choices=list(ENVIRONMENTS))
parser.add_argument("--endpoint", required=True)
parser.add_argument("--option", action="append", default=[], help="a pipeline option, as --option=--name=value")


def cpu_of(pid):
    """CPU seconds of a process so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_of(pid):
    """The most memory that a process had, in bytes."""
    with open(f"/proc/{pid}/status") as file:
        [line] = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


class Number(beam.DoFn):
    """The numbers of a part."""

    def __init__(self, elements):
        self.elements = elements

    def process(self, part) -> typing.Iterable[int]:
        yield from range(part * self.elements // PARTS, (part + 1) * self.elements // PARTS)


class PairWithNumber(beam.DoFn):
    def __init__(self, keys):
        self.keys = keys

    def process(self, n) -> typing.Iterable[tuple[int, int]]:
        yield n * 2654435761 % self.keys, n


class PairWithBytes(beam.DoFn):
    def __init__(self, keys, size):
        self.keys = keys
        self.words = size // 8

    def process(self, n) -> typing.Iterable[tuple[int, bytes]]:
        yield n * 2654435761 % self.keys, n.to_bytes(8, "big") * self.words


class CountGroup(beam.DoFn):
    """Counts the values of groups, and lets nothing through."""

    def __init__(self):
        self.values = Metrics.counter("bench", "seen")

    def process(self, group):
        self.values.inc(sum(1 for _ in group[1]))
        return ()


class Count(beam.DoFn):
    def __init__(self):
        self.values = Metrics.counter("bench", "seen")

    def process(self, _):
        self.values.inc()
        return ()


def build(pipeline, told):
    """The pipeline; how many elements its end is to count."""
    if told.kind == "tiny":
        pipeline | beam.Create(["a b", "b"]) | beam.FlatMap(str.split) | beam.combiners.Count.PerElement() | beam.ParDo(Count())
        return 2
    numbers = pipeline | beam.Create(range(PARTS)) | "Number" >> beam.ParDo(Number(told.elements))
    if told.kind == "reshuffle":
        numbers | beam.Reshuffle() | beam.ParDo(Count())
        return told.elements
    if told.value_bytes:
        pairs = numbers | "Pair" >> beam.ParDo(PairWithBytes(told.keys, told.value_bytes))
    else:
        pairs = numbers | "Pair" >> beam.ParDo(PairWithNumber(told.keys))
    if told.kind == "combine":
        pairs | beam.CombinePerKey(sum) | beam.ParDo(Count())
        return min(told.keys, told.elements)
    pairs | beam.GroupByKey() | beam.ParDo(CountGroup())
    return told.elements


def run(told):
    """Wall seconds of one run, and of it those after the job was handed over: the rest is the SDK's own work."""
    started = time.monotonic()
    pipeline = beam.Pipeline(options=PipelineOptions([
        "--runner=PortableRunner", f"--job_endpoint={told.endpoint}", *ENVIRONMENTS[told.environment],
        # Else the SDK lists all installed packages before each submission, which takes a second.
        "--experiments=disable_logging_submission_environment", *told.option,
    ]))
    expected = build(pipeline, told)
    result = pipeline.run()
    submitted = time.monotonic()
    state = result.wait_until_finish()
    ended = time.monotonic()
    assert state == "DONE", state
    seen = sum(found.committed for found in result.metrics().query(MetricsFilter().with_name("seen"))["counters"])
    if seen != expected:
        sys.exit(f"counted {seen}, expected {expected}")
    return ended - started, ended - submitted


def main():
    told = parser.parse_args()
    runner, own = cpu_of(told.pid), time.process_time()
    runs = []
    for number in range(told.repeat):
        if number:
            time.sleep(told.pause)
        runs.append(run(told))
    runs.sort()
    wall, submitted = runs[len(runs) // 2]
    print(json.dumps({
        "wall_s": wall,
        "submitted_s": submitted,
        "runner_cpu_s": (cpu_of(told.pid) - runner) / told.repeat,
        "runner_peak_bytes": peak_of(told.pid),
        "harness_cpu_s": (time.process_time() - own) / told.repeat,
        "harness_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))


if __name__ == "__main__":
    main()
