//! Listeners, and the HTTP connection manager that each has.

use graygate::policy::document::Node;

use crate::tree::{list, number, object, or_null, text};

/// The port of the bootstrap's listener without `--port`.
pub const PORT: u16 = 10_000;
/// The port of the admin interface without `--admin-port`.
pub const ADMIN_PORT: u16 = 9_901;

/// What tells the HTTP connection manager of one listener from that of another.
pub struct Manager {
    /// The name of its routes, and the prefix of its statistics.
    pub name: &'static str,
    /// The HTTP filters before the router.
    pub http_filters: Vec<Node>,
    /// The virtual hosts.
    pub virtual_hosts: Vec<Node>,
    /// How long a client may take to send a request.
    pub request_timeout: Option<&'static str>,
    /// Whether it writes a line of JSON for each request to standard output.
    pub has_access_log: bool,
}

impl Manager {
    /// Returns the `filter_chains` of the listener.
    pub fn filter_chains(self) -> Node {
        let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
        let router = object([
            ("name", text("envoy.filters.http.router")),
            ("typed_config", object([("@type", text(router))])),
        ]);
        let routes = object([
            ("name", text(self.name)),
            // The policy's hosts match requests with any port.
            ("ignore_port_in_host_matching", Node::Bool(true)),
            ("virtual_hosts", list(self.virtual_hosts)),
        ]);
        let kind = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let manager = object([
            ("@type", text(format!("type.googleapis.com/{kind}"))),
            ("stat_prefix", text(self.name.replace('-', "_"))),
            ("request_timeout", or_null(self.request_timeout.map(text))),
            ("http_filters", list(self.http_filters.into_iter().chain([router]))),
            ("access_log", or_null(self.has_access_log.then(|| list([access_log()])))),
            ("route_config", routes),
        ]);
        let filter = object([
            ("name", text("envoy.filters.network.http_connection_manager")),
            ("typed_config", manager),
        ]);
        list([object([("filters", list([filter]))])])
    }
}

/// Returns the `address` of a listener.
pub fn socket_address(address: &str, port: u16) -> Node {
    let socket = object([("address", text(address)), ("port_value", number(port))]);
    object([("socket_address", socket)])
}

/// Returns a virtual host with these domains and routes.
pub fn virtual_host(name: &str, domains: impl IntoIterator<Item = String>, routes: Vec<Node>) -> Node {
    let domains = list(domains.into_iter().map(text));
    object([("name", text(name)), ("domains", domains), ("routes", list(routes))])
}

/// Returns a virtual host that responds 404 to everything that the filter does not answer, after these routes.
pub fn not_found(name: &str, mut routes: Vec<Node>) -> Node {
    let answer = object([("status", number(404))]);
    routes.push(object([("match", object([("prefix", text("/"))])), ("direct_response", answer)]));
    virtual_host(name, ["*".to_owned()], routes)
}

/// Returns an access log on standard output. `details` has the reason of each reply of the filter, and `graygate` the label
/// of each request that it acts on, as `requestLabel` says.
fn access_log() -> Node {
    let fields = [
        ("path", "%REQ(:PATH)%"),
        ("status", "%RESPONSE_CODE%"),
        ("details", "%RESPONSE_CODE_DETAILS%"),
        ("graygate", "%FILTER_STATE(wasm.graygate:PLAIN)%"),
        ("cluster", "%UPSTREAM_CLUSTER%"),
        ("duration", "%DURATION%"),
    ];
    let format = object([("json_format", object(fields.map(|(name, value)| (name, text(value)))))]);
    let logger = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
    let config = object([("@type", text(logger)), ("log_format", format)]);
    object([("name", text("stdout")), ("typed_config", config)])
}
