"""Variables that libraries know and an operator never meant for the mesh, with values that hurt."""

from typing import Final

LIBPQ: Final = {
    "PGHOST": "192.0.2.1", "PGHOSTADDR": "192.0.2.1", "PGPORT": "1", "PGDATABASE": "nothing",
    "PGUSER": "nobody", "PGPASSWORD": "wrong", "PGPASSFILE": "/nowhere/pass",
    "PGSERVICE": "nothing", "PGSERVICEFILE": "/nowhere/service", "PGOPTIONS": "-c fsync=off",
    "PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/nowhere/root", "PGSSLCERT": "/nowhere/cert",
    "PGSSLKEY": "/nowhere/key", "PGSSLCRL": "/nowhere/crl", "PGSSLNEGOTIATION": "direct",
    "PGSSLMINPROTOCOLVERSION": "TLSv9", "PGSSLMAXPROTOCOLVERSION": "TLSv0",
    "PGREQUIREAUTH": "none", "PGCHANNELBINDING": "require", "PGGSSENCMODE": "require",
    "PGGSSLIB": "nothing", "PGKRBSRVNAME": "nothing", "PGTARGETSESSIONATTRS": "standby",
    "PGCLIENTENCODING": "LATIN1", "PGTZ": "Mars/Crater", "PGDATESTYLE": "nothing",
    "PGCONNECT_TIMEOUT": "0", "PGAPPNAME": "nothing", "PGDATA": "/nowhere",
}  # fmt: skip
GRPC: Final = {
    "grpc_proxy": "http://127.0.0.1:1", "GRPC_VERBOSITY": "debug", "GRPC_TRACE": "all",
    "GRPC_DNS_RESOLVER": "nothing", "GRPC_POLL_STRATEGY": "nothing", "GRPC_PROXY_EXP": "1",
    "GRPC_SSL_CIPHER_SUITES": "nothing", "GRPC_ENABLE_FORK_SUPPORT": "1",
    "GRPC_ARENA_INIT_STRATEGY": "nothing", "GRPC_XDS_BOOTSTRAP": "/nowhere",
}  # fmt: skip
OPENTELEMETRY: Final = {
    "OTEL_SDK_DISABLED": "true", "OTEL_SERVICE_NAME": "nothing", "OTEL_PROPAGATORS": "nothing",
    "OTEL_RESOURCE_ATTRIBUTES": "=,=", "OTEL_TRACES_SAMPLER": "always_off",
    "OTEL_TRACES_SAMPLER_ARG": "many", "OTEL_TRACES_EXPORTER": "nothing", "OTEL_LOG_LEVEL": "none",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "none", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "deflate",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "nothing", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
    "OTEL_EXPORTER_OTLP_INSECURE": "perhaps", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "pigeon",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "===", "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/nowhere",
    "OTEL_BSP_MAX_QUEUE_SIZE": "-1", "OTEL_BSP_SCHEDULE_DELAY": "often",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "0", "OTEL_BSP_EXPORT_TIMEOUT": "-1",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "many", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "-1",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "x", "OTEL_PYTHON_ID_GENERATOR": "nothing",
    "OTEL_PYTHON_TRACER_PROVIDER": "nothing", "OTEL_PYTHON_CONTEXT": "nothing",
    "OTEL_PYTHON_METER_PROVIDER": "nothing", "OTEL_METRIC_EXPORT_INTERVAL": "x",
    "OTEL_METRICS_EXEMPLAR_FILTER": "nothing", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "nothing",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "",
}  # fmt: skip
# Without those that stop Python before it runs anything (PYTHONHOME, PYTHONEXECUTABLE).
PYTHON: Final = {
    "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "PYTHONIOENCODING": "ascii",
    "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONSTARTUP": "/nowhere",
    "PYTHONINSPECT": "1", "PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1", "PYTHONSAFEPATH": "1",
    "PYTHONHASHSEED": "0", "PYTHONMALLOC": "malloc", "PYTHONTRACEMALLOC": "1",
    "PYTHONFAULTHANDLER": "1", "PYTHONUSERBASE": "/nowhere", "PYTHONBREAKPOINT": "nothing",
    "PYTHONVERBOSE": "", "PYTHONNOUSERSITE": "1",
}  # fmt: skip
CURL: Final = {
    "http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1",
    "https_proxy": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1",
    "all_proxy": "nonsense://127.0.0.1:1", "ALL_PROXY": "nonsense://127.0.0.1:1",
    "no_proxy": "", "NO_PROXY": "", "CURL_CA_BUNDLE": "/nowhere", "REQUESTS_CA_BUNDLE": "/nowhere",
    "SSLKEYLOGFILE": "/nowhere/keys", "NETRC": "/nowhere", "CURL_HOME": "/nowhere",
    "OPENSSL_CONF": "/nowhere", "SSL_CERT_FILE": "/nowhere/authorities", "LC_ALL": "C",
}  # fmt: skip
BY_LIBRARY: Final = {
    "libpq": LIBPQ, "gRPC": GRPC, "OpenTelemetry": OPENTELEMETRY, "Python": PYTHON, "curl": CURL,
}  # fmt: skip
ALL: Final = {name: value for some in BY_LIBRARY.values() for name, value in some.items()}
