"""What `headway doctor` says of what is wrong: how it was seen, and what to change before the services."""

from collections.abc import Mapping

from infra.cli.smoketest.checks import Wrong

Remedy = Mapping[str, str]
"""By the name of a gateway; under ANY what holds for all of them."""

ANY = "any"
_INGRESS = "nginx.ingress.kubernetes.io"

BUFFERING: Remedy = {
    "nginx": "`proxy_buffering off;` in the location of streams",
    "ingress-nginx": f'the annotation {_INGRESS}/proxy-buffering: "off"',
    "Caddy": "`flush_interval -1` in its `reverse_proxy`",
    "Traefik": "no `buffering` middleware on the router of streams, and `flushInterval: -1` for its service",
    ANY: "a stream is passed on piece by piece, as it comes; no cache or content filter in between",
}
COMPRESSION: Remedy = {
    "nginx": "`gzip off;` (and `brotli off;`) in the location of streams",
    "ingress-nginx": 'a server of its own for streams, or `use-gzip: "false"` in its ConfigMap',
    "Caddy": "`encode` only in the `handle` of everything else",
    "Traefik": "`excludedContentTypes: [text/event-stream]` in its `compress` middleware",
    ANY: "what is `text/event-stream`, or says `Cache-Control: no-transform`, is left as it is",
}
HEADERS: Remedy = {
    "nginx": "no `add_header` or `proxy_hide_header` for that name in the location of streams",
    "ingress-nginx": "no snippet or `custom-headers` that sets or hides it",
    "Caddy": "no `header` or `header_down` for that name",
    "Traefik": "no `headers` middleware for that name",
    ANY: "answers keep the headers that the services give them",
}
STRICT: Remedy = {
    "nginx": '`add_header Strict-Transport-Security "max-age=31536000" always;` in the server',
    "ingress-nginx": '`hsts: "true"` in its ConfigMap, which is the default',
    "Caddy": '`header Strict-Transport-Security "max-age=31536000"` in the site',
    "Traefik": "`stsSeconds: 31536000` in a `headers` middleware",
}
HTTP2: Remedy = {
    "nginx": "`http2` at its `listen … ssl`, or `http2 on;` from 1.25.1 on",
    "ingress-nginx": '`use-http2: "true"` in its ConfigMap, which is the default',
    "Caddy": "no `protocols h1` among its servers' options",
    "Traefik": "no `alpnProtocols` without `h2` among its TLS options",
}
UPGRADE: Remedy = {
    "nginx": "for /api/ws `proxy_http_version 1.1;`, `proxy_set_header Upgrade $http_upgrade;` "
    "and `proxy_set_header Connection upgrade;`",
    "ingress-nginx": "no `proxy_set_header Connection` in a snippet; without one it passes WebSockets on",
    "Caddy": "`reverse_proxy` for /api/ws without `header_up` for Connection and Upgrade",
    "Traefik": "no `headers` middleware for Connection and Upgrade",
}
HOST: Remedy = {
    "nginx": "`proxy_set_header Host $http_host;`",
    "ingress-nginx": f"no annotation {_INGRESS}/upstream-vhost",
    "Caddy": "no `header_up Host`",
    "Traefik": "`passHostHeader: true`, which is the default",
    ANY: "or set HEADWAY_PUBLIC_URL to the address that people use",
}
PUBLISHED: Remedy = {
    "nginx": "`location ~ ^/(metrics|health/ready)(/|$) { return 404; }`",
    "ingress-nginx": "a path for /metrics and /health/ready whose backend answers 404, as in infra/k8s",
    "Caddy": "`error 404` for `path /metrics /metrics/*`",
    "Traefik": "`!PathPrefix(`/metrics`)` in the rules of its routers",
}
SIZES: Remedy = {
    "nginx": "`client_max_body_size`: 16m, and for /api/uploads 25664k",
    "ingress-nginx": f'the annotation {_INGRESS}/proxy-body-size: "25664k"',
    "Caddy": "`max_size` of `request_body`, or none: the services have limits of their own",
    "Traefik": "`maxRequestBodyBytes` of its `buffering` middleware, or none: the services have limits of their own",
}
STATUS: Remedy = {
    "nginx": "`error_page 429 502 503 504` for streams, as in infra/gateway/nginx/headway/site.conf",
    "ingress-nginx": f"the annotations {_INGRESS}/custom-http-errors and default-backend, "
    "with a backend that answers 200 and `retry:`",
    "Caddy": "`handle_errors` for streams, as in infra/gateway/caddy/Caddyfile",
    "Traefik": "an `errors` middleware with a service that answers 200 and `retry:`",
}
PATIENCE: Remedy = {
    "nginx": "`proxy_read_timeout 5m;` in the location of streams",
    "ingress-nginx": f'the annotation {_INGRESS}/proxy-read-timeout: "300"',
    "Caddy": "no `read_timeout` in the transport of streams, and no `write_timeout` among the servers' options",
    "Traefik": "`respondingTimeouts` of its entry point: `writeTimeout: 0`, and `idleTimeout` above the heartbeat",
    ANY: "nothing on the way ends a connection that is silent for less than HEADWAY_HEARTBEAT",
}
PATHS: Remedy = {
    ANY: "/api/batches/{id}/stream, /api/batches/{id}/changes, /api/stream and /api/ws lead to the stream service, "
    "everything else to api"
}


class Finding(Wrong):
    """What is wrong, how it was seen, and what to change."""

    def __init__(self, wrong: str, *, seen: str, change: str) -> None:
        super().__init__(f"{wrong}\n      seen:   {seen}\n      change: {change}")


def advice(remedy: Remedy, server: str) -> str:
    """For the gateway that `server`, a header of that name, seems to be; for each of them if it says nothing."""
    name = server.lower()
    known = [gateway for gateway in remedy if gateway != ANY and gateway.lower().partition("-")[0] in name]
    if "nginx" in name and "ingress-nginx" in remedy:
        known = ["nginx", "ingress-nginx"]  # they call themselves the same
    named = [f"{gateway}: {remedy[gateway]}" for gateway in known or remedy if gateway != ANY]
    if ANY in remedy:
        named.append(remedy[ANY])
    return "\n              ".join(named)
