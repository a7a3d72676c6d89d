//! Requests and responses.

/// A request as a client sends it.
#[derive(Clone, Debug)]
pub struct Request {
    pub headers: Vec<(String, String)>,
    /// Whether all of it arrives at once.
    pub whole: bool,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self::of("GET", path)
    }

    pub fn of(method: &str, path: &str) -> Self {
        let headers = [(":method", method), (":path", path), (":authority", "shop"), (":scheme", "http")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Request { headers, whole: true }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns a request of which a part is still to come.
    pub fn unfinished(mut self) -> Self {
        self.whole = false;
        self
    }
}

/// The response to a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Envoy's `response_code_details`.
    pub details: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// The cluster that the request went to, or an empty string.
    pub cluster: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a gate responded instead of an upstream.
    pub fn is_gated(&self) -> bool {
        self.details.starts_with("graygate_gate{")
    }
}

/// A request as the proxy stores it, with its response.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) vm: usize,
    pub(super) root: usize,
    /// The client's address.
    pub(super) source: String,
    pub(super) request: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) response: Vec<(String, Vec<u8>)>,
    pub(super) response_body: Vec<u8>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
    pub(super) details: String,
    pub(super) cluster: String,
    /// The host that the router has sent it to.
    pub(super) host: Option<String>,
    /// How often the router has sent it to an upstream.
    pub(super) attempts: u8,
    pub(super) label: String,
    pub(super) filter_state: Vec<(String, String)>,
    pub(super) reply: Option<Answer>,
    /// Whether the filter has stopped it and has not replied yet.
    pub(super) paused: bool,
    /// Whether the filter has continued it.
    pub(super) resumed: bool,
    /// Whether the response is queued once the request goes on, instead of by the test.
    pub(super) queued: bool,
    pub(super) answer: Answer,
    pub(super) answered: bool,
    pub(super) over: bool,
}
