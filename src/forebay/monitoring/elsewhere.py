"""Metrics that others export and that panels and alerts use: Prometheus's own, a process's, and vLLM's.

vLLM's are a frozen list, checked against a real engine in `tests/e2e`: what it renames must not leave a dead panel.
"""

from forebay.telemetry.catalogue import Metric

UP = Metric("up", "gauge", "1 if the latest scrape of the target succeeded.")
ALERTS = Metric(
    "ALERTS", "gauge", "1 for each alert that is pending or firing.", ("alertname", "alertstate", "service")
)
CPU = Metric("process_cpu_seconds_total", "counter", "Processor time used.")
MEMORY = Metric("process_resident_memory_bytes", "gauge", "Memory resident.")
OPEN_FILES = Metric("process_open_fds", "gauge", "File descriptors open.")
MAX_FILES = Metric("process_max_fds", "gauge", "File descriptors that may be open.")
STARTED = Metric("process_start_time_seconds", "gauge", "When the process began, as a Unix time.")

_LABELS = ("replica", "model_name", "engine")
VLLM_RUNNING = Metric("vllm:num_requests_running", "gauge", "Requests in the engine's batch.", _LABELS)
VLLM_WAITING = Metric("vllm:num_requests_waiting", "gauge", "Requests that wait in the engine.", _LABELS)
VLLM_KV_USAGE = Metric("vllm:kv_cache_usage_perc", "gauge", "Share of the KV cache in use, 0 to 1.", _LABELS)
VLLM_PREEMPTIONS = Metric("vllm:num_preemptions_total", "counter", "Requests put back for want of memory.", _LABELS)
VLLM_PREFIX_QUERIES = Metric("vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up.", _LABELS)
VLLM_PREFIX_HITS = Metric("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found.", _LABELS)
VLLM_PROMPT_TOKENS = Metric("vllm:prompt_tokens_total", "counter", "Prompt tokens prefilled.", _LABELS)
VLLM_GENERATED = Metric("vllm:generation_tokens_total", "counter", "Tokens generated.", _LABELS)
VLLM_QUEUE_TIME = Metric("vllm:request_queue_time_seconds", "histogram", "Time waited in the engine.", _LABELS)
VLLM_PREFILL_TIME = Metric("vllm:request_prefill_time_seconds", "histogram", "Time in prefill.", _LABELS)
VLLM_DECODE_TIME = Metric("vllm:request_decode_time_seconds", "histogram", "Time in decode.", _LABELS)

ELSEWHERE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
