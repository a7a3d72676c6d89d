//! A simulated proxy: several VMs with the real worker in each, one store, a clock that only the test moves, upstreams
//! with manners, clients that leave, VMs that die, and policies that are replaced while requests are under way.
//!
//! Nothing sleeps and nothing is random: a world is a queue of what happens when, and the same seed gives the same world.
//! What it says to a worker is what Envoy says, in Envoy's words; the tests on a real Envoy show that they are.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use graygate::decision::reply::Reply;
use graygate::proxy::{
    Attribute, Body, CallId, ExchangeId, Flow, Level, Map, MetricId, MetricKind, NotSent, Proxy, StoreError,
    StoreVersion, Stored,
};
use graygate::readiness::UpstreamState;
use graygate::value::request;
use graygate::value::time::Time;
use graygate::worker::Worker;
use graygate::worker::vm::Vm;

/// How an upstream treats a request, or a check.
#[derive(Clone, Debug, PartialEq)]
pub enum Manner {
    /// Answers with this status.
    Status(u16),
    /// Answers 200 after so long.
    Slow(Duration),
    /// Answers with this status and these headers.
    With(u16, Vec<(&'static str, String)>),
    /// Answers as a gRPC service: with this status in the trailers.
    Grpc(u32),
    /// Refuses the connection.
    Refuses,
    /// Closes the connection before an answer.
    Resets,
    /// Answers 200 and breaks off in the middle of the body.
    BreaksOff,
    /// Answers 200 and never ends.
    Streams,
    /// Never answers.
    Hangs,
    /// There is no host in the cluster.
    NoHost,
    /// The cluster is at its limits.
    Overflows,
    /// The cluster does not exist.
    Missing,
    /// Ends a gRPC call with this status and message.
    GrpcFails(u32, &'static str),
    /// The proxy can't read a call to it.
    Unreadable,
}

/// How a request was answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Envoy's `response_code_details`.
    pub details: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// The cluster that it went to; empty if it went to none.
    pub cluster: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the filter answered, and not an upstream.
    pub fn is_gated(&self) -> bool {
        self.details.starts_with("graygate_gate{")
    }
}

/// One request, as the proxy holds it.
#[derive(Default)]
struct Stream {
    vm: usize,
    root: usize,
    request: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    response: Vec<(String, Vec<u8>)>,
    response_body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
    details: String,
    cluster: String,
    /// How often the router has sent it on.
    attempts: u8,
    label: String,
    filter_state: Vec<(String, String)>,
    reply: Option<Answer>,
    answer: Answer,
    answered: bool,
    over: bool,
}

/// A call of a worker's own: one request of a check.
#[derive(Clone, Debug)]
pub struct SentCall {
    /// When it was sent, in milliseconds.
    pub at: u64,
    pub vm: usize,
    pub root: usize,
    pub cluster: String,
    /// Its headers; of a gRPC call, none.
    pub headers: Vec<(String, String)>,
    pub timeout: Duration,
}

impl SentCall {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What happens at some time.
#[derive(Clone, Debug)]
enum Event {
    Tick { vm: usize, root: usize },
    Call { vm: usize, root: usize, id: u32, grpc: bool, end: CallEnd },
    Respond { stream: u32, manner: Manner },
    End { stream: u32, details: String },
}

#[derive(Clone, Debug)]
enum CallEnd {
    Http(Vec<(String, Vec<u8>)>),
    Grpc(u32, String, Vec<u8>),
}

/// What the callback at hand can read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    None,
    Request,
    RequestBody,
    Response,
    ResponseBody,
    Trailers,
    Call,
    Configure,
}

/// All that the workers of a world share, and what they do to it.
pub struct Surroundings {
    pub now: Cell<u64>,
    random: Cell<u64>,
    store: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    versions: Cell<u32>,
    /// How many of the next writes lose to another worker.
    pub lose: Cell<u32>,
    /// How many values were written.
    pub writes: Cell<u32>,
    metrics: RefCell<Vec<(String, MetricKind, u64)>>,
    pub log: RefCell<Vec<(Level, String)>>,
    streams: RefCell<BTreeMap<u32, Stream>>,
    queue: RefCell<BTreeMap<(u64, u64), Event>>,
    queued: Cell<u64>,
    ticks: RefCell<BTreeMap<(usize, usize), u64>>,
    upstreams: RefCell<BTreeMap<String, Manner>>,
    checks: RefCell<BTreeMap<String, Manner>>,
    calls: Cell<u32>,
    /// The clusters that calls went to.
    pub called: RefCell<Vec<String>>,
    call: RefCell<Option<CallEnd>>,
    document: RefCell<String>,
    pub node: RefCell<String>,
    /// What was read that the proxy would not have had.
    pub misread: RefCell<Vec<String>>,
    /// Where requests come from.
    pub source: RefCell<String>,
    /// The calls that were sent.
    pub sent: RefCell<Vec<SentCall>>,
    /// How the answer to a call depends on its path, by cluster and path.
    call_paths: RefCell<BTreeMap<(String, String), Manner>>,
    /// How long the upstream of a call takes that answers.
    pub call_takes: Cell<Duration>,
    /// Whether the proxy takes no replies.
    pub refuses_replies: Cell<bool>,
    /// What was written since it was last asked for, if that is recorded.
    written: RefCell<Option<Vec<Written>>>,
    /// What the callback at hand can read.
    phase: Cell<Phase>,
    /// The request at hand.
    stream: Cell<Option<u32>>,
}

/// One value that was written to the store.
#[derive(Clone, Debug)]
pub struct Written {
    pub at: u64,
    /// The request at hand.
    pub exchange: Option<u32>,
    pub key: String,
    pub bytes: Vec<u8>,
}

/// The proxy, for one worker.
pub struct SimProxy {
    world: Rc<Surroundings>,
    vm: usize,
    root: usize,
}

impl Surroundings {
    fn at(&self, time: u64, event: Event) {
        self.queued.set(self.queued.get() + 1);
        self.queue.borrow_mut().insert((time, self.queued.get()), event);
    }

    fn manner(&self, cluster: &str) -> Manner {
        self.upstreams.borrow().get(cluster).cloned().unwrap_or(Manner::Missing)
    }

    fn text(headers: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }
}

impl SimProxy {
    fn with_map<T>(&self, map: Map, act: impl FnOnce(&mut Vec<(String, Vec<u8>)>) -> T) -> Option<T> {
        let at_hand = match map {
            Map::RequestHeaders => self.world.phase.get() == Phase::Request,
            Map::ResponseHeaders => self.world.phase.get() == Phase::Response,
            Map::ResponseTrailers => matches!(self.world.phase.get(), Phase::Trailers | Phase::ResponseBody),
            Map::CallResponseHeaders => self.world.phase.get() == Phase::Call,
        };
        if !at_hand {
            self.world.misread.borrow_mut().push(format!("{map:?} in {:?}", self.world.phase.get()));
            return None;
        }
        if map == Map::CallResponseHeaders {
            return match &mut *self.world.call.borrow_mut() {
                Some(CallEnd::Http(headers)) if !headers.is_empty() => Some(act(headers)),
                _ => None,
            };
        }
        let mut streams = self.world.streams.borrow_mut();
        let stream = streams.get_mut(&self.world.stream.get()?)?;
        Some(act(match map {
            Map::RequestHeaders => &mut stream.request,
            Map::ResponseHeaders => &mut stream.response,
            _ => &mut stream.trailers,
        }))
    }

    fn with_stream<T>(&self, act: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        Some(act(self.world.streams.borrow_mut().get_mut(&self.world.stream.get()?)?))
    }
}

impl Proxy for SimProxy {
    fn now(&self) -> Time {
        Time::from_millis(self.world.now.get())
    }

    fn random(&self) -> u64 {
        let next = self.world.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.world.random.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 27)
    }

    fn header(&self, map: Map, name: &str) -> Option<Vec<u8>> {
        self.with_map(map, |headers| {
            headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })?
    }

    fn headers(&self, map: Map) -> Option<Vec<u8>> {
        self.with_map(map, |headers| {
            request::serialize(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())))
        })
    }

    fn set_header(&self, map: Map, name: &str, value: Option<&str>) {
        self.with_map(map, |headers| {
            headers.retain(|(known, _)| known != name);
            headers.extend(value.map(|value| (name.to_owned(), value.as_bytes().to_vec())));
        });
    }

    fn add_header(&self, map: Map, name: &str, value: &str) {
        self.with_map(map, |headers| headers.push((name.to_owned(), value.as_bytes().to_vec())));
    }

    fn replace_headers(&self, map: Map, by: &[(&str, &str)]) {
        self.with_map(map, |headers| *headers = Surroundings::text(by));
    }

    fn body(&self, body: Body, max: usize) -> Vec<u8> {
        let cut = |bytes: &[u8]| bytes.iter().take(max).copied().collect();
        match (body, self.world.phase.get()) {
            (Body::Configuration, Phase::Configure) => cut(self.world.document.borrow().as_bytes()),
            (Body::GrpcMessage, Phase::Call) => match &*self.world.call.borrow() {
                Some(CallEnd::Grpc(_, _, message)) => cut(message),
                _ => Vec::new(),
            },
            (Body::Request, Phase::RequestBody) => {
                self.with_stream(|stream| cut(&stream.body)).unwrap_or_default()
            }
            (Body::Response, Phase::ResponseBody) => {
                self.with_stream(|stream| cut(&stream.response_body)).unwrap_or_default()
            }
            (body, phase) => {
                self.world.misread.borrow_mut().push(format!("{body:?} in {phase:?}"));
                Vec::new()
            }
        }
    }

    fn replace_body(&self, _: Body, size: usize, by: &[u8]) {
        self.with_stream(|stream| {
            let size = size.min(stream.response_body.len());
            stream.response_body.splice(..size, by.iter().copied());
        });
    }

    fn attribute(&self, attribute: Attribute) -> Option<Vec<u8>> {
        match attribute {
            Attribute::NodeId => Some(self.world.node.borrow().clone().into_bytes()),
            Attribute::NodeCluster => Some(b"sim".to_vec()),
            Attribute::PluginName => Some(b"plugin".to_vec()),
            Attribute::SourceAddress => Some(self.world.source.borrow().clone().into_bytes()),
            Attribute::CodeDetails => self.with_stream(|stream| stream.details.clone().into_bytes()),
            Attribute::Cluster => self.with_stream(|stream| stream.cluster.clone().into_bytes()),
            // As the proxy gives it: eight bytes.
            Attribute::AttemptCount => {
                self.with_stream(|stream| u64::from(stream.attempts).to_le_bytes().to_vec())
            }
        }
    }

    fn enter(&self, exchange: ExchangeId) -> bool {
        let streams = self.world.streams.borrow();
        let known = streams.get(&exchange.0).is_some_and(|stream| stream.vm == self.vm && !stream.over);
        if known {
            self.world.stream.set(Some(exchange.0));
        }
        known
    }

    fn leave(&self) {
        self.world.stream.set(None);
    }

    fn reply(&self, reply: &Reply) -> bool {
        if self.world.refuses_replies.get() {
            return false;
        }
        let headers = reply.headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let answer = Answer {
            status: u16::try_from(reply.status).unwrap(),
            details: reply.details.clone(),
            headers: headers.collect(),
            body: String::from_utf8_lossy(&reply.body).into_owned(),
            cluster: String::new(),
        };
        self.with_stream(|stream| stream.reply = Some(answer)).is_some()
    }

    fn set_filter_state(&self, object: &str, value: &str) {
        self.with_stream(|stream| stream.filter_state.push((object.to_owned(), value.to_owned())));
    }

    fn set_label(&self, label: &str) {
        self.with_stream(|stream| stream.label = label.to_owned());
    }

    fn load(&self, key: &str) -> Stored {
        let store = self.world.store.borrow();
        let known = store.get(key);
        Stored {
            bytes: known.map(|(bytes, _)| bytes.clone()),
            version: known.map(|(_, version)| StoreVersion(*version)),
        }
    }

    fn store(&self, key: &str, bytes: &[u8], seen: Option<StoreVersion>) -> Result<(), StoreError> {
        let mut store = self.world.store.borrow_mut();
        let known = store.get(key).map(|(_, version)| *version);
        let lost = self.world.lose.get();
        if known.is_some() && lost > 0 {
            self.world.lose.set(lost - 1);
            return Err(StoreError::Conflict);
        }
        if let (Some(known), Some(seen)) = (known, seen)
            && known != seen.0
        {
            return Err(StoreError::Conflict);
        }
        self.world.versions.set(self.world.versions.get() + 1);
        self.world.writes.set(self.world.writes.get() + 1);
        store.insert(key.to_owned(), (bytes.to_vec(), self.world.versions.get()));
        if let Some(written) = &mut *self.world.written.borrow_mut() {
            let (at, key, bytes) = (self.world.now.get(), key.to_owned(), bytes.to_vec());
            written.push(Written { at, exchange: self.world.stream.get(), key, bytes });
        }
        Ok(())
    }

    fn http_call(
        &self,
        cluster: &str,
        headers: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<CallId, NotSent> {
        self.call(cluster, headers, timeout, false)
    }

    fn grpc_call(
        &self,
        target: &[u8],
        _: (&str, &str),
        _: &[u8],
        timeout: Duration,
    ) -> Result<CallId, NotSent> {
        // The cluster's name is the first text in Envoy's GrpcService.
        let name = target.get(4..4 + usize::from(target[3])).unwrap();
        self.call(core::str::from_utf8(name).unwrap(), &[], timeout, true)
    }

    fn grpc_status_message(&self) -> Vec<u8> {
        match &*self.world.call.borrow() {
            Some(CallEnd::Grpc(_, message, _)) => message.clone().into_bytes(),
            _ => Vec::new(),
        }
    }

    fn metric(&self, kind: MetricKind, name: &str) -> Option<MetricId> {
        let mut metrics = self.world.metrics.borrow_mut();
        let index = metrics.iter().position(|(known, ..)| known == name).unwrap_or_else(|| {
            metrics.push((name.to_owned(), kind, 0));
            metrics.len() - 1
        });
        assert_eq!(metrics[index].1, kind, "{name}");
        Some(MetricId(u32::try_from(index).unwrap()))
    }

    fn add(&self, metric: MetricId, amount: u64) {
        self.world.metrics.borrow_mut()[metric.0 as usize].2 += amount;
    }

    fn set(&self, metric: MetricId, value: u64) {
        self.world.metrics.borrow_mut()[metric.0 as usize].2 = value;
    }

    fn log(&self, level: Level, line: &str) {
        self.world.log.borrow_mut().push((level, line.to_owned()));
    }

    fn tick_every(&self, period: Duration) {
        let period = u64::try_from(period.as_millis()).unwrap();
        self.world.ticks.borrow_mut().insert((self.vm, self.root), period);
    }
}

impl SimProxy {
    fn call(
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
        let manner = checked.unwrap_or_else(|| self.world.manner(cluster));
        let answers = matches!(manner, Manner::Status(_) | Manner::With(..) | Manner::Grpc(_));
        let takes = if answers { self.world.call_takes.get() } else { Duration::ZERO };
        let http = |status: u16, of_upstream: bool| {
            let mut headers = vec![(":status".to_owned(), status.to_string().into_bytes())];
            if of_upstream {
                headers.push(("x-envoy-upstream-service-time".to_owned(), b"1".to_vec()));
            }
            CallEnd::Http(headers)
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
            (Manner::Refuses | Manner::Resets, false) => (Duration::from_millis(1), http(503, false)),
            (Manner::Refuses | Manner::Resets, true) => {
                (Duration::from_millis(1), CallEnd::Grpc(14, "upstream connect error".to_owned(), Vec::new()))
            }
            (Manner::BreaksOff, false) => (Duration::from_millis(1), CallEnd::Http(Vec::new())),
            (Manner::Slow(after), false) => (after, http(200, true)),
            (Manner::Status(status), false) => (takes.max(Duration::from_millis(1)), http(status, true)),
            (Manner::With(status, more), false) => {
                let CallEnd::Http(mut headers) = http(status, true) else { unreachable!() };
                headers.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())));
                (takes.max(Duration::from_millis(1)), CallEnd::Http(headers))
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

/// A VM, as the filter has it.
struct SimVm {
    contexts: Vm<SimProxy>,
    /// Whether each of its roots, the oldest first, ticks. The last one is given new requests.
    ticks: Vec<bool>,
    /// How long after a round time each of its ticks comes.
    offset: u64,
}

/// Returns the id of a root's context, which no request has.
fn root_id(root: usize) -> u32 {
    0x4000_0000 + u32::try_from(root).unwrap()
}

/// The world.
pub struct World {
    pub around: Rc<Surroundings>,
    vms: Vec<SimVm>,
    document: String,
    streams: u32,
    /// By which header a request's cluster is chosen, and which value leads where.
    pub routes: BTreeMap<String, String>,
    pub steer: &'static str,
    /// Where requests go that no header leads elsewhere.
    pub route: String,
    /// After how long the route gives a request up.
    pub timeout: Option<Duration>,
    /// Further headers of each response, by which it may not take the fast path.
    pub extra_headers: usize,
    /// Whether another filter holds requests up, so that the router does not get them.
    pub held_up: bool,
}

/// A request as a client sends it.
#[derive(Clone, Debug)]
pub struct Request {
    pub headers: Vec<(String, String)>,
    /// Whether all of it comes at once.
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

    /// A request of which a part is still to come.
    pub fn unfinished(mut self) -> Self {
        self.whole = false;
        self
    }
}

const MS: Duration = Duration::from_millis(1);

impl World {
    /// Starts a proxy of so many workers with this policy, whose upstreams all answer 200. Every cluster that the policy
    /// names exists.
    pub fn new(document: &serde_json::Value, workers: usize) -> Self {
        let around = Surroundings {
            now: Cell::new(1_800_000_000_000),
            random: Cell::new(7),
            store: RefCell::default(),
            versions: Cell::new(0),
            lose: Cell::new(0),
            writes: Cell::new(0),
            metrics: RefCell::default(),
            log: RefCell::default(),
            streams: RefCell::default(),
            queue: RefCell::default(),
            queued: Cell::new(0),
            ticks: RefCell::default(),
            upstreams: RefCell::default(),
            checks: RefCell::default(),
            calls: Cell::new(0),
            called: RefCell::default(),
            call: RefCell::default(),
            document: RefCell::default(),
            node: RefCell::new("sidecar~1".to_owned()),
            misread: RefCell::default(),
            source: RefCell::new("127.0.0.1:50000".to_owned()),
            sent: RefCell::default(),
            call_paths: RefCell::default(),
            call_takes: Cell::default(),
            refuses_replies: Cell::new(false),
            written: RefCell::default(),
            phase: Cell::new(Phase::None),
            stream: Cell::new(None),
        };
        let vms = (0..workers).map(|index| SimVm {
            contexts: Vm::new(),
            ticks: Vec::new(),
            offset: 7 * index as u64,
        });
        let mut world = World {
            around: Rc::new(around),
            vms: vms.collect(),
            document: String::new(),
            streams: 0,
            routes: BTreeMap::new(),
            steer: "x-version",
            route: "app".to_owned(),
            timeout: None,
            extra_headers: 0,
            held_up: false,
        };
        let clusters = document["upstreams"].as_object().into_iter().flatten();
        for (_, upstream) in clusters {
            world.set(upstream["cluster"].as_str().unwrap(), Manner::Status(200));
        }
        assert!(world.configure(document), "{:?}", world.logged("refused"));
        world
    }

    /// Has the cluster's upstream treat requests and checks in this manner from now on.
    pub fn set(&mut self, cluster: &str, manner: Manner) {
        self.around.upstreams.borrow_mut().insert(cluster.to_owned(), manner);
    }

    /// Has it treat checks alone in this manner.
    pub fn set_checks(&mut self, cluster: &str, manner: Manner) {
        self.around.checks.borrow_mut().insert(cluster.to_owned(), manner);
    }

    /// Gives all VMs a policy: as when it is replaced, the workers of the earlier one go on until they are ended.
    pub fn configure(&mut self, document: &serde_json::Value) -> bool {
        self.document = document.to_string();
        let mut all = true;
        for vm in 0..self.vms.len() {
            all &= self.configure_vm(vm);
        }
        all
    }

    /// Gives one VM the policy of [`World::configure`], again or for the first time.
    pub fn configure_vm(&mut self, vm: usize) -> bool {
        let root = self.vms[vm].ticks.len();
        *self.around.document.borrow_mut() = self.document.clone();
        let (world, size) = (Rc::clone(&self.around), self.document.len());
        let usable = self.during(vm, Phase::Configure, None, |contexts| {
            contexts.create(root_id(root), 0, || SimProxy { world, vm, root });
            contexts.configure(root_id(root), size)
        });
        self.vms[vm].ticks.push(usable);
        self.schedule_tick(vm, root);
        usable
    }

    /// Sets the document for [`World::configure_vm`] alone.
    pub fn prepare(&mut self, document: &serde_json::Value) {
        self.document = document.to_string();
    }

    /// Ends a VM with all that its workers hold, as a panic does.
    pub fn kill(&mut self, vm: usize) {
        // Nothing that it holds is given back.
        core::mem::forget(core::mem::take(&mut self.vms[vm].contexts));
        self.vms[vm].ticks.fill(false);
        for stream in self.around.streams.borrow_mut().values_mut().filter(|stream| stream.vm == vm) {
            stream.over = true;
        }
    }

    /// Ends the roots of all policies but the newest, as when their listener has drained: with the requests that it still
    /// has.
    pub fn end_earlier(&mut self, vm: usize) {
        let last = self.vms[vm].ticks.len() - 1;
        let streams = self.around.streams.borrow();
        let open = streams.iter().filter(|(_, stream)| stream.vm == vm && stream.root < last && !stream.over);
        let open: Vec<u32> = open.map(|(id, _)| *id).collect();
        drop(streams);
        for id in open {
            self.end(id, "downstream_local_disconnect");
        }
        for root in 0..last {
            self.end_root(vm, root);
        }
    }

    /// Ends a root, and none of its requests.
    pub fn end_root(&mut self, vm: usize, root: usize) {
        self.vms[vm].ticks[root] = false;
        self.during(vm, Phase::None, None, |contexts| contexts.delete(root_id(root)));
    }

    /// Sets how long after a round time a VM's ticks come.
    pub fn set_offset(&mut self, vm: usize, offset: u64) {
        self.vms[vm].offset = offset;
    }

    /// Calls a VM in a callback of this phase, with this request at hand.
    fn during<T>(
        &mut self,
        vm: usize,
        phase: Phase,
        stream: Option<u32>,
        act: impl FnOnce(&mut Vm<SimProxy>) -> T,
    ) -> T {
        self.around.phase.set(phase);
        self.around.stream.set(stream);
        let result = act(&mut self.vms[vm].contexts);
        self.around.phase.set(Phase::None);
        self.around.stream.set(None);
        result
    }

    fn schedule_tick(&mut self, vm: usize, root: usize) {
        let period = self.around.ticks.borrow().get(&(vm, root)).copied().unwrap_or(0);
        if period > 0 {
            let (now, offset) = (self.around.now.get(), self.vms[vm].offset % period);
            let next = (now / period) * period + offset;
            let next = if next > now { next } else { next + period };
            self.around.at(next, Event::Tick { vm, root });
        }
    }

    /// Returns the time in milliseconds.
    pub fn now(&self) -> u64 {
        self.around.now.get()
    }

    /// Sets the clock ahead or back, without anything happening in between.
    pub fn jump(&mut self, millis: i64) {
        let jumped = self.now().checked_add_signed(millis).unwrap();
        let moved = jumped.wrapping_sub(self.now());
        self.around.now.set(jumped);
        // What was to happen still happens as long from now as it was to.
        let queue = core::mem::take(&mut *self.around.queue.borrow_mut());
        let queue = queue.into_iter().map(|((at, order), event)| ((at.wrapping_add(moved), order), event));
        *self.around.queue.borrow_mut() = queue.collect();
    }

    /// Lets time pass, and all happen that falls into it.
    pub fn pass(&mut self, span: Duration) {
        let until = self.now() + u64::try_from(span.as_millis()).unwrap();
        while self.step(until) {}
        self.around.now.set(until);
    }

    /// Lets the next thing happen, if it comes until then.
    fn step(&mut self, until: u64) -> bool {
        let next = self.around.queue.borrow().keys().next().copied();
        let Some(key) = next.filter(|(at, _)| *at <= until) else {
            return false;
        };
        let event = self.around.queue.borrow_mut().remove(&key).unwrap();
        self.around.now.set(key.0.max(self.now()));
        match event {
            Event::Tick { vm, root } => {
                self.tick(vm, root);
                if self.vms[vm].ticks[root] {
                    self.schedule_tick(vm, root);
                }
            }
            Event::Call { vm, root, id, grpc, end } => {
                let (headers, status, size) = match &end {
                    CallEnd::Http(headers) => (headers.len(), 0, 0),
                    CallEnd::Grpc(status, _, message) => (0, *status, message.len()),
                };
                *self.around.call.borrow_mut() = Some(end);
                self.during(vm, Phase::Call, None, |contexts| match grpc {
                    true => contexts.on_grpc_call_end(root_id(root), id, status, size),
                    false => contexts.on_http_call_response(root_id(root), id, headers),
                });
            }
            Event::Respond { stream, manner } => self.respond_as(stream, &manner),
            Event::End { stream, details } => self.end(stream, &details),
        }
        true
    }

    /// Ticks one worker now.
    pub fn tick(&mut self, vm: usize, root: usize) {
        if self.vms[vm].ticks[root] {
            self.during(vm, Phase::None, None, |contexts| contexts.on_tick(root_id(root)));
        }
    }

    /// Ticks the newest worker of a VM now.
    pub fn tick_now(&mut self, vm: usize) {
        self.tick(vm, self.vms[vm].ticks.len() - 1);
    }

    /// Runs a callback of the worker that has something left to do for a request, if any has.
    fn call(&mut self, stream: u32, phase: Phase, act: impl FnOnce(&mut Worker, &SimProxy, ExchangeId)) {
        let vm = self.stream(stream, |known| known.vm);
        self.during(vm, phase, Some(stream), |contexts| contexts.with_exchange(stream, act));
    }

    /// Sends a request to a worker. It is answered at once, or it goes on: what happens to it then is up to the test, by
    /// [`World::respond`] and [`World::end`].
    pub fn send(&mut self, vm: usize, request: &Request) -> u32 {
        self.streams += 1;
        let id = self.streams;
        let headers =
            request.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
        let root = self.vms[vm].ticks.len() - 1;
        let stream = Stream { vm, root, request: headers, ..Stream::default() };
        self.around.streams.borrow_mut().insert(id, stream);
        let (count, whole) = (request.headers.len(), request.whole);
        let flow = self.during(vm, Phase::Request, Some(id), |contexts| {
            contexts.create(id, root_id(root), || unreachable!("a request has a root"));
            contexts.on_request_headers(id, count, whole)
        });
        let reply = self.stream(id, |stream| stream.reply.take());
        match (flow, reply) {
            (Flow::Pause, Some(reply)) => {
                let details = reply.details.clone();
                self.stream(id, |stream| {
                    stream.details = details.clone();
                    stream.answer = reply;
                    stream.answered = true;
                });
                self.end(id, &details);
            }
            _ if !self.held_up => self.route(id),
            _ => self.locate(id),
        }
        id
    }

    /// Hands a request to the router.
    pub fn route(&mut self, id: u32) {
        self.locate(id);
        self.stream(id, |stream| stream.attempts = 1);
    }

    /// Picks the cluster of a request, as the proxy does before the router has it.
    fn locate(&mut self, id: u32) {
        let (steer, routes, default) = (self.steer, &self.routes, &self.route);
        self.stream(id, |stream| {
            let value = stream.request.iter().find(|(name, _)| name == steer);
            let value = value.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
            let cluster = value.and_then(|value| routes.get(&value)).unwrap_or(default);
            stream.cluster = cluster.clone();
        });
    }

    fn stream<T>(&self, id: u32, act: impl FnOnce(&mut Stream) -> T) -> T {
        act(self.around.streams.borrow_mut().get_mut(&id).unwrap())
    }

    /// Returns whether the request went on and has not ended.
    pub fn is_open(&self, id: u32) -> bool {
        self.stream(id, |stream| !stream.over)
    }

    /// Returns the value of a header of a request as it went on.
    pub fn sent_header(&self, id: u32, name: &str) -> Option<String> {
        self.stream(id, |stream| {
            let found = stream.request.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        })
    }

    /// Returns the label of a request for access logs.
    pub fn label(&self, id: u32) -> String {
        self.stream(id, |stream| stream.label.clone())
    }

    /// Returns the answer to a request so far.
    pub fn answer(&self, id: u32) -> Answer {
        self.stream(id, |stream| Answer { cluster: stream.cluster.clone(), ..stream.answer.clone() })
    }

    /// Sends the rest of a request's body.
    pub fn finish_request(&mut self, id: u32) {
        self.call(id, Phase::RequestBody, |worker, proxy, id| worker.on_request_body(proxy, id, 0, true));
    }

    /// Has the response begin: by an upstream if `details` says so.
    pub fn respond(&mut self, id: u32, status: u16, details: &str, headers: &[(&str, &str)], end: bool) {
        let extra = self.extra_headers;
        let count = self.stream(id, |stream| {
            stream.details = details.to_owned();
            stream.response = Surroundings::text(&[(":status", &status.to_string())]);
            if details == "via_upstream" {
                stream.response.extend(Surroundings::text(&[("x-envoy-upstream-service-time", "1")]));
            }
            stream.response.extend(Surroundings::text(headers));
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

    /// Has a part of the response's body come.
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

    /// Has the response end with these trailers.
    pub fn trailers(&mut self, id: u32, trailers: &[(&str, &str)]) {
        self.stream(id, |stream| stream.trailers = Surroundings::text(trailers));
        self.call(id, Phase::Trailers, |worker, proxy, id| worker.on_response_trailers(proxy, id));
        let details = self.stream(id, |stream| stream.details.clone());
        self.end(id, &details);
    }

    /// Ends a request, whatever has come of it, with these details.
    pub fn end(&mut self, id: u32, details: &str) {
        if !self.is_open(id) {
            return;
        }
        self.stream(id, |stream| stream.details = details.to_owned());
        let vm = self.stream(id, |stream| stream.vm);
        self.during(vm, Phase::None, Some(id), |contexts| contexts.delete(id));
        self.stream(id, |stream| stream.over = true);
    }

    /// Has the client leave.
    pub fn leave(&mut self, id: u32) {
        self.end(id, "downstream_remote_disconnect");
    }

    /// Has an upstream respond in this manner now.
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
            Manner::Overflows => self.respond(id, 503, &reset("overflow"), &[], true),
            Manner::Missing | Manner::Unreadable => self.respond(id, 503, "cluster_not_found", &[], true),
            Manner::GrpcFails(status, _) => self.respond_as(id, &Manner::Grpc(*status)),
        }
    }

    /// Sends a request that the upstream treats in its manner when its time has come.
    pub fn start(&mut self, vm: usize, request: &Request) -> u32 {
        let id = self.send(vm, request);
        if self.is_open(id) && !self.held_up {
            let cluster = self.stream(id, |stream| stream.cluster.clone());
            let manner = self.around.manner(&cluster);
            let after = match (&manner, self.timeout) {
                (Manner::Hangs, None) => return id,
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
        id
    }

    /// Has the client of a request leave after so long.
    pub fn leave_after(&mut self, id: u32, span: Duration) {
        let due = self.now() + u64::try_from(span.as_millis()).unwrap();
        let details = "downstream_remote_disconnect".to_owned();
        self.around.at(due, Event::End { stream: id, details });
    }

    /// Sends a request and lets time pass until it is answered. Returns the answer.
    pub fn ask(&mut self, vm: usize, request: &Request) -> Answer {
        let id = self.start(vm, request);
        while !self.stream(id, |stream| stream.answered || stream.over) {
            assert!(self.step(u64::MAX), "nothing will ever answer");
        }
        self.answer(id)
    }

    /// Sends a plain request and lets time pass until it is answered.
    pub fn get(&mut self, vm: usize) -> Answer {
        self.ask(vm, &Request::get("/"))
    }

    /// Sends so many requests, one after the other. Returns how many of them were gated.
    pub fn gated(&mut self, vm: usize, requests: usize) -> usize {
        (0..requests).filter(|_| self.get(vm).is_gated()).count()
    }

    /// Returns what all workers share of an upstream of the newest policy.
    pub fn state(&self, upstream: &str) -> UpstreamState {
        let store = self.around.store.borrow();
        let part = format!("/upstream/{upstream}/");
        let found = store.iter().filter(|(key, _)| key.contains(&part) && !key.ends_with("/leader"));
        let (_, (bytes, _)) = found.max_by_key(|(_, (_, version))| *version).unwrap();
        postcard::from_bytes(bytes).unwrap()
    }

    /// Returns the phase of an upstream, by name.
    pub fn phase(&self, upstream: &str) -> &'static str {
        self.state(upstream).phase.name()
    }

    /// Returns why it is in this phase.
    pub fn reason(&self, upstream: &str) -> String {
        self.state(upstream).reason.to_string()
    }

    /// Returns the sum of all metrics whose name begins so and has all of these labels: `upstream=app`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let metrics = self.around.metrics.borrow();
        let labels: Vec<String> =
            labels.iter().map(|label| format!("{};.;", label.replacen('=', "=.=", 1))).collect();
        let prefix = format!("graygate_{name}.");
        let found = metrics.iter().filter(|(known, ..)| {
            known.starts_with(&prefix) && labels.iter().all(|label| known.contains(label))
        });
        found.map(|(.., value)| value).sum()
    }

    /// Returns the names of all metrics.
    pub fn metric_names(&self) -> BTreeSet<String> {
        self.around.metrics.borrow().iter().map(|(name, ..)| name.clone()).collect()
    }

    /// Returns the lines of the log that contain this text.
    pub fn logged(&self, text: &str) -> Vec<String> {
        let log = self.around.log.borrow();
        log.iter().map(|(_, line)| line).filter(|line| line.contains(text)).cloned().collect()
    }

    /// Returns the keys of the store.
    pub fn keys(&self) -> BTreeSet<String> {
        self.around.store.borrow().keys().cloned().collect()
    }

    /// Returns all values of a header of a request as it went on.
    pub fn sent_headers(&self, id: u32, name: &str) -> Vec<String> {
        self.stream(id, |stream| {
            let found = stream.request.iter().filter(|(known, _)| known == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
        })
    }

    /// Returns how many VMs there are.
    pub fn workers(&self) -> usize {
        self.vms.len()
    }

    /// Returns the filter state that was set for a request: objects and their values.
    pub fn filter_state(&self, id: u32) -> Vec<(String, String)> {
        self.stream(id, |stream| stream.filter_state.clone())
    }

    /// Loses the next so many writes to the store.
    pub fn lose(&mut self, writes: u32) {
        self.around.lose.set(writes);
    }

    /// Has the cluster's upstream treat calls for this path in this manner.
    pub fn set_call_path(&mut self, cluster: &str, path: &str, manner: Manner) {
        self.around.call_paths.borrow_mut().insert((cluster.to_owned(), path.to_owned()), manner);
    }

    /// Returns the calls that were sent to a cluster.
    pub fn calls_to(&self, cluster: &str) -> Vec<SentCall> {
        self.around.sent.borrow().iter().filter(|call| call.cluster == cluster).cloned().collect()
    }

    /// Has a part of a request's body come.
    pub fn request_body(&mut self, id: u32, body: &[u8], end: bool) {
        self.stream(id, |stream| stream.body = body.to_vec());
        self.call(id, Phase::RequestBody, |worker, proxy, id| {
            worker.on_request_body(proxy, id, body.len(), end);
        });
    }

    /// Returns a trailer of a response.
    pub fn trailer(&self, id: u32, name: &str) -> Option<String> {
        self.stream(id, |stream| {
            let found = stream.trailers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        })
    }

    /// Returns all headers of a request as it went on.
    pub fn forwarded_headers(&self, id: u32) -> Vec<(String, String)> {
        let text =
            |(name, value): &(String, Vec<u8>)| (name.clone(), String::from_utf8_lossy(value).into_owned());
        self.stream(id, |stream| stream.request.iter().map(text).collect())
    }

    /// Returns all metrics by their whole names, with their values.
    pub fn metrics(&self) -> BTreeMap<String, u64> {
        self.around.metrics.borrow().iter().map(|(name, _, value)| (name.clone(), *value)).collect()
    }

    /// Returns the lines of the log that contain this text, with their levels.
    pub fn logged_at(&self, text: &str) -> Vec<(Level, String)> {
        self.around.log.borrow().iter().filter(|(_, line)| line.contains(text)).cloned().collect()
    }

    /// Returns what was written to the store since this was last called. The first call starts the record.
    pub fn written(&mut self) -> Vec<Written> {
        self.around.written.borrow_mut().replace(Vec::new()).unwrap_or_default()
    }

    /// Returns the state of an upstream as the newest worker of a VM last read it, if the VM lives.
    pub fn seen(&self, vm: usize, upstream: usize) -> Option<UpstreamState> {
        let (_, worker) = self.vms[vm].contexts.workers().last()?;
        worker.upstreams().snapshot(graygate::policy::upstream::UpstreamId(upstream)).cloned()
    }
}

impl Drop for World {
    /// A worker that reads what the proxy does not have at hand is wrong, whatever follows from it.
    fn drop(&mut self) {
        for vm in 0..self.vms.len() {
            self.kill(vm);
        }
        if !std::thread::panicking() {
            assert!(self.around.misread.borrow().is_empty(), "{:?}", self.around.misread.borrow());
        }
    }
}
