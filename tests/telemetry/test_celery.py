"""Celery: each child of its pool leaves by `os._exit` after one task, and its events are rows without `recover`."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.journals import folder_of, segments_in
from tests.write_side import child_environment, phases_of, url_of

pytest.importorskip("celery")

TASKS = """
import os
from celery import Celery
from autopack.telemetry import Telemetry
from tests.write_side import event

app = Celery("tasks", broker="filesystem://")
folder = os.environ["BROKER_FOLDER"]
app.conf.update(
    broker_transport_options={
        "data_folder_in": folder,
        "data_folder_out": folder,
        "control_folder": folder + "/control",
    },
    worker_max_tasks_per_child=1,
    worker_concurrency=2,
    task_ignore_result=True,
)
telemetry = None


@app.task
def work(name):
    global telemetry
    telemetry = telemetry or Telemetry(os.environ["EVENTS_URL"], flush_interval_s=60)
    assert telemetry.record(**event(phase_id=name))


if __name__ == "__main__":
    for n in range(8):
        work.delay(f"task{n}")
"""


def written(database: Path) -> int:
    try:
        return len(phases_of(database))
    except sqlite3.OperationalError:  # no table yet, or no file
        return 0


@pytest.mark.slow
def test_every_task_of_a_child_that_lives_for_one_is_a_row(database: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    broker = tmp_path / "broker"
    (broker / "control").mkdir(parents=True)
    environment = child_environment({"EVENTS_URL": url_of(database), "BROKER_FOLDER": str(broker)})
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    subprocess.run([sys.executable, tmp_path / "tasks.py"], env=environment, check=True, timeout=60)
    log = tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool=prefork", "--loglevel=INFO"],
            env=environment,
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline_s = time.monotonic() + 120
        while written(database) < 8:
            assert worker.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    assert sorted(phases_of(database)) == [f"task{n}" for n in range(8)], log.read_text()
    assert segments_in(folder_of(database)) == []
