//! The calls that workers make: requests of checks, and probes that pass through.

use std::time::Duration;

use graygate::proxy::{CallId, NotSent};
use graygate::readiness::check::grpc;

use super::manner::Manner;
use super::proxy::SimProxy;
use super::surroundings::{Event, text};

/// A call that a worker has sent.
#[derive(Clone, Debug)]
pub struct SentCall {
    /// When it was sent, in milliseconds.
    pub at: u64,
    pub vm: usize,
    pub root: usize,
    pub cluster: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    pub timeout: Duration,
}

impl SentCall {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The end of a call, as the proxy reports it. It has no headers if the response broke off.
#[derive(Clone, Debug, Default)]
pub struct CallEnd {
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
}

/// Returns the end of a gRPC call with this status and message. It has no body.
fn grpc_end(status: u32, message: &str, from_upstream: bool) -> CallEnd {
    let mut headers =
        text(&[(":status", "200"), ("grpc-status", &status.to_string()), ("grpc-message", message)]);
    if from_upstream {
        headers.extend(text(&[("x-envoy-upstream-service-time", "1")]));
    }
    CallEnd { headers, ..CallEnd::default() }
}

/// Returns the end of a gRPC call whose service has this status.
fn grpc_served(serving: u32) -> CallEnd {
    CallEnd {
        headers: text(&[
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("x-envoy-upstream-service-time", "1"),
        ]),
        body: vec![0, 0, 0, 0, 2, 8, u8::try_from(serving).unwrap()],
        trailers: text(&[("grpc-status", "0")]),
    }
}

impl SimProxy {
    pub(super) fn call(
        &self,
        cluster: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<CallId, NotSent> {
        let id = self.world.calls.get() + 1;
        self.world.calls.set(id);
        let path = headers.iter().find(|(name, _)| *name == ":path").map_or("", |(_, path)| path);
        let of_path = self.world.call_paths.borrow().get(&(cluster.to_owned(), path.to_owned())).cloned();
        let checked = of_path.or_else(|| self.world.checks.borrow().get(cluster).cloned());
        let closes = headers.contains(&("connection", "close"));
        let manner = checked.unwrap_or_else(|| self.world.manner(cluster));
        let confirms = self.world.confirms_close.get() && !matches!(manner, Manner::Http2(_));
        let manner = match manner {
            Manner::Http2(refusal) if closes => *refusal,
            Manner::Http2(_) => Manner::Status(200),
            manner => manner,
        };
        let grpc = path == grpc::PATH;
        assert_eq!(grpc, !body.is_empty());
        let answers = matches!(manner, Manner::Status(_) | Manner::With(..) | Manner::Grpc(_));
        let takes = if answers { self.world.call_takes.get() } else { Duration::ZERO };
        let http = |status: u16, of_upstream: bool| {
            let mut headers = vec![(":status".to_owned(), status.to_string().into_bytes())];
            if of_upstream {
                headers.push(("x-envoy-upstream-service-time".to_owned(), b"1".to_vec()));
                if closes && confirms {
                    headers.push(("connection".to_owned(), b"close".to_vec()));
                }
            }
            let body = match (of_upstream, status) {
                (true, _) => self.world.call_body.borrow().clone(),
                (false, 504) => "upstream request timeout".to_owned(),
                (false, _) => "upstream connect error".to_owned(),
            };
            CallEnd { headers, body: body.into_bytes(), ..CallEnd::default() }
        };
        let timed_out = || match grpc {
            true => grpc_end(14, "upstream request timeout", false),
            false => http(504, false),
        };
        let (after, end) = match (manner, grpc) {
            (Manner::Missing, _) => return Err(NotSent::NoCluster),
            (Manner::NoHost | Manner::Overflows, _) => return Err(NotSent::NoHost),
            (Manner::Hangs, _) => (timeout, timed_out()),
            _ if takes > timeout => (timeout, timed_out()),
            (Manner::GrpcFails(status, message), true) => {
                (Duration::from_millis(1), grpc_end(status, message, true))
            }
            (Manner::Slow(after), _) if after > timeout => (timeout, timed_out()),
            (Manner::Overloads, grpc) => {
                let mut end =
                    if grpc { grpc_end(14, "upstream connect error", false) } else { http(503, false) };
                end.headers.extend(text(&[("x-envoy-overloaded", "true")]));
                (Duration::from_millis(1), end)
            }
            (Manner::Refuses | Manner::Resets, false) => (Duration::from_millis(1), http(503, false)),
            (Manner::Refuses | Manner::Resets, true) => {
                (Duration::from_millis(1), grpc_end(14, "upstream connect error", false))
            }
            (Manner::BreaksOff, _) => (Duration::from_millis(1), CallEnd::default()),
            (Manner::Slow(after), false) => (after, http(200, true)),
            (Manner::Status(status), false) => (takes.max(Duration::from_millis(1)), http(status, true)),
            (Manner::With(status, more), false) => {
                let mut end = http(status, true);
                end.headers
                    .extend(more.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())));
                (takes.max(Duration::from_millis(1)), end)
            }
            (Manner::Grpc(serving), true) => (takes.max(Duration::from_millis(1)), grpc_served(serving)),
            (_, true) => (Duration::from_millis(1), grpc_served(1)),
            (_, false) => (Duration::from_millis(1), http(200, true)),
        };
        let end = self.world.call_ends.borrow_mut().pop_front().unwrap_or(end);
        self.world.called.borrow_mut().push(cluster.to_owned());
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (at, vm, root) = (self.world.now.get(), self.vm, self.root);
        let sent = SentCall { at, vm, root, cluster: cluster.to_owned(), headers, timeout };
        self.world.sent.borrow_mut().push(sent);
        let due = self.world.now.get() + u64::try_from(after.as_millis()).unwrap();
        self.world.at(due, Event::Call { vm: self.vm, root: self.root, id, end });
        Ok(CallId(id))
    }
}
