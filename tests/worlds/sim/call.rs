//! The calls that workers make: requests of checks, and probes that pass through.

use std::time::Duration;

use graygate::proxy::{CallId, NotSent};

use super::manner::Manner;
use super::proxy::SimProxy;
use super::surroundings::Event;

/// A call that a worker has sent.
#[derive(Clone, Debug)]
pub struct SentCall {
    /// When it was sent, in milliseconds.
    pub at: u64,
    pub vm: usize,
    pub root: usize,
    pub cluster: String,
    /// Its headers. A gRPC call has none.
    pub headers: Vec<(String, String)>,
    pub timeout: Duration,
}

impl SentCall {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Debug)]
pub(super) enum CallEnd {
    Http(Vec<(String, Vec<u8>)>, Vec<u8>),
    Grpc(u32, String, Vec<u8>),
}

impl SimProxy {
    pub(super) fn call(
        &self,
        cluster: &str,
        headers: &[(&str, &str)],
        timeout: Duration,
        grpc: bool,
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
            CallEnd::Http(headers, body.into_bytes())
        };
        let timed_out = || match grpc {
            true => CallEnd::Grpc(14, "upstream request timeout".to_owned(), Vec::new()),
            false => http(504, false),
        };
        let (after, end) = match (manner, grpc) {
            (Manner::Missing, _) => return Err(NotSent::NoCluster),
            (Manner::NoHost | Manner::Overflows, _) => return Err(NotSent::NoHost),
            (Manner::Unreadable, _) => return Err(NotSent::Unreadable),
            (Manner::Hangs, _) => (timeout, timed_out()),
            _ if takes > timeout => (timeout, timed_out()),
            (Manner::GrpcFails(status, message), true) => {
                (Duration::from_millis(1), CallEnd::Grpc(status, message.to_owned(), Vec::new()))
            }
            (Manner::Slow(after), _) if after > timeout => (timeout, timed_out()),
            (Manner::Overloads, false) => {
                let CallEnd::Http(mut headers, body) = http(503, false) else { unreachable!() };
                headers.push(("x-envoy-overloaded".to_owned(), b"true".to_vec()));
                (Duration::from_millis(1), CallEnd::Http(headers, body))
            }
            (Manner::Refuses | Manner::Resets, false) => (Duration::from_millis(1), http(503, false)),
            (Manner::Refuses | Manner::Resets, true) => {
                (Duration::from_millis(1), CallEnd::Grpc(14, "upstream connect error".to_owned(), Vec::new()))
            }
            (Manner::BreaksOff, false) => (Duration::from_millis(1), CallEnd::Http(Vec::new(), Vec::new())),
            (Manner::Slow(after), false) => (after, http(200, true)),
            (Manner::Status(status), false) => (takes.max(Duration::from_millis(1)), http(status, true)),
            (Manner::With(status, more), false) => {
                let CallEnd::Http(mut headers, body) = http(status, true) else { unreachable!() };
                headers.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())));
                (takes.max(Duration::from_millis(1)), CallEnd::Http(headers, body))
            }
            (Manner::Grpc(serving), true) => {
                let message = vec![8, u8::try_from(serving).unwrap()];
                (takes.max(Duration::from_millis(1)), CallEnd::Grpc(0, String::new(), message))
            }
            (_, true) => (Duration::from_millis(1), CallEnd::Grpc(0, String::new(), vec![8, 1])),
            (_, false) => (Duration::from_millis(1), http(200, true)),
        };
        self.world.called.borrow_mut().push(cluster.to_owned());
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (at, vm, root) = (self.world.now.get(), self.vm, self.root);
        let sent = SentCall { at, vm, root, cluster: cluster.to_owned(), headers, timeout };
        self.world.sent.borrow_mut().push(sent);
        let due = self.world.now.get() + u64::try_from(after.as_millis()).unwrap();
        self.world.at(due, Event::Call { vm: self.vm, root: self.root, id, grpc, end });
        Ok(CallId(id))
    }
}
