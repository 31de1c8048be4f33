/* SPDX-License-Identifier: Apache-2.0
 *
 * Every metric there is. The order here is the order on the page and in the reference.
 */
#include "metrics/metrics_int.h"

const int64_t metric_bucket_ns[METRIC_BUCKETS] = {
	1000000,
	2500000,
	5000000,
	10000000,
	25000000,
	50000000,
	100000000,
	250000000,
	500000000,
	1000000000,
	2500000000,
	5000000000,
	10000000000,
	30000000000,
	60000000000,
	120000000000,
	300000000000,
	600000000000,
};

#define C METRIC_COUNTER
#define G METRIC_GAUGE
#define H METRIC_HISTOGRAM

const struct metric_family metric_families[] = {
	{ "corral_build_info", "Always 1; the running version is the label.", G, { "version" } },
	{ "corral_requests_total", "Requests answered, by pool, route and HTTP status.", C,
		{ "pool", "route", "code" } },
	{ "corral_requests_running", "Requests an engine is working on now.", G, { "pool" } },
	{ "corral_requests_waiting", "Requests that wait in the queue now.", G, { "pool", "priority" } },
	{ "corral_request_duration_seconds", "From a request's last byte to its answer's last byte.", H,
		{ "pool", "route" } },
	{ "corral_time_to_first_byte_seconds", "From a request's last byte to the engine's first byte.", H,
		{ "pool", "route" } },
	{ "corral_queue_wait_seconds", "How long a request waited for a slot.", H, { "pool" } },
	{ "corral_admission_rejected_total", "Requests refused before an engine saw them.", C,
		{ "pool", "reason" } },
	{ "corral_auth_failures_total",
		"Requests refused for their key: no_key, bad_key, expired, scope, model.", C, { "reason" } },
	{ "corral_request_retries_total", "Requests sent a second time, by the reason.", C,
		{ "pool", "reason" } },
	{ "corral_placement_decisions_total", "Decisions of the planner, by their outcome.", C,
		{ "outcome" } },
	{ "corral_pool_ready", "1 while the pool has a replica that answers.", G, { "pool" } },
	{ "corral_pool_slots", "Slots of the pool's ready replicas: free, leased, cooling.", G,
		{ "pool", "state" } },
	{ "corral_leases", "Slots in use.", G, { "pool" } },
	{ "corral_engine_restarts_total", "Engines started again, by the reason.", C, { "pool", "reason" } },
	{ "corral_model_load_seconds", "From an engine's start to its readiness.", H, { "pool" } },
	{ "corral_breaker_state", "The pool's restart breaker: 0 closed, 2 open.", G, { "pool" } },
	{ "corral_circuit_state",
		"Whether a replica that lives gets requests: 0 closed (it does), 1 half open (one), 2 open "
		"(none).",
		G, { "pool", "replica" } },
	{ "corral_circuit_opens_total", "How often a replica that lives got no requests for 5 s.", C,
		{ "pool", "replica" } },
	{ "corral_reloads_total",
		"Replacements of a pool's engines: ok, failed (the old serve on), cancelled.", C,
		{ "pool", "outcome" } },
	{ "corral_drain_seconds", "From the order to drain to the last lease's end.", H, { "pool" } },
	{ "corral_tls_certificate_expiry_timestamp_seconds",
		"When the certificate that is served with ends, in seconds since 1970.", G, { NULL } },
	{ "corral_tls_handshake_failures_total",
		"Connections to https addresses that did not come to speak TLS.", C, { NULL } },
	{ "corral_device_memory_bytes", "A device's memory: total, used, free. The CPU's is the host's.", G,
		{ "device", "kind" } },
	{ "corral_device_utilization_ratio", "How busy a device is, 0 to 1.", G, { "device" } },
	{ "corral_nodes", "Nodes by state.", G, { "state" } },
	{ "corral_registry_revision", "Revision of the registry's snapshot; it only grows.", G, { NULL } },
	{ "corral_loop_lag_seconds", "The longest round of an event loop since the last reading.", G,
		{ "loop" } },
	{ "corral_log_dropped_total", "Log lines dropped because their reader was too slow.", C, { NULL } },
	{ "process_cpu_seconds_total", "Processor time used by this process.", C, { NULL },
		.fractional = true },
	{ "process_resident_memory_bytes", "Resident memory.", G, { NULL } },
	{ "process_virtual_memory_bytes", "Virtual memory.", G, { NULL } },
	{ "process_open_fds", "Open file descriptors.", G, { NULL } },
	{ "process_max_fds", "Limit of open file descriptors.", G, { NULL } },
	{ "process_start_time_seconds", "When the process started, in seconds since 1970.", G, { NULL } },
	{ "process_threads", "Threads of this process.", G, { NULL } },
};
const size_t metric_family_count = ARRAY_LEN(metric_families);
