"""An S3 that is not ours, on loopback: moto's server, with one bucket."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "models"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """The environment in which `s3://models` is a bucket of this server; it ends with the block."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
    }
    try:
        boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            region_name=environment["AWS_REGION"],
            aws_access_key_id="tests",
            aws_secret_access_key="tests",
        ).create_bucket(Bucket=BUCKET)
        yield {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | environment
    finally:
        server.stop()
