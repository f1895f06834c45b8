"""Writes small pipelines as Beam's Python SDK describes them, for the tests of crates/fusion.

    python make_fixtures.py ../../../crates/fusion/tests/fixtures

Planning does not look into user code, so each pickled payload becomes a short digest: it tells one from
another, and holds neither code nor names of files.
"""

import hashlib
import pathlib
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.transforms import trigger, userstate, window
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.coders import VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker


def word_count(p):
    (
        p
        | "Read" >> beam.Create(["a b", "b c"])
        | "Split" >> beam.FlatMap(lambda line: line.split()).with_output_types(str)
        | "Pair" >> beam.Map(lambda word: (word, 1)).with_output_types(tuple[str, int])
        | "Count" >> beam.CombinePerKey(sum)
        | "Format" >> beam.Map(str)
    )


def group(p):
    (
        p
        | "Read" >> beam.Create([("a", 1), ("b", 2)])
        | "Group" >> beam.GroupByKey()
        | "Sum" >> beam.MapTuple(lambda key, values: (key, sum(values)))
    )


def sessions(p):
    (
        p
        | "Read" >> beam.Create([("a", 1), ("b", 2)])
        | "Window" >> beam.WindowInto(window.Sessions(10))
        | "Group" >> beam.GroupByKey()
        | "Sum" >> beam.MapTuple(lambda key, values: (key, sum(values)))
    )


class OwnWindow(window.BoundedWindow):
    def __init__(self, end):
        super().__init__(end)


class OwnWindowCoder(beam.coders.Coder):
    def encode(self, value):
        return str(value.end).encode()

    def decode(self, encoded):
        return OwnWindow(float(encoded))

    def is_deterministic(self):
        return True


class OwnWindows(window.NonMergingWindowFn):
    def assign(self, context):
        return [OwnWindow(100)]

    def get_window_coder(self):
        return OwnWindowCoder()


def custom_windows(p):
    (
        p
        | "Read" >> beam.Create([("a", 1), ("b", 2)])
        | "Window" >> beam.WindowInto(OwnWindows())
        | "Group" >> beam.GroupByKey()
        | "Sum" >> beam.MapTuple(lambda key, values: (key, sum(values)))
    )


def side_inputs(p):
    main = p | "Main" >> beam.Create([1, 2])
    names = p | "Names" >> beam.Create([(1, "one"), (2, "two")])
    plain = main | "Double" >> beam.Map(lambda x: 2 * x).with_output_types(int)
    (
        plain
        | "Look up" >> beam.Map(lambda x, names, all: (x, names.get(x), all),
                                beam.pvalue.AsMultiMap(names), beam.pvalue.AsIter(main))
    )


def side_input_of_itself(p):
    main = p | "Main" >> beam.Create([1, 2]) | "Add" >> beam.Map(lambda x: x + 1).with_output_types(int)
    main | "Share" >> beam.Map(lambda x, total: x / sum(total), beam.pvalue.AsIter(main))


def crossed_side_inputs(p):
    one = p | "One" >> beam.Create([1])
    two = p | "Two" >> beam.Create([2])
    a = one | "A" >> beam.Map(lambda x: x)
    c = two | "C" >> beam.Map(lambda x, s: x, beam.pvalue.AsIter(a))
    d = two | "D" >> beam.Map(lambda x: x)
    b = one | "B" >> beam.Map(lambda x, s: x, beam.pvalue.AsIter(d))
    (b, c) | "Both" >> beam.Flatten()


class Offsets(RestrictionProvider):
    def initial_restriction(self, element):
        return OffsetRange(0, element)

    def create_tracker(self, restriction):
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element, restriction):
        return restriction.size()


class Expand(beam.DoFn):
    def process(self, element, tracker=beam.DoFn.RestrictionParam(Offsets())):
        yield from range(element)


def splittable(p):
    (
        p
        | "Read" >> beam.Create([10, 20])
        | "Expand" >> beam.ParDo(Expand())
        | "Show" >> beam.Map(str)
    )


class Stateful(beam.DoFn):
    SEEN = userstate.BagStateSpec("seen", VarIntCoder())
    MAX = userstate.CombiningValueStateSpec("max", max)
    END = userstate.TimerSpec("end", userstate.TimeDomain.WATERMARK)
    SOON = userstate.TimerSpec("soon", userstate.TimeDomain.REAL_TIME)

    def process(self, element, seen=beam.DoFn.StateParam(SEEN), max=beam.DoFn.StateParam(MAX),
                end=beam.DoFn.TimerParam(END), soon=beam.DoFn.TimerParam(SOON)):
        seen.add(element[1])
        end.set(100)
        soon.set(0)

    @userstate.on_timer(END)
    def fire(self, seen=beam.DoFn.StateParam(SEEN)):
        yield list(seen.read())

    @userstate.on_timer(SOON)
    def fire_soon(self):
        yield []


def stateful(p):
    (
        p
        | "Read" >> beam.Create([("a", 1), ("b", 2)])
        | "Key" >> beam.Map(lambda kv: kv)
        | "Remember" >> beam.ParDo(Stateful())
        | "Show" >> beam.Map(str)
    )


def stateful_any_key(p):
    (
        p
        | "Read" >> beam.Create([("a", 1), ("b", 2)])
        | "Key" >> beam.Map(lambda kv: ((kv[0], 1.5, None), kv[1])).with_output_types(tuple[object, int])
        | "Remember" >> beam.ParDo(Stateful())
    )


def flatten_same(p):
    a = p | "A" >> beam.Create([("a", 1)])
    b = p | "B" >> beam.Create([("b", 1)])
    (a, b) | "Both" >> beam.Flatten() | "Group" >> beam.GroupByKey() | "Show" >> beam.Map(str)


def flatten_mixed(p):
    a = p | "A" >> beam.Create([1])
    b = p | "B" >> beam.Create(["b"])
    (a, b, a) | "Both" >> beam.Flatten() | "Show" >> beam.Map(str)


def flatten_inside(p):
    a = p | "A" >> beam.Create([1])
    odd = a | "Odd" >> beam.Map(lambda x: 2 * x + 1)
    even = a | "Even" >> beam.Map(lambda x: 2 * x)
    (odd, even) | "Both" >> beam.Flatten() | "Show" >> beam.Map(str)


def flatten_grouped(p):
    a = p | "A" >> beam.Create([("a", 1)]) | "Group" >> beam.GroupByKey()
    b = p | "B" >> beam.Create([1])
    (a, b) | "Both" >> beam.Flatten() | "Show" >> beam.Map(str)


def flatten_nothing(p):
    () | "None" >> beam.Flatten(pipeline=p) | "Show" >> beam.Map(str)


def reshuffle(p):
    (
        p
        | "Read" >> beam.Create([1, 2])
        | "Double" >> beam.Map(lambda x: 2 * x).with_output_types(int)
        | "Spread" >> beam.Reshuffle()
        | "Show" >> beam.Map(str)
    )


def join(p):
    a = p | "A" >> beam.Create([("a", 1)])
    b = p | "B" >> beam.Create([("a", "x")])
    {"a": a, "b": b} | "Join" >> beam.CoGroupByKey() | "Show" >> beam.Map(str)


def counted_trigger(p):
    (
        p
        | "Read" >> beam.Create([("a", 1), ("b", 2)])
        | "Window" >> beam.WindowInto(
            window.FixedWindows(10),
            trigger=trigger.Repeatedly(trigger.AfterCount(2)),
            accumulation_mode=trigger.AccumulationMode.DISCARDING)
        | "Count" >> beam.CombinePerKey(sum)
        | "Show" >> beam.Map(str)
    )


class Side(beam.DoFn):
    def process(self, element):
        yield element
        yield beam.pvalue.TaggedOutput("odd", element)


def branches(p):
    both = p | "Read" >> beam.Create([1, 2]) | "Branch" >> beam.ParDo(Side()).with_outputs("odd", main="all")
    both.all | "All" >> beam.Map(lambda x: (x, x)) | "By key" >> beam.GroupByKey() | "Use" >> beam.Map(str)
    both.odd | "Odd" >> beam.Map(lambda x: (x, x)) | "Odd by key" >> beam.GroupByKey()


def grouped_twice_read(p):
    grouped = p | "Read" >> beam.Create([("a", 1)]) | "Group" >> beam.GroupByKey()
    grouped | "Sum" >> beam.Map(str)
    grouped | "Max" >> beam.Map(str)


class Finalizing(beam.DoFn):
    def process(self, element, after=beam.DoFn.BundleFinalizerParam):
        after.register(lambda: None)
        yield element


def finalization(p):
    p | "Read" >> beam.Create([1]) | "Do" >> beam.ParDo(Finalizing())


def digest(data):
    return hashlib.sha256(data).digest()[:6] if data else data


def sanitize(pipeline):
    """No code, no display data, no dependencies; the structure stays."""
    par_dos = (common_urns.primitives.PAR_DO.urn,) + tuple(
        spec.urn for spec in common_urns.sdf_components.__dict__.values() if hasattr(spec, "urn"))
    combines = (common_urns.composites.COMBINE_PER_KEY.urn,) + tuple(
        spec.urn for spec in common_urns.combine_components.__dict__.values() if hasattr(spec, "urn"))
    for transform in pipeline.components.transforms.values():
        del transform.display_data[:]
        transform.annotations.clear()
        if transform.spec.urn in par_dos:
            payload = api.ParDoPayload.FromString(transform.spec.payload)
            payload.do_fn.payload = digest(payload.do_fn.payload)
            for side in payload.side_inputs.values():
                side.view_fn.payload = digest(side.view_fn.payload)
                side.window_mapping_fn.payload = digest(side.window_mapping_fn.payload)
            for state in payload.state_specs.values():
                if state.HasField("combining_spec"):
                    fn = state.combining_spec.combine_fn
                    fn.payload = digest(fn.payload)
            transform.spec.payload = payload.SerializeToString(deterministic=True)
        elif transform.spec.urn in combines:
            payload = api.CombinePayload.FromString(transform.spec.payload)
            payload.combine_fn.payload = digest(payload.combine_fn.payload)
            transform.spec.payload = payload.SerializeToString(deterministic=True)
        elif transform.spec.urn == common_urns.primitives.ASSIGN_WINDOWS.urn:
            payload = api.WindowingStrategy.FromString(transform.spec.payload)
            if payload.window_fn.urn.startswith("beam:window_fn:pickled"):
                payload.window_fn.payload = digest(payload.window_fn.payload)
            transform.spec.payload = payload.SerializeToString(deterministic=True)
        elif transform.spec.urn.startswith("beam:transform:generic_composite"):
            transform.spec.payload = b""
        else:
            transform.spec.payload = digest(transform.spec.payload)
    for strategy in pipeline.components.windowing_strategies.values():
        if strategy.window_fn.urn.startswith("beam:window_fn:pickled"):
            strategy.window_fn.payload = digest(strategy.window_fn.payload)
    for coder in pipeline.components.coders.values():
        coder.spec.payload = digest(coder.spec.payload)
    for environment in pipeline.components.environments.values():
        del environment.dependencies[:]
        environment.payload = b"worker"
        environment.urn = common_urns.environments.EXTERNAL.urn
        del environment.display_data[:]
        environment.resource_hints.clear()
    del pipeline.display_data[:]
    return pipeline


def main(folder):
    pipelines = [
        word_count, group, sessions, custom_windows, side_inputs, side_input_of_itself, crossed_side_inputs,
        splittable, stateful, stateful_any_key, flatten_same, flatten_mixed, flatten_inside, flatten_grouped,
        flatten_nothing, reshuffle, join, counted_trigger, branches, grouped_twice_read, finalization,
    ]
    for make in pipelines:
        save(folder, make.__name__, sanitize(describe(make)))
    # As `PortableRunner` sends it: combiners are lifted by the client.
    lifted = PortableRunner._optimize_pipeline(describe(word_count), PipelineOptions())
    save(folder, "word_count_optimized", sanitize(lifted))
    # As `--experiments=pre_optimize=all_except_fusion` sends it: the splittable DoFn is expanded too.
    options = PipelineOptions(["--experiments=pre_optimize=all_except_fusion"])
    expanded = PortableRunner._optimize_pipeline(describe(splittable), options)
    save(folder, "splittable_optimized", sanitize(expanded))


def describe(make):
    """The pipeline as `PortableRunner` asks for it."""
    options = PipelineOptions(["--environment_type=LOOPBACK"])
    p = beam.Pipeline(options=options)
    make(p)
    environment = PortableRunner._create_environment(options)
    return p.to_runner_api(default_environment=environment)


def save(folder, name, pipeline):
    data = pipeline.SerializeToString(deterministic=True)
    (pathlib.Path(folder) / f"{name}.pb").write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1])
