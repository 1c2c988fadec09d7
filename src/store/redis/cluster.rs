//! The primaries of a Cluster: a link to each, and who has which slot.
//!
//! The first operation has the servers asked that the URL names. From then on the links' own servers are asked, again and again while one is
//! of no use, and whenever one says that a slot is another's by now; what it says holds at once. Each primary has a breaker of its own: what
//! the others have is served while one is away.
//!
//! The client crate's own support for Clusters was left alone: it keeps what is here behind one connection, which knows neither lanes, nor a
//! breaker per server, nor which server a push message is from.

use std::{
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{join_all, select_ok, try_join_all},
};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, Value};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    breaker::LinkState,
    endpoint::Endpoint,
    fault::Fault,
    link::{Ask, Lane, Limits, Link, LinkStatus},
    names::Names,
    refusals::Refusals,
    scripts::Script,
    slots::{Address, Claim, Owners, Redirect, SLOTS, claim, owners, redirect, slot_of},
};

/// See the module. Ends its tasks when it is dropped.
pub(super) struct Cluster {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    seeds: Vec<Endpoint>,
    names: Names,
    limits: Limits,
    known: watch::Sender<Known>,
    /// What is known may be wrong.
    doubt: Notify,
    keeper: Once,
    /// Attempts at connections to those that the URL names.
    dials: AtomicU64,
    /// What links went through that are no more.
    retired: Retired,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct Retired {
    opened: AtomicU64,
    dials: AtomicU64,
    rejected: AtomicU64,
}

/// What is known of the Cluster.
#[derive(Clone)]
pub(super) enum Known {
    /// Nothing yet.
    Nothing,
    /// Nothing, for nobody answers.
    Unreachable(Fault),
    All(Arc<Map>),
}

/// Who has which slot.
pub(super) struct Map {
    pub(super) nodes: Vec<Arc<Node>>,
    /// For each slot the place of a node, or [`NOBODY`].
    owners: Box<[u16]>,
}

/// One server of a Cluster.
pub(super) struct Node {
    address: Address,
    pub(super) link: Link,
    /// Its share of all connections.
    connections: usize,
    /// It was asked for a key of a slot that is on its way to it, since what is known was last renewed.
    was_asked: AtomicBool,
}

const NOBODY: u16 = u16::MAX;

/// How often a command is sent on, at most.
const HOPS: usize = 5;

/// How long to wait before a command is tried again whose keys are on their way.
const ON_THEIR_WAY: Duration = Duration::from_millis(10);

/// Between questions who has which slot.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Cluster {
    pub(super) fn new(seeds: Vec<Endpoint>, names: Names, limits: Limits) -> Self {
        let shared = Shared {
            seeds,
            names,
            limits,
            known: watch::Sender::new(Known::Nothing),
            doubt: Notify::new(),
            keeper: Once::new(),
            dials: AtomicU64::new(0),
            retired: Retired::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sends what concerns one slot.
    pub(super) async fn call(&self, name: &str, lane: Lane, until: Instant, bytes: usize, ask: Ask<'_>) -> Result<Vec<Value>, Fault> {
        let slot = slot_of(name.as_bytes());
        let node = self.shared.heed(self.shared.map(until).await?.owner(slot))?;
        let replies = self.shared.heed(node.link.call(lane, until, bytes, ask).await)?;
        if !replies.iter().any(|reply| matches!(reply, Value::ServerError(_))) {
            return Ok(replies);
        }
        let (script, commands): (_, Vec<_>) = match ask {
            Ask::One(command) => (None, vec![(slot, command)]),
            Ask::Script(script, command) => (Some(script), vec![(slot, command)]),
            Ask::All(pipeline) => (None, pipeline.cmd_iter().map(|command| (slot, command)).collect()),
        };
        let errands = (0..commands.len()).map(|place| Errand::to(place, Arc::clone(&node))).collect();
        let mut mail = Mail { shared: &self.shared, lane, until, bytes, script, commands, replies: vec![Value::Nil; replies.len()] };
        let errands = mail.sort(errands, replies);
        mail.deliver(errands).await
    }

    /// Sends each command to whoever has its slot.
    pub(super) async fn spread(
        &self,
        lane: Lane,
        until: Instant,
        script: Option<&Script>,
        commands: &[(String, Cmd)],
    ) -> Result<Vec<Value>, Fault> {
        let map = self.shared.map(until).await?;
        let commands: Vec<_> = commands.iter().map(|(name, command)| (slot_of(name.as_bytes()), command)).collect();
        let errands = commands.iter().enumerate().map(|(place, (slot, _))| Ok(Errand::to(place, map.owner(*slot)?)));
        let errands = self.shared.heed(errands.collect::<Result<_, Fault>>())?;
        let replies = vec![Value::Nil; commands.len()];
        Mail { shared: &self.shared, lane, until, bytes: 0, script, commands, replies }.deliver(errands).await
    }

    /// All who have keys, with what each says of itself.
    pub(super) async fn primaries(&self, until: Instant) -> Result<Vec<(Arc<Node>, Claim)>, Fault> {
        let mut last = Fault::Lost;
        // The first time it may show that one is none any more, or that there is another.
        for _ in 0..3 {
            self.shared.map(until).await?;
            let attempt = timeout_at(until, self.try_primaries(until)).await;
            match attempt.unwrap_or(Err(Fault::Timeout)) {
                Ok(Some(primaries)) => return Ok(primaries),
                Ok(None) => {}
                Err(fault) => last = fault,
            }
        }
        self.shared.heed(Err(last))
    }

    /// `None` if there are others by now.
    async fn try_primaries(&self, until: Instant) -> Result<Option<Vec<(Arc<Node>, Claim)>>, Fault> {
        self.shared.learn().await?;
        let map = self.shared.map(until).await?;
        let asking = map.nodes.iter().map(|node| async move {
            let replies = node.link.call(Lane::Bulk, until, 0, Ask::One(&nodes_command())).await?;
            let claim = match replies.first().and_then(Fault::of_value) {
                Some(fault) => return Err(fault),
                None => replies.first().and_then(claim_of).ok_or(Fault::Outage("not the primary"))?,
            };
            Ok((Arc::clone(node), claim))
        });
        let primaries = try_join_all(asking).await?;
        // Whoever gets its first slots has keys before it has those: it is told of when one asks for a key that is gone.
        for slot in primaries.iter().flat_map(|(_, claim)| &claim.leaving) {
            let name = self.shared.names.probe_in(*slot);
            let mut command = redis::cmd("GET");
            command.arg(&name);
            self.call(&name, Lane::Bulk, until, 0, Ask::One(&command)).await?;
        }
        Ok(self.shared.map_now().is_some_and(|now| now.has_nodes_of(&map)).then_some(primaries))
    }

    /// Runs a task until the Cluster is given up.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.spawn(task);
    }

    /// How the links are: all together, and the worst of them.
    pub(super) fn status(&self) -> LinkStatus {
        let Shared { known, dials, retired, .. } = &*self.shared;
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let mut sum = LinkStatus {
            state: LinkState::Closed,
            last_error: None,
            opened: load(&retired.opened),
            dials: load(dials) + load(&retired.dials),
            rejected: load(&retired.rejected),
            in_flight: 0,
        };
        match &*known.borrow() {
            Known::Nothing => {}
            Known::Unreachable(fault) => {
                sum.state = LinkState::Open;
                sum.last_error = Some(fault.label());
                sum.opened += 1;
            }
            Known::All(map) => {
                for node in &map.nodes {
                    let LinkStatus { state, last_error, opened, dials, rejected, in_flight } = node.link.status();
                    sum.opened += opened;
                    sum.dials += dials;
                    sum.rejected += rejected;
                    sum.in_flight += in_flight;
                    // What is wrong now says more than what once was.
                    if sum.last_error.is_none() || (sum.state == LinkState::Closed && state != LinkState::Closed) {
                        sum.last_error = last_error.or(sum.last_error);
                    }
                    if sum.state == LinkState::Closed {
                        sum.state = state;
                    }
                }
            }
        }
        sum
    }

    /// Ends all tasks and connections.
    pub(super) async fn shutdown(&self) {
        let shared = &self.shared;
        shared.stop.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
        if let Some(map) = shared.map_now() {
            join_all(map.nodes.iter().map(|node| node.link.shutdown())).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    /// What is known; the first to ask waits until something is.
    async fn map(self: &Arc<Self>, until: Instant) -> Result<Arc<Map>, Fault> {
        if self.stop.is_cancelled() {
            return Err(Fault::Spared("the store was shut down"));
        }
        self.keeper.call_once(|| self.spawn(Arc::clone(self).keep()));
        if let Some(map) = self.map_now() {
            return Ok(map);
        }
        let mut known = self.known.subscribe();
        let something = timeout_at(until, known.wait_for(|known| !matches!(known, Known::Nothing))).await;
        match something.map_err(|_| Fault::Timeout)?.as_deref() {
            Ok(Known::All(map)) => Ok(Arc::clone(map)),
            _ => Err(Fault::Spared("no server of the cluster is in reach")),
        }
    }

    pub(super) fn map_now(&self) -> Option<Arc<Map>> {
        match &*self.known.borrow() {
            Known::All(map) => Some(Arc::clone(map)),
            _ => None,
        }
    }

    pub(super) fn known(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// What is known may be wrong.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.limits.refusals
    }

    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    fn heed<T>(&self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        outcome.inspect_err(|_| self.doubt())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Asks who has which slot: at first, when there is doubt, and again and again as long as a link is of no use.
    async fn keep(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let learned = self.learn().await;
            if let Err(fault) = learned {
                self.fail(fault);
            }
            let has_changed = matches!(learned, Ok(true));
            let is_well = self.map_now().is_some_and(|map| map.nodes.iter().all(|node| node.link.status().state == LinkState::Closed));
            if has_changed {
                pause = FIRST_PAUSE;
            }
            sleep(pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if is_well {
                let since = Instant::now();
                self.doubt.notified().await;
                if since.elapsed() >= LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
            }
        }
    }

    fn fail(&self, fault: Fault) {
        self.known.send_if_modified(|known| {
            let is_first = matches!(known, Known::Nothing);
            if is_first || matches!(known, Known::Unreachable(_)) {
                *known = Known::Unreachable(fault);
            }
            #[cfg(feature = "tracing")]
            if is_first {
                tracing::warn!(target: "tower_response_cache::redis", reason = fault.label(), "no server of the cluster is in reach");
            }
            is_first
        });
    }

    /// Asks who has which slot, those that are known, or else those that the URL names. Says whether it has changed.
    async fn learn(&self) -> Result<bool, Fault> {
        let nodes = self.map_now().map_or_else(Vec::new, |map| map.nodes.clone());
        let command = slots_command();
        let until = Instant::now() + self.limits.dial;
        let ways = nodes.iter().map(|node| {
            let command = &command;
            async move {
                let replies = node.link.call(Lane::Bulk, until, 0, Ask::One(command)).await?;
                told(replies.first(), &node.address.host)
            }
            .boxed()
        });
        let owners = match nodes.is_empty() {
            true => Err(Fault::Lost),
            false => select_ok(ways).await.map(|(owners, _)| owners),
        };
        let owners = match owners {
            Ok(owners) => owners,
            Err(_) => {
                let ways = self.seeds.iter().map(|seed| self.by_way_of(seed, &command).boxed());
                select_ok(ways).await?.0
            }
        };
        Ok(self.take(&owners))
    }

    async fn by_way_of(&self, seed: &Endpoint, command: &Cmd) -> Result<Owners, Fault> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let asking = async {
            let mut connection = seed.connect(&config).await?;
            let reply = connection.send_packed_command(command).await.map_err(|error| Fault::of_error(&error))?;
            told(Some(&reply), seed.host())
        };
        timeout(self.limits.dial, asking).await.map_err(|_| Fault::Timeout)?
    }

    /// Takes over who has which slot. Says whether anything has changed.
    fn take(&self, told: &Owners) -> bool {
        let mut addresses: Vec<&Address> = Vec::new();
        for (_, address) in told {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let connections = (self.limits.connections / addresses.len()).clamp(1, MOST_CONNECTIONS);
        self.known.send_if_modified(|known| {
            let before = match &*known {
                Known::All(map) => Some(Arc::clone(map)),
                _ => None,
            };
            let old = before.as_ref().map_or(&[][..], |map| &map.nodes);
            let mut nodes: Vec<Arc<Node>> = Vec::with_capacity(addresses.len());
            for address in &addresses {
                let same = old.iter().find(|node| node.address == **address && node.connections == connections);
                nodes.push(same.map_or_else(|| self.node((*address).clone(), connections), Arc::clone));
            }
            // Those to which slots are on their way, have none yet.
            for node in old {
                if node.was_asked.swap(false, Ordering::Relaxed) && !addresses.contains(&&node.address) {
                    nodes.push(Arc::clone(node));
                }
            }
            let mut owners = vec![NOBODY; usize::from(SLOTS)].into_boxed_slice();
            for (slots, address) in told {
                let place = nodes.iter().position(|node| node.address == *address).unwrap_or(usize::from(NOBODY));
                owners[usize::from(*slots.start())..=usize::from(*slots.end())].fill(u16::try_from(place).unwrap_or(NOBODY));
            }
            let map = Map { nodes, owners };
            if before.as_ref().is_some_and(|before| before.is(&map)) {
                return false;
            }
            self.replace(known, before.as_deref(), map);
            true
        })
    }

    fn node(&self, address: Address, connections: usize) -> Arc<Node> {
        let endpoint = self.seeds[0].at(&address);
        let link = Link::new(endpoint, Limits { connections, ..self.limits.clone() });
        Arc::new(Node { address, link, connections, was_asked: AtomicBool::new(false) })
    }

    fn replace(&self, known: &mut Known, before: Option<&Map>, map: Map) {
        for node in before.iter().flat_map(|before| &before.nodes).filter(|node| !map.nodes.iter().any(|kept| Arc::ptr_eq(kept, node))) {
            let LinkStatus { opened, dials, rejected, .. } = node.link.status();
            self.retired.opened.fetch_add(opened, Ordering::Relaxed);
            self.retired.dials.fetch_add(dials, Ordering::Relaxed);
            self.retired.rejected.fetch_add(rejected, Ordering::Relaxed);
        }
        map.set_probes(&self.names);
        *known = Known::All(Arc::new(map));
    }

    /// One who had a slot says who has it now.
    fn moved(&self, slot: u16, to: &Address) -> Option<Arc<Node>> {
        let mut found = None;
        self.known.send_if_modified(|known| {
            let Known::All(before) = &*known else { return false };
            let before = Arc::clone(before);
            let (nodes, place) = self.with(&before, to);
            found = nodes.get(usize::from(place)).map(Arc::clone);
            let mut owners = before.owners.clone();
            if owners[usize::from(slot)] == place {
                return false;
            }
            owners[usize::from(slot)] = place;
            self.replace(known, Some(&before), Map { nodes, owners });
            true
        });
        // It will not be the only one.
        self.doubt();
        found
    }

    /// The one to whom a slot is on its way.
    fn asked(&self, at: &Address) -> Option<Arc<Node>> {
        let mut found = None;
        self.known.send_if_modified(|known| {
            let Known::All(before) = &*known else { return false };
            let before = Arc::clone(before);
            let (nodes, place) = self.with(&before, at);
            let node = &nodes[usize::from(place)];
            node.was_asked.store(true, Ordering::Relaxed);
            found = Some(Arc::clone(node));
            if nodes.len() == before.nodes.len() {
                return false;
            }
            let owners = before.owners.clone();
            self.replace(known, Some(&before), Map { nodes, owners });
            true
        });
        found
    }

    /// The nodes, that one among them, and its place.
    fn with(&self, map: &Map, address: &Address) -> (Vec<Arc<Node>>, u16) {
        let mut nodes = map.nodes.clone();
        let place = nodes.iter().position(|node| node.address == *address).unwrap_or_else(|| {
            let connections = nodes.first().map_or(1, |node| node.connections);
            nodes.push(self.node(address.clone(), connections));
            nodes.len() - 1
        });
        (nodes, u16::try_from(place).unwrap_or(NOBODY))
    }
}

/// More than that a link has no use for.
const MOST_CONNECTIONS: usize = 4;

impl Map {
    fn owner(&self, slot: u16) -> Result<Arc<Node>, Fault> {
        let node = self.nodes.get(usize::from(self.owners[usize::from(slot)]));
        node.map(Arc::clone).ok_or(Fault::Outage("CLUSTERDOWN"))
    }

    fn is(&self, other: &Self) -> bool {
        self.has_nodes_of(other) && self.owners == other.owners
    }

    /// Are the servers the same, whatever each has?
    pub(super) fn has_nodes_of(&self, other: &Self) -> bool {
        self.nodes.len() == other.nodes.len() && self.nodes.iter().zip(&other.nodes).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Does a server have just what it says it has?
    pub(super) fn agrees(&self, node: &Arc<Node>, claim: &Claim) -> bool {
        let Some(place) = self.nodes.iter().position(|known| Arc::ptr_eq(known, node)) else { return false };
        let mut claimed = vec![false; usize::from(SLOTS)];
        for slots in &claim.slots {
            claimed[usize::from(*slots.start())..=usize::from(*slots.end())].fill(true);
        }
        self.owners.iter().zip(claimed).all(|(owner, is_claimed)| (usize::from(*owner) == place) == is_claimed)
    }

    /// A probe writes to a key that its server has.
    fn set_probes(&self, names: &Names) {
        for (place, node) in self.nodes.iter().enumerate() {
            if usize::from(self.owners[usize::from(slot_of(node.link.probe().as_bytes()))]) == place {
                continue;
            }
            let slot = self.owners.iter().position(|owner| usize::from(*owner) == place).and_then(|slot| u16::try_from(slot).ok());
            if let Some(slot) = slot {
                node.link.set_probe(names.probe_in(slot));
            }
        }
    }
}

/// A command on its way.
struct Errand {
    /// Which one.
    place: usize,
    node: Arc<Node>,
    /// The slot is not the node's yet.
    asking: bool,
    /// The node does not know the script.
    load: bool,
    /// Half of the keys were on their way.
    early: bool,
}

impl Errand {
    fn to(place: usize, node: Arc<Node>) -> Self {
        Self { place, node, asking: false, load: false, early: false }
    }
}

/// Commands, each for one slot, and what was answered.
struct Mail<'a> {
    shared: &'a Arc<Shared>,
    lane: Lane,
    until: Instant,
    bytes: usize,
    script: Option<&'a Script>,
    commands: Vec<(u16, &'a Cmd)>,
    replies: Vec<Value>,
}

impl Mail<'_> {
    async fn deliver(mut self, mut errands: Vec<Errand>) -> Result<Vec<Value>, Fault> {
        for _ in 0..HOPS {
            if errands.is_empty() {
                break;
            }
            // For each node in their order.
            errands.sort_by_key(|errand| Arc::as_ptr(&errand.node) as usize);
            let bags: Vec<Vec<Errand>> = {
                let mut bags: Vec<Vec<Errand>> = Vec::new();
                for errand in errands {
                    match bags.last_mut().filter(|bag| Arc::ptr_eq(&bag[0].node, &errand.node)) {
                        Some(bag) => bag.push(errand),
                        None => bags.push(vec![errand]),
                    }
                }
                bags
            };
            let answers = join_all(bags.iter().map(|bag| self.carry(bag))).await;
            errands = Vec::new();
            for (bag, answer) in bags.into_iter().zip(answers) {
                let replies = self.shared.heed(answer)?;
                errands.extend(self.sort(bag, replies));
            }
            let is_early = errands.iter().any(|errand| errand.early);
            if is_early && timeout_at(self.until, sleep(ON_THEIR_WAY.mul_f64(fastrand::f64() + 0.5))).await.is_err() {
                break;
            }
        }
        Ok(self.replies)
    }

    /// Sends what goes to one node.
    async fn carry(&self, bag: &[Errand]) -> Result<Vec<Value>, Fault> {
        let mut pipeline = Pipeline::with_capacity(2 * bag.len() + 1);
        let mut wanted = Vec::with_capacity(bag.len());
        let mut count = 0;
        if let Some(script) = self.script.filter(|_| bag.iter().any(|errand| errand.load)) {
            pipeline.add_command(script.load());
            count += 1;
        }
        for errand in bag {
            if errand.asking {
                pipeline.cmd("ASKING");
                count += 1;
            }
            pipeline.add_command(self.commands[errand.place].1.clone());
            wanted.push(count);
            count += 1;
        }
        let mut replies = bag[0].node.link.call(self.lane, self.until, self.bytes, Ask::All(&pipeline)).await?;
        Ok(wanted.into_iter().map(|place| replies.get_mut(place).map_or(Value::Nil, std::mem::take)).collect())
    }

    /// Keeps what was answered, and says what has to be sent on. If that does not help, it is what was answered last.
    fn sort(&mut self, bag: Vec<Errand>, replies: Vec<Value>) -> Vec<Errand> {
        let mut onward = Vec::new();
        for (errand, reply) in bag.into_iter().zip(replies) {
            let place = errand.place;
            onward.extend(self.onward(errand, &reply));
            self.replies[place] = reply;
        }
        onward
    }

    fn onward(&self, errand: Errand, reply: &Value) -> Option<Errand> {
        let slot = self.commands[errand.place].0;
        match redirect(reply, &errand.node.address.host) {
            Some(Redirect::Moved(moved, to)) => {
                let node = (moved == slot).then(|| self.shared.moved(slot, &to))??;
                Some(Errand { node, asking: false, load: false, early: false, ..errand })
            }
            Some(Redirect::Ask(at)) => Some(Errand { node: self.shared.asked(&at)?, asking: true, load: false, early: false, ..errand }),
            // Once all of them have moved, it is sent on from there; what a request waits for does not wait for that, for a slot may take minutes.
            Some(Redirect::Again) => (self.lane == Lane::Bulk).then_some(Errand { early: true, ..errand }),
            None => {
                let is_forgotten = self.script.is_some() && Fault::of_value(reply) == Some(Fault::NoScript);
                (is_forgotten && !errand.load).then_some(Errand { load: true, early: false, ..errand })
            }
        }
    }
}

fn slots_command() -> Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    command
}

pub(super) fn nodes_command() -> Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg("NODES");
    command
}

pub(super) fn claim_of(reply: &Value) -> Option<Claim> {
    match reply {
        Value::BulkString(text) => claim(std::str::from_utf8(text).ok()?),
        Value::VerbatimString { text, .. } => claim(text),
        _ => None,
    }
}

/// What a server says of slots.
fn told(reply: Option<&Value>, asked: &str) -> Result<Owners, Fault> {
    let reply = reply.ok_or(Fault::Garbled)?;
    match Fault::of_value(reply) {
        Some(Fault::Refused("error")) => Err(Fault::Outage("not a cluster")),
        Some(fault) => Err(fault),
        None => owners(reply, asked).ok_or(Fault::Outage("CLUSTERDOWN")),
    }
}
