"""The same pipeline by Beam's DataflowRunner here and by Beam's direct runner: the same results and metrics."""

import random
import sys

import pytest

pytest.importorskip("apache_beam")

import apache_beam as beam  # noqa: E402
from apache_beam.internal.cloudpickle import cloudpickle  # noqa: E402
from apache_beam.internal.gcp import auth  # noqa: E402
from apache_beam.metrics import Metrics, MetricsFilter  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from apache_beam.transforms import trigger, window  # noqa: E402
from harness.beam import REGION, buckets  # noqa: E402
from harness.server import Server  # noqa: E402


# Workers are other processes, which cannot import the tests: what is defined here goes to them whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def beam_server(tmp_path_factory):
    """A server whose workers run in the tests' own Python."""
    server = Server(tmp_path_factory.mktemp("beam"), "--beam-python", sys.executable).start()
    yield server
    server.stop()


class Parse(beam.DoFn):
    """Lines of a user, a second and a number; what is none goes to another output."""

    def __init__(self):
        self.numbers = Metrics.distribution("ns", "numbers")
        self.bad = Metrics.counter("ns", "bad")

    def process(self, line):
        try:
            user, second, number = line.split(",")
            self.numbers.update(int(number))
            yield window.TimestampedValue((user, int(number)), int(second))
        except ValueError:
            self.bad.inc()
            yield beam.pvalue.TaggedOutput("bad", line)


class Describe(beam.DoFn):
    def process(self, element, when=beam.DoFn.WindowParam):
        yield f"{element} in {when.start.to_utc_datetime()} to {when.end.to_utc_datetime()}"


def build(pipeline, source, target):
    """Windows, sessions, a combiner, a join, side inputs of three kinds, two outputs, a reshuffle."""
    lines = pipeline | beam.io.ReadFromText(source)
    good, bad = lines | "Parse" >> beam.ParDo(Parse()).with_outputs("bad", main="good")

    def write(values, name):
        return values | f"Write {name}" >> beam.io.WriteToText(f"{target}/{name}")

    hourly = good | "Hours" >> beam.WindowInto(window.FixedWindows(3600))
    sums = hourly | "Sums" >> beam.CombinePerKey(sum)
    write(sums | "Describe sums" >> beam.ParDo(Describe()), "sums")
    sessions = good | "Sessions" >> beam.WindowInto(
        window.Sessions(600), trigger=trigger.AfterWatermark(),
        accumulation_mode=trigger.AccumulationMode.DISCARDING,
    )
    lists = sessions | "Lists" >> beam.GroupByKey() | beam.MapTuple(lambda k, v: (k, sorted(v)))
    write(lists | "Describe lists" >> beam.ParDo(Describe()), "sessions")
    whole = good | "One window" >> beam.WindowInto(window.GlobalWindows())
    count = whole | "Count" >> beam.combiners.Count.PerKey()
    most = whole | "Most" >> beam.CombinePerKey(max)
    total = count | beam.Values() | beam.CombineGlobally(sum)
    joined = {"count": count, "most": most} | beam.CoGroupByKey()
    shares = joined | beam.Reshuffle() | "Shares" >> beam.Map(
        lambda kv, total, most, bad: f"{kv[0]} {kv[1]} of {total}, {most[kv[0]]}, {len(bad)} bad",
        beam.pvalue.AsSingleton(total), beam.pvalue.AsDict(most), beam.pvalue.AsList(bad),
    )
    write(shares, "shares")


def figures(result):
    """The user's metrics, by name."""
    found = result.metrics().query(MetricsFilter().with_namespace("ns"))
    counters = {counter.key.metric.name: counter.committed for counter in found["counters"]}
    shapes = {
        each.key.metric.name: (each.committed.count, each.committed.sum, each.committed.min, each.committed.max)
        for each in found["distributions"]
    }
    return counters, shapes


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_dataflow_runner_gives_what_the_direct_runner_gives(beam_server, project, unique, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", beam_server.endpoint)
    # Else Beam looks for Google's credentials for half a minute before it does without.
    monkeypatch.setattr(auth._Credentials, "_credentials_init", True)
    bucket = buckets(beam_server, project).create_bucket(unique("b"), location=REGION)
    chance = random.Random(7)
    for part in range(4):
        lines = [f"user-{chance.randrange(20)},{chance.randrange(36_000)},{chance.randrange(1000)}" for _ in range(2500)]
        bucket.blob(f"in/{part}.txt").upload_from_string("\n".join([*lines, "not a line"]) + "\n")

    def run(name, *more):
        pipeline = beam.Pipeline(options=PipelineOptions(list(more)))
        build(pipeline, f"gs://{bucket.name}/in/*.txt", f"gs://{bucket.name}/{name}")
        result = pipeline.run()
        assert result.wait_until_finish() == "DONE"
        written = {}
        for blob in bucket.list_blobs(prefix=f"{name}/"):
            output = blob.name.removeprefix(f"{name}/").partition("-")[0]
            written.setdefault(output, []).extend(blob.download_as_text().splitlines())
        return {output: sorted(lines) for output, lines in written.items()}, figures(result)

    expected, expected_figures = run("direct", "--runner=DirectRunner")
    assert {output: len(lines) > 15 for output, lines in expected.items()} == {"sums": True, "sessions": True, "shares": True}
    found, found_figures = run(
        "dataflow", "--runner=DataflowRunner", f"--dataflow_endpoint=http://localhost:{beam_server.port}", "--no_auth",
        f"--project={project}", f"--region={REGION}", f"--temp_location=gs://{bucket.name}/tmp", "--job_name=compare",
        "--sdk_location=container",
    )
    assert found == expected
    assert found_figures == expected_figures
    assert found_figures[0] == {"bad": 4} and found_figures[1]["numbers"][0] == 10_000
