"""Run a command beside a real Apache Kafka: ``python -m tests.contracts.kafka.apache -- COMMAND``.

Kafka's own artifacts come from Maven into ``.kafka/`` (once); a single KRaft node is formatted in
a temporary directory and started with the JDK on free loopback ports. The command finds its
address in ``REDLINE_TEST_KAFKA``. Without Java or Maven it says "skipped" and succeeds.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KAFKA_VERSION = "4.3.1"
LOG4J_VERSION = "2.25.1"
CACHE = Path(__file__).resolve().parents[3] / ".kafka"
READY_S = 60
HEAP = "-Xmx512m"

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>redline</groupId><artifactId>contract-kafka</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

# Kafka looks for old segments every five minutes and waits three seconds for a group to form; the
# suite cannot. Everything else is left as Kafka ships it.
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={directory}/logs
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=300
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
log.cleaner.backoff.ms=500
"""


class Unavailable(Exception):
    """Apache Kafka cannot run here; the text says what is missing."""


def libraries() -> Path:
    """The directory with Kafka and everything it needs, fetched by Maven if it is not there yet.

    Raises:
        Unavailable: no Java, no Maven, or Maven could not resolve the artifacts.
    """
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed")
    directory = CACHE / f"kafka-{KAFKA_VERSION}"
    done = directory / "complete"
    if not done.exists():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "pom.xml").write_text(_POM)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs"]
        fetched = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, check=False, timeout=600
        )
        if fetched.returncode:
            raise Unavailable(f"Maven could not resolve Kafka: {fetched.stdout[-500:]}")
        done.touch()
    return directory / "libs"


@contextmanager
def running_kafka(libs: Path) -> Iterator[str]:
    """A Kafka node on a free port; yields its bootstrap address."""
    with tempfile.TemporaryDirectory(prefix="kafka-") as name:
        directory = Path(name)
        port, controller_port = _free_ports(2)
        properties = directory / "server.properties"
        properties.write_text(
            _PROPERTIES.format(port=port, controller_port=controller_port, directory=directory)
        )
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        log = directory / "kafka.log"
        java = ["java", HEAP, "-Dlog4j2.level=WARN", "-cp", f"{libs}/*"]
        with log.open("w") as output:
            subprocess.run(
                [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", properties],
                stdout=output,
                stderr=output,
                check=True,
                timeout=READY_S,
            )
            process = subprocess.Popen(
                [*java, "kafka.Kafka", properties], stdout=output, stderr=output
            )
        try:
            _wait_until_ready(process, port, log)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                pass
            admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
            if admin.list_topics(timeout=5).brokers:
                return
        except (OSError, KafkaException):
            time.sleep(0.2)
    raise RuntimeError(f"Kafka did not become ready:\n{log.read_text()[-3000:]}")


def main(argv: list[str] | None = None) -> int:
    """Returns the command's exit status; 0 with a reason when Kafka cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m tests.contracts.kafka.apache")
    parser.add_argument("command", nargs="+", help="what to run, after --")
    arguments = parser.parse_args(argv)
    try:
        libs = libraries()
    except Unavailable as reason:
        sys.stdout.write(f"skipped: {reason}\n")
        return 0
    with running_kafka(libs) as bootstrap:
        sys.stdout.write(f"Apache Kafka {KAFKA_VERSION} listens on {bootstrap}\n")
        sys.stdout.flush()
        environment = {**os.environ, "REDLINE_TEST_KAFKA": bootstrap}
        return subprocess.run(arguments.command, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
