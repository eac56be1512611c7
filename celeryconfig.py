"""Celery's settings: where its messages go, the queue, the beat schedule, and why each choice.

The coordination Redis is not here: what is here, Flower shows.
"""

import json

from cleanup_tasks.configuration.broker import CelerySettings
from cleanup_tasks.configuration.settings import IntervalSettings
from cleanup_tasks.configuration.targets import intervals
from cleanup_tasks.schedule import ENGINE_OF_TASK, beat_entries, time_limits

_settings = CelerySettings.read()
IntervalSettings.read()  # one that is wrong for all targets ends the process

broker_url = _settings.broker_url
result_backend = _settings.result_backend
broker_transport_options = json.loads(_settings.celery_broker_transport_options.get_secret_value())
result_backend_transport_options = json.loads(
    _settings.celery_result_backend_transport_options.get_secret_value()
)
broker_connection_retry_on_startup = True
# A result that is ready during an outage of the backend is kept until it can be stored.
result_backend_always_retry = True
result_expires = 86_400
# Arguments, retries and worker beside each result.
result_extended = True

include = ["cleanup_tasks.tasks"]
task_default_queue = "cleanup"
# For RabbitMQ, which keeps a retry of a quorum queue until it is due, but only where the exchange's type is
# topic. Else a worker would keep it, and take no other meanwhile.
task_default_queue_type = task_create_missing_queue_type = _settings.celery_task_default_queue_type
if task_default_queue_type == "quorum":
    task_default_exchange_type = task_create_missing_queue_exchange_type = "topic"

# Acknowledged before it runs: the beat comes again anyway, and a worker that holds an unacknowledged
# message when its broker dies exits.
task_acks_late = False
worker_prefetch_multiplier = 1
task_track_started = True

# Of a cleanup that somebody else than beat asks for.
_limits = time_limits(max(intervals().values()))
# whole names: Celery knows no patterns here
task_annotations = dict.fromkeys(ENGINE_OF_TASK, _limits)

# Flower lives on these events.
worker_send_task_events = True
task_send_sent_event = True

beat_schedule = beat_entries(intervals(), queue="cleanup")
# Keeps no file, which could be damaged.
beat_scheduler = "celery.beat:Scheduler"
