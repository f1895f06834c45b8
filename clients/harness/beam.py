"""Beam pipelines for tests: submitted by Beam's portable runner and by its DataflowRunner, both unmodified, and
the raw clients of Beam's Job API and of the Dataflow API."""

import json
import sys
import time

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import dataflow_v1beta3 as dataflow
from google.cloud import storage

from harness.kms import project_number
from harness.server import REPOSITORY

REGION = "us-east1"
STATE = beam_job_api_pb2.JobState
ENDED = (STATE.DONE, STATE.FAILED, STATE.CANCELLED)


def agent(server, project):
    """Who the Dataflow service is, in the project."""
    number = project_number(server, project)
    return f"serviceAccount:service-{number}@dataflow-service-producer-prod.iam.gserviceaccount.com"


def job_service(server):
    """Beam's Job API."""
    return beam_job_api_pb2_grpc.JobServiceStub(grpc.insecure_channel(server.address))


def options(server, project, *more):
    """Options of a job that runs in this very process."""
    return PipelineOptions([
        "--runner=PortableRunner", f"--job_endpoint={server.address}", "--environment_type=LOOPBACK",
        f"--project={project}", f"--region={REGION}", *more,
    ])


def start(server, project, build, *more):
    """Submits the pipeline that `build` makes; its result, not waited for."""
    pipeline = beam.Pipeline(options=options(server, project, *more))
    build(pipeline)
    return pipeline.run()


def state_within(jobs, job_id, states, seconds=30):
    """Waits until the job is in one of the states; which one."""
    until = time.monotonic() + seconds
    while True:
        state = jobs.GetState(beam_job_api_pb2.GetJobStateRequest(job_id=job_id)).state
        if state in states:
            return state
        assert time.monotonic() < until, f"the job is {STATE.Enum.Name(state)}"
        time.sleep(0.02)


def messages(jobs, job_id):
    """All that a job said up to its end: texts of messages, names of states."""
    told = []
    for message in jobs.GetMessageStream(beam_job_api_pb2.JobMessagesRequest(job_id=job_id), timeout=60):
        if message.HasField("message_response"):
            told.append(message.message_response.message_text)
        else:
            told.append(STATE.Enum.Name(message.state_response.state))
    return told


class Dataflow:
    """The clients of the Dataflow API in a project, over REST or gRPC."""

    def __init__(self, server, project, transport="rest"):
        self.project = project
        if transport == "rest":
            how = {
                "transport": "rest",
                "credentials": AnonymousCredentials(),
                "client_options": ClientOptions(api_endpoint=server.endpoint),
            }
            self.jobs = dataflow.JobsV1Beta3Client(**how)
            self.messages_client = dataflow.MessagesV1Beta3Client(**how)
            self.metrics_client = dataflow.MetricsV1Beta3Client(**how)
        else:
            channel = grpc.insecure_channel(server.address)

            def made(client):
                return client(transport=client.get_transport_class("grpc")(channel=channel))

            self.jobs = made(dataflow.JobsV1Beta3Client)
            self.messages_client = made(dataflow.MessagesV1Beta3Client)
            self.metrics_client = made(dataflow.MetricsV1Beta3Client)

    def _named(self, job_id, **more):
        return {"project_id": self.project, "location": REGION, "job_id": job_id, **more}

    def get(self, job_id, view=dataflow.JobView.JOB_VIEW_SUMMARY):
        return self.jobs.get_job(dataflow.GetJobRequest(self._named(job_id, view=view)))

    def list(self, **more):
        request = {"project_id": self.project, "location": REGION, **more}
        return list(self.jobs.list_jobs(dataflow.ListJobsRequest(request)))

    def create(self, **job):
        request = {"project_id": self.project, "location": REGION, "job": job}
        return self.jobs.create_job(dataflow.CreateJobRequest(request))

    def ask(self, job_id, state):
        """Asks a job to come to a state."""
        job = dataflow.Job(requested_state=state)
        return self.jobs.update_job(dataflow.UpdateJobRequest(self._named(job_id, job=job)))

    def messages(self, job_id, **more):
        request = dataflow.ListJobMessagesRequest(self._named(job_id, **more))
        return list(self.messages_client.list_job_messages(request))

    def metrics(self, job_id):
        return self.metrics_client.get_job_metrics(dataflow.GetJobMetricsRequest(self._named(job_id))).metrics

    def ended(self, job_id, seconds=60):
        """Waits for the job's last state."""
        states = dataflow.JobState
        until = time.monotonic() + seconds
        while True:
            job = self.get(job_id)
            if job.current_state in (states.JOB_STATE_DONE, states.JOB_STATE_FAILED, states.JOB_STATE_CANCELLED):
                return job
            assert time.monotonic() < until, job.current_state
            time.sleep(0.05)


def buckets(server, project):
    """The Cloud Storage client."""
    return storage.Client(
        project=project,
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=server.endpoint),
    )


def environment(bucket, url, key="", **fields):
    """The environment of a job of the Dataflow API whose pipeline is at `url`."""
    return {
        "temp_storage_prefix": f"storage.googleapis.com/{bucket}/tmp",
        "service_kms_key_name": key,
        "sdk_pipeline_options": {"options": {"pipelineUrl": url, **fields}},
    }


def process_environment(folder):
    """The configuration of a PROCESS environment that runs this Python by the contract of Beam's containers: a
    command in `folder`."""
    boot = REPOSITORY / "crates" / "harness" / "src" / "environment" / "boot.py"
    command = folder / "boot"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{boot}" "$@"\n')
    command.chmod(0o755)
    return json.dumps({"command": str(command)})
