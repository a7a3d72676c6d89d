//! Requests to a world, and how they end.

use std::time::Duration;

use graygate::proxy::Flow;

use super::manner::Manner;
use super::request::{Answer, Request, Stream};
use super::surroundings::{Event, Phase, text};
use super::world::{World, root_id};

const MS: Duration = Duration::from_millis(1);

impl World {
    /// Sends a request to a worker. If the filter forwards it, the test decides how it continues, for example with
    /// [`World::respond`] and [`World::end`].
    pub fn send(&mut self, vm: usize, request: &Request) -> u32 {
        let headers = request.headers.iter();
        let headers = headers.map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
        self.send_bytes(vm, headers, request.whole)
    }

    /// Sends a request whose header values may be any bytes.
    pub fn send_bytes(&mut self, vm: usize, headers: Vec<(String, Vec<u8>)>, whole: bool) -> u32 {
        self.streams += 1;
        let id = self.streams;
        let count = headers.len();
        let root = self.vms[vm].ticks.len() - if self.newest_serves { 1 } else { 2 };
        let source = self.around.source.borrow().clone();
        let stream = Stream { vm, root, source, request: headers, ..Stream::default() };
        self.around.streams.borrow_mut().insert(id, stream);
        // Envoy selects a route before the first filter, and again if headers change.
        self.locate(id);
        let is_told = self.around.module.get().sees_responses();
        let flow = self.during(vm, Phase::Request, Some(id), |contexts| {
            if is_told {
                contexts.create(id, root_id(root));
            }
            contexts.on_request_headers(id, count, whole)
        });
        let reply = self.stream(id, |stream| stream.reply.take());
        match (flow, reply) {
            (Flow::Pause, Some(reply)) => self.deliver(id, reply),
            (Flow::Pause, None) => {
                self.paused.insert(id);
                self.stream(id, |stream| stream.paused = true);
            }
            _ if !self.held_up => self.route(id),
            _ => self.locate(id),
        }
        id
    }

    /// Sends the filter's reply to a request.
    fn deliver(&mut self, id: u32, reply: Answer) {
        let details = reply.details.clone();
        self.stream(id, |stream| {
            stream.details = details.clone();
            stream.cluster.clear();
            stream.answer = reply;
            stream.answered = true;
        });
        self.end(id, &details);
    }

    /// Carries out what the filter has decided on paused requests. Envoy does so when a callback has returned.
    pub(super) fn settle_paused(&mut self) {
        if self.paused.is_empty() {
            return;
        }
        self.paused.retain(|id| self.around.streams.borrow().get(id).is_some_and(|stream| !stream.over));
        let decide = |id: &u32| {
            let decided = self.stream(*id, |stream| stream.resumed || stream.reply.is_some());
            decided.then(|| (*id, self.stream(*id, |stream| stream.reply.take())))
        };
        let decided: Vec<_> = self.paused.iter().filter_map(decide).collect();
        for (id, reply) in decided {
            self.paused.remove(&id);
            self.stream(id, |stream| stream.paused = false);
            match reply {
                Some(reply) => self.deliver(id, reply),
                None => {
                    self.route(id);
                    if self.stream(id, |stream| stream.queued) {
                        self.queue_response(id);
                    }
                }
            }
        }
    }

    /// Returns whether the filter has stopped the request and has not replied yet.
    pub fn is_paused(&self, id: u32) -> bool {
        self.stream(id, |stream| stream.paused && !stream.over)
    }

    /// Gives a request to the router.
    pub fn route(&mut self, id: u32) {
        self.locate(id);
        let cluster = self.stream(id, |stream| stream.cluster.clone());
        let has_host = self.around.manner(&cluster) != Manner::NoHost;
        let host = self.host.filter(|_| has_host).map(str::to_owned);
        self.stream(id, |stream| {
            stream.attempts = 1;
            stream.host = host;
        });
    }

    /// Makes the router send a request to an upstream once more.
    pub fn retry(&mut self, id: u32) {
        self.stream(id, |stream| stream.attempts += 1);
    }

    /// Selects the cluster of a request, as Envoy does before the router gets it.
    pub(super) fn locate(&mut self, id: u32) {
        let (steer, routes, default) = (self.steer, &self.routes, &self.route);
        self.stream(id, |stream| {
            let value = stream.request.iter().find(|(name, _)| name == steer);
            let value = value.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
            let cluster = value.and_then(|value| routes.get(&value)).unwrap_or(default);
            stream.cluster = cluster.clone();
        });
    }

    pub(super) fn stream<T>(&self, id: u32, act: impl FnOnce(&mut Stream) -> T) -> T {
        act(self.around.streams.borrow_mut().get_mut(&id).unwrap())
    }

    /// Returns whether the request has not ended.
    pub fn is_open(&self, id: u32) -> bool {
        self.stream(id, |stream| !stream.over)
    }

    /// Sends the rest of a request's body.
    pub fn finish_request(&mut self, id: u32) {
        self.call(id, Phase::RequestBody, |worker, proxy, id| worker.on_request_body(proxy, id, 0, true));
    }

    /// Begins the response. It comes from an upstream if `details` is `via_upstream`.
    pub fn respond(&mut self, id: u32, status: u16, details: &str, headers: &[(&str, &str)], end: bool) {
        self.respond_bytes(id, status, details, text(headers), end);
    }

    /// Begins a response whose header values may be any bytes.
    pub fn respond_bytes(
        &mut self,
        id: u32,
        status: u16,
        details: &str,
        headers: Vec<(String, Vec<u8>)>,
        end: bool,
    ) {
        let extra = self.extra_headers;
        let count = self.stream(id, |stream| {
            stream.details = details.to_owned();
            stream.response = text(&[(":status", &status.to_string())]);
            if details == "via_upstream" {
                stream.response.extend(text(&[("x-envoy-upstream-service-time", "1")]));
            }
            stream.response.extend(headers);
            stream.response.len() + extra
        });
        self.call(id, Phase::Response, |worker, proxy, id| worker.on_response_headers(proxy, id, count, end));
        self.stream(id, |stream| {
            stream.answered = true;
            stream.answer.status = status;
            stream.answer.details = details.to_owned();
            let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
            stream.answer.headers =
                stream.response.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        });
        if end {
            self.end(id, details);
        }
    }

    /// Sends a part of the response's body.
    pub fn body(&mut self, id: u32, body: &str, end: bool) {
        let size = body.len();
        self.stream(id, |stream| stream.response_body = body.as_bytes().to_vec());
        self.call(id, Phase::ResponseBody, |worker, proxy, id| worker.on_response_body(proxy, id, size, end));
        self.stream(id, |stream| {
            let body = String::from_utf8_lossy(&stream.response_body).into_owned();
            stream.answer.body.push_str(&body);
        });
        if end {
            let details = self.stream(id, |stream| stream.details.clone());
            self.end(id, &details);
        }
    }

    /// Ends the response with these trailers.
    pub fn trailers(&mut self, id: u32, trailers: &[(&str, &str)]) {
        self.stream(id, |stream| stream.trailers = text(trailers));
        self.call(id, Phase::Trailers, |worker, proxy, id| worker.on_response_trailers(proxy, id));
        let details = self.stream(id, |stream| stream.details.clone());
        self.end(id, &details);
    }

    /// Ends a request in any state, with these details.
    pub fn end(&mut self, id: u32, details: &str) {
        if !self.is_open(id) {
            return;
        }
        self.stream(id, |stream| stream.details = details.to_owned());
        let vm = self.stream(id, |stream| stream.vm);
        if self.around.module.get().sees_responses() {
            self.during(vm, Phase::None, Some(id), |contexts| contexts.delete(id));
        }
        self.stream(id, |stream| stream.over = true);
    }

    /// Ends a request because the client leaves.
    pub fn leave(&mut self, id: u32) {
        self.end(id, "downstream_remote_disconnect");
    }

    /// Responds now as an upstream that behaves like this.
    pub fn respond_as(&mut self, id: u32, manner: &Manner) {
        if !self.is_open(id) {
            return;
        }
        let reset = |why: &str| format!("upstream_reset_before_response_started{{{why}}}");
        match manner {
            Manner::Status(status) => self.respond(id, *status, "via_upstream", &[], true),
            Manner::Slow(_) => self.respond(id, 200, "via_upstream", &[], true),
            Manner::With(status, headers) => {
                let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                self.respond(id, *status, "via_upstream", &headers, true);
            }
            Manner::Grpc(status) => {
                self.respond(id, 200, "via_upstream", &[("content-type", "application/grpc")], false);
                self.trailers(id, &[("grpc-status", &status.to_string())]);
            }
            Manner::Refuses => {
                let details = reset("remote_connection_failure|delayed_connect_error:_Connection_refused");
                self.respond(id, 503, &details, &[], true);
            }
            Manner::Resets => self.respond(id, 503, &reset("connection_termination"), &[], true),
            Manner::BreaksOff => {
                self.respond(id, 200, "via_upstream", &[], false);
                self.end(id, "upstream_reset_after_response_started{connection_termination}");
            }
            Manner::Streams => self.respond(id, 200, "via_upstream", &[], false),
            Manner::Hangs => self.respond(id, 504, "response_timeout", &[], true),
            Manner::NoHost => self.respond(id, 503, "no_healthy_upstream", &[], true),
            Manner::Http2(_) => self.respond(id, 200, "via_upstream", &[], true),
            Manner::Overflows | Manner::Overloads => self.respond(id, 503, &reset("overflow"), &[], true),
            Manner::Missing => self.respond(id, 503, "cluster_not_found", &[], true),
            Manner::GrpcFails(status, _) => self.respond_as(id, &Manner::Grpc(*status)),
        }
    }

    /// Sends a request. The response is queued for the time at which the upstream responds.
    pub fn start(&mut self, vm: usize, request: &Request) -> u32 {
        let id = self.send(vm, request);
        if self.is_paused(id) {
            self.stream(id, |stream| stream.queued = true);
        } else if self.is_open(id) && !self.held_up {
            self.queue_response(id);
        }
        id
    }

    /// Queues the response of the upstream that a request has gone to.
    fn queue_response(&mut self, id: u32) {
        let cluster = self.stream(id, |stream| stream.cluster.clone());
        let manner = self.around.manner(&cluster);
        let after = match (&manner, self.timeout) {
            (Manner::Hangs, None) => return,
            (Manner::Hangs, Some(timeout)) => timeout,
            (Manner::Slow(after), Some(timeout)) if *after > timeout => timeout,
            (Manner::Slow(after), _) => *after,
            _ => MS,
        };
        let timed_out = self.timeout.is_some_and(|timeout| after >= timeout);
        let manner = if timed_out { Manner::Hangs } else { manner };
        let due = self.now() + u64::try_from(after.as_millis()).unwrap();
        self.around.at(due, Event::Respond { stream: id, manner });
    }

    /// Makes the client of a request leave after this time.
    pub fn leave_after(&mut self, id: u32, span: Duration) {
        let due = self.now() + u64::try_from(span.as_millis()).unwrap();
        let details = "downstream_remote_disconnect".to_owned();
        self.around.at(due, Event::End { stream: id, details });
    }

    /// Sends a request and lets time pass until its response begins. Returns the response.
    pub fn ask(&mut self, vm: usize, request: &Request) -> Answer {
        let id = self.start(vm, request);
        while !self.stream(id, |stream| stream.answered || stream.over) {
            assert!(self.step(u64::MAX), "nothing will ever answer");
        }
        self.answer(id)
    }

    /// Sends `GET /` and lets time pass until its response begins. Returns the response.
    pub fn get(&mut self, vm: usize) -> Answer {
        self.ask(vm, &Request::get("/"))
    }

    /// Sends requests one after the other. Returns how many of them were gated.
    pub fn gated(&mut self, vm: usize, requests: usize) -> usize {
        (0..requests).filter(|_| self.get(vm).is_gated()).count()
    }

    /// Sends a part of a request's body.
    pub fn request_body(&mut self, id: u32, body: &[u8], end: bool) {
        self.stream(id, |stream| stream.body = body.to_vec());
        self.call(id, Phase::RequestBody, |worker, proxy, id| {
            worker.on_request_body(proxy, id, body.len(), end);
        });
    }
}
