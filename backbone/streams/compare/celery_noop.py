"""How many tasks that do nothing Celery ends in a second: acks_late, a Redis broker, one worker process.

    celery_noop.py REDIS_URL POOL COUNT

publishes COUNT tasks, starts a worker with POOL (prefork or solo), and prints one line of JSON. The clock runs from the
moment the worker has ended its first tasks until it has ended all, so that its start does not count.
"""

import json
import os
import subprocess
import sys
import time

from celery import Celery

BROKER = os.environ.get("CELERY_NOOP_BROKER") or (sys.argv[1] if len(sys.argv) > 1 else "")

app = Celery("celery_noop", broker=BROKER)
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="noop")
def noop():
    pass


def left(redis):
    """Tasks that wait, and tasks that were delivered and are not acknowledged."""
    with redis.pipeline() as pipe:
        pipe.llen("celery").hlen("unacked")
        return sum(pipe.execute())


def spent(pid):
    """Processor seconds of a process and its children so far."""
    total = 0.0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = open(f"/proc/{name}/stat").read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(name) == pid or int(fields[1]) == pid:
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def main():
    _, url, pool, count = sys.argv
    count = int(count)
    import redis

    server = redis.Redis.from_url(url)
    with app.producer_pool.acquire() as producer:
        for _ in range(count):
            noop.apply_async(producer=producer)
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "celery_noop", "worker"]
    command += ["--pool", pool, "--concurrency", "1"]
    command += ["--loglevel", "error", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    folder = os.path.dirname(os.path.abspath(__file__))
    environment = {**os.environ, "CELERY_NOOP_BROKER": url}
    worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    try:
        warm = count - max(count // 50, 1)
        while (first := left(server)) > warm:
            if worker.poll() is not None:
                sys.exit(f"the worker ended with {worker.returncode}")
            time.sleep(0.01)
        since = time.monotonic()
        cpu = spent(worker.pid)
        while left(server) > 0:
            time.sleep(0.01)
        seconds = time.monotonic() - since
        cpu = spent(worker.pid) - cpu
    finally:
        worker.terminate()
        worker.wait()
    print(json.dumps({"flow": f"celery {pool}", "count": first, "seconds": seconds, "worker_cpu": cpu}))


if __name__ == "__main__":
    main()
