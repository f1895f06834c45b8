"""Delays by route and month: an ordinary Beam pipeline, which knows nothing of the runner that it gets.

    python delays.py --input gs://BUCKET --instance INSTANCE --table TABLE --project PROJECT --runner RUNNER ...

Flights are joined with the planes that flew them by their tail numbers, and summed up by route and month; the
names of the airports are a side input. Each route and month becomes a row of a Bigtable table, written by Beam's
own sink. Cells have the month's first day as their time, so that every run writes the same.

Prints a line of JSON when it is submitted, `{"job": ID}`, and one at its end with the state and the metrics.
"""

import argparse
import collections
import datetime
import json

import apache_beam as beam
from apache_beam.io.gcp.bigtableio import WriteToBigTable
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from google.cloud.bigtable.row import DirectRow

# The files have no quotes. What is not known is this in all of them.
UNKNOWN = "NA"
# Positions in the files' lines.
MONTH, ARR_DELAY, TAILNUM, ORIGIN, DEST = 1, 8, 11, 12, 13
AIRPORT, AIRPORT_NAME = 0, 1
PLANE, MAKER, SEATS = 0, 3, 6


class ReadFlight(beam.DoFn):
    """A line as (tail number, (route and month, minutes late at the arrival))."""

    def __init__(self):
        self.read = Metrics.counter("delays", "flights_read")
        self.late = Metrics.distribution("delays", "minutes_late")

    def process(self, line):
        fields = line.split(",")
        late = None if fields[ARR_DELAY] == UNKNOWN else int(fields[ARR_DELAY])
        self.read.inc()
        if late is not None:
            self.late.update(late)
        yield fields[TAILNUM], ((fields[ORIGIN], fields[DEST], int(fields[MONTH])), late)


def read_plane(line):
    """A line as (tail number, (maker, seats))."""
    fields = line.split(",")
    return fields[PLANE], (fields[MAKER], int(fields[SEATS]))


def read_airport(line):
    """A line as (code, name)."""
    fields = line.split(",")
    return fields[AIRPORT], fields[AIRPORT_NAME]


class WithPlane(beam.DoFn):
    """All flights of a plane as (route and month, (minutes late, (maker, seats) or None))."""

    def __init__(self):
        self.unknown = Metrics.counter("delays", "flights_of_unknown_planes")

    def process(self, group):
        _, found = group
        plane = next(iter(found["planes"]), None)
        for route, late in found["flights"]:
            if plane is None:
                self.unknown.inc()
            yield route, (late, plane)


class Summary(beam.CombineFn):
    """[flights, flights that arrived, their minutes late, flights of known planes, their seats, their makers]."""

    def create_accumulator(self):
        return [0, 0, 0, 0, 0, collections.Counter()]

    def add_input(self, summary, flight):
        late, plane = flight
        summary[0] += 1
        if late is not None:
            summary[1] += 1
            summary[2] += late
        if plane is not None:
            maker, seats = plane
            summary[3] += 1
            summary[4] += seats
            summary[5][maker] += 1
        return summary

    def merge_accumulators(self, summaries):
        merged = self.create_accumulator()
        for summary in summaries:
            for position, value in enumerate(summary):
                merged[position] += value
        return merged

    def extract_output(self, summary):
        return summary


def as_row(element, airports):
    """The row of a route and month."""
    (origin, dest, month), (flights, arrived, late, known, seats, makers) = element
    cells = {
        "route": {"from": airports.get(origin, UNKNOWN), "to": airports.get(dest, UNKNOWN)},
        "delay": {"flights": flights, "arrived": arrived, "mean": f"{late / arrived:.2f}" if arrived else UNKNOWN},
        "fleet": {
            "known": known,
            "seats": f"{seats / known:.1f}" if known else UNKNOWN,
            # The name decides between makers of as many flights.
            "maker": min(makers, key=lambda maker: (-makers[maker], maker)) if makers else UNKNOWN,
        },
    }
    when = datetime.datetime(2013, month, 1, tzinfo=datetime.timezone.utc)
    row = DirectRow(f"{origin}-{dest}#2013-{month:02}".encode())
    for family, values in cells.items():
        for name, value in values.items():
            row.set_cell(family, name.encode(), str(value).encode(), when)
    return row


def build(pipeline, source, project, instance, table):
    """Adds the pipeline's steps."""

    def lines(name, files):
        return pipeline | f"Read {name}" >> beam.io.ReadFromText(f"{source}/{files}", skip_header_lines=1)

    flights = lines("flights", "flights/*.csv") | "Flight" >> beam.ParDo(ReadFlight())
    planes = lines("planes", "planes.csv") | "Plane" >> beam.Map(read_plane)
    airports = lines("airports", "airports.csv") | "Airport" >> beam.Map(read_airport)
    by_plane = {"flights": flights, "planes": planes} | "Join by tail number" >> beam.CoGroupByKey()
    by_route = by_plane | "With plane" >> beam.ParDo(WithPlane()) | "Sum up" >> beam.CombinePerKey(Summary())
    rows = by_route | "Row" >> beam.Map(as_row, beam.pvalue.AsDict(airports))
    rows | "Write" >> WriteToBigTable(project, instance, table)


def figures(result):
    """The pipeline's own metrics, by name."""
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("delays"))
    counters = {each.key.metric.name: each.committed for each in found["counters"]}
    shapes = {
        each.key.metric.name: [each.committed.count, each.committed.sum, each.committed.min, each.committed.max]
        for each in found["distributions"]
    }
    return {**counters, **shapes}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True, help="the folder of the files")
    parser.add_argument("--instance", required=True)
    parser.add_argument("--table", required=True)
    told, rest = parser.parse_known_args()
    options = PipelineOptions(rest)
    pipeline = beam.Pipeline(options=options)
    build(pipeline, told.input, options.view_as(GoogleCloudOptions).project, told.instance, told.table)
    result = pipeline.run()
    # Runners within this process have no ids of jobs.
    job = result.job_id() if hasattr(result, "job_id") else None
    print(json.dumps({"job": job}), flush=True)
    state = result.wait_until_finish()
    print(json.dumps({"state": state, "metrics": figures(result)}), flush=True)


if __name__ == "__main__":
    main()
