//! What the workers of a world share: the store, the clocks, the queue of events, and the log.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use graygate::policy::module::ModuleKind;
use graygate::proxy::{Level, MetricKind};

use super::call::{CallEnd, SentCall};
use super::manner::Manner;
use super::request::Stream;

/// An event of the queue.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A tick, unless its root has set another period since.
    Tick {
        vm: usize,
        root: usize,
        timer: u64,
    },
    Call {
        vm: usize,
        root: usize,
        id: u32,
        end: CallEnd,
    },
    Respond {
        stream: u32,
        manner: Manner,
    },
    End {
        stream: u32,
        details: String,
    },
}

/// The kind of the current callback, which decides what the worker may read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Phase {
    None,
    Request,
    RequestBody,
    Response,
    ResponseBody,
    Trailers,
    Call,
    Configure,
}

/// What the workers of a world share, and a record of their actions.
pub struct Surroundings {
    /// The module that runs in the VMs.
    pub module: Cell<ModuleKind>,
    /// The VM and the number of each root that has ended.
    pub(super) ended: RefCell<BTreeSet<(usize, usize)>>,
    /// The time by the monotonic clock.
    pub now: Cell<u64>,
    /// By how much the wall clock is ahead of the monotonic one.
    pub(super) wall: Cell<u64>,
    pub(super) random: Cell<u64>,
    /// The values that workers share, by key, with their versions.
    pub store: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    pub(super) versions: Cell<u32>,
    /// How many of the next writes conflict with those of another worker.
    pub lose: Cell<u32>,
    /// How many writes to the store have succeeded.
    pub writes: Cell<u32>,
    /// How many values were read from the store.
    pub loads: Cell<u32>,
    /// How often a worker entered the context of a request.
    pub entered: Cell<u32>,
    /// How often a worker read the cluster that a request went to.
    pub clusters_read: Cell<u32>,
    pub(super) metrics: RefCell<Vec<(String, MetricKind, u64)>>,
    pub log: RefCell<Vec<(Level, String)>>,
    pub(super) streams: RefCell<BTreeMap<u32, Stream>>,
    pub(super) queue: RefCell<BTreeMap<(u64, u64), Event>>,
    pub(super) queued: Cell<u64>,
    pub(super) ticks: RefCell<BTreeMap<(usize, usize), u64>>,
    pub(super) upstreams: RefCell<BTreeMap<String, Manner>>,
    pub(super) checks: RefCell<BTreeMap<String, Manner>>,
    pub(super) calls: Cell<u32>,
    /// The clusters that calls went to.
    pub called: RefCell<Vec<String>>,
    pub(super) call: RefCell<Option<CallEnd>>,
    pub(super) document: RefCell<String>,
    pub node: RefCell<String>,
    /// The name of the plugin.
    pub plugin: RefCell<&'static str>,
    /// Faults: what workers read or called where Envoy does not allow it.
    pub misread: RefCell<Vec<String>>,
    /// The source address of the next requests.
    pub source: RefCell<String>,
    /// The calls that were sent.
    pub sent: RefCell<Vec<SentCall>>,
    /// Behaviours towards calls, by cluster and path.
    pub(super) call_paths: RefCell<BTreeMap<(String, String), Manner>>,
    /// How the next calls end, whatever their upstreams do.
    pub call_ends: RefCell<VecDeque<CallEnd>>,
    /// How long upstreams take to respond to calls.
    pub call_takes: Cell<Duration>,
    /// Whether a response to a call with `connection: close` has that header, too.
    pub confirms_close: Cell<bool>,
    /// The body of upstreams' responses to calls.
    pub call_body: RefCell<String>,
    /// Whether the proxy refuses replies.
    pub refuses_replies: Cell<bool>,
    /// What was written since [`World::written`](super::World::written) was last called, if it ever was.
    pub(super) written: RefCell<Option<Vec<Written>>>,
    /// The kind of the current callback.
    pub(super) phase: Cell<Phase>,
    /// The request of the current callback.
    pub(super) stream: Cell<Option<u32>>,
}

/// The time by the monotonic clock at the start of a world.
const UPTIME: u64 = 60_000;

/// A write to the store.
#[derive(Clone, Debug)]
pub struct Written {
    pub at: u64,
    /// The request of the callback that wrote it.
    pub exchange: Option<u32>,
    pub key: String,
    pub bytes: Vec<u8>,
}

impl Surroundings {
    /// Returns the date by the wall clock, in milliseconds since the epoch.
    pub(super) fn date(&self) -> u64 {
        self.now.get() + self.wall.get()
    }

    pub(super) fn at(&self, time: u64, event: Event) {
        self.queued.set(self.queued.get() + 1);
        self.queue.borrow_mut().insert((time, self.queued.get()), event);
    }

    pub(super) fn manner(&self, cluster: &str) -> Manner {
        self.upstreams.borrow().get(cluster).cloned().unwrap_or(Manner::Missing)
    }

    /// Returns surroundings in which nothing has happened.
    pub(super) fn new() -> Self {
        Surroundings {
            module: Cell::new(ModuleKind::Full),
            ended: RefCell::default(),
            now: Cell::new(UPTIME),
            wall: Cell::new(1_800_000_000_000 - UPTIME),
            random: Cell::new(7),
            store: RefCell::default(),
            versions: Cell::new(0),
            lose: Cell::new(0),
            writes: Cell::new(0),
            loads: Cell::new(0),
            entered: Cell::new(0),
            clusters_read: Cell::new(0),
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
            plugin: RefCell::new("plugin"),
            misread: RefCell::default(),
            source: RefCell::new("127.0.0.1:50000".to_owned()),
            sent: RefCell::default(),
            call_paths: RefCell::default(),
            call_ends: RefCell::default(),
            call_takes: Cell::default(),
            confirms_close: Cell::new(true),
            call_body: RefCell::default(),
            refuses_replies: Cell::new(false),
            written: RefCell::default(),
            phase: Cell::new(Phase::None),
            stream: Cell::new(None),
        }
    }
}

/// Returns headers as the proxy holds them.
pub(super) fn text(headers: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
}
