//! Where commands go: to the server, or to whichever primary of a Cluster has the key.
//!
//! - Keys of one slot: [`call`](Servers::call), to [`To::Key`].
//! - Keys of many slots: [`spread`](Servers::spread), which sends each server its part.
//! - What concerns whole servers (`SCAN`, `DBSIZE`): [`call`](Servers::call), to each of the [`primaries`](Servers::primaries).

use std::sync::Arc;

use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use super::{
    cluster::{Cluster, Node},
    endpoint::Place,
    fault::Fault,
    link::{Ask, Lane, Limits, Link, LinkStatus},
    names::Names,
    refusals::Refusals,
    scripts::Script,
    slots::Claim,
};

pub(super) enum Servers {
    One(Link),
    Cluster(Cluster),
}

/// Whom to ask.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    /// Whoever has the key of this name, and all others in its slot.
    Key(&'a str),
    Primary(&'a Primary),
}

/// A server that has keys.
pub(super) struct Primary(Option<(Arc<Node>, Claim)>);

/// All servers that have keys, as they were at one time.
pub(super) struct Primaries(Vec<Primary>);

impl Servers {
    pub(super) fn at(place: Place, names: &Names, limits: Limits) -> Self {
        match place {
            Place::One(endpoint) => Self::One(Link::new(*endpoint, limits)),
            Place::Cluster(seeds) => Self::Cluster(Cluster::new(seeds, names.clone(), limits)),
        }
    }

    /// Sends and waits for the replies, until the deadline. `bytes` is what goes there and back, if it may be much.
    ///
    /// Replies that refuse one operation are handed over as they are; what says something of the server is an error.
    pub(super) async fn call(&self, to: To<'_>, lane: Lane, until: Instant, bytes: usize, ask: Ask<'_>) -> Result<Vec<Value>, Fault> {
        let replies = match self {
            Self::One(link) => alone(link, lane, until, bytes, ask).await,
            Self::Cluster(cluster) => match to {
                To::Key(name) => cluster.call(name, lane, until, bytes, ask).await,
                To::Primary(primary) => match &primary.0 {
                    Some((node, _)) => alone(&node.link, lane, until, bytes, ask).await.inspect_err(|_| cluster.shared().doubt()),
                    None => Err(Fault::Spared("of another store")),
                },
            },
        }?;
        self.refusals().heed(&replies);
        Ok(replies)
    }

    fn refusals(&self) -> &Refusals {
        match self {
            Self::One(link) => link.refusals(),
            Self::Cluster(cluster) => cluster.shared().refusals(),
        }
    }

    /// Sends commands, each to whoever has the key of its name; if they are calls of a script, makes the servers know that. The replies are in the
    /// order of the commands. If one server fails, all of it has failed.
    pub(super) async fn spread(
        &self,
        lane: Lane,
        until: Instant,
        script: Option<&Script>,
        commands: Vec<(String, Cmd)>,
    ) -> Result<Vec<Value>, Fault> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let replies = match self {
            Self::One(link) => spread_alone(link, lane, until, script, commands).await,
            Self::Cluster(cluster) => cluster.spread(lane, until, script, &commands).await,
        }?;
        self.refusals().heed(&replies);
        Ok(replies)
    }

    /// All servers that have keys, as they are now.
    pub(super) async fn primaries(&self, until: Instant) -> Result<Primaries, Fault> {
        match self {
            Self::One(_) => Ok(Primaries(vec![Primary(None)])),
            Self::Cluster(cluster) => {
                let primaries = cluster.primaries(until).await?;
                Ok(Primaries(primaries.into_iter().map(|primary| Primary(Some(primary))).collect()))
            }
        }
    }

    /// Runs a task until the store is shut down or dropped.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Self::One(link) => link.spawn(task),
            Self::Cluster(cluster) => cluster.spawn(task),
        }
    }

    pub(super) fn status(&self) -> LinkStatus {
        match self {
            Self::One(link) => link.status(),
            Self::Cluster(cluster) => cluster.status(),
        }
    }

    /// Ends all tasks and connections.
    pub(super) async fn shutdown(&self) {
        match self {
            Self::One(link) => link.shutdown().await,
            Self::Cluster(cluster) => cluster.shutdown().await,
        }
    }
}

impl Primaries {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Primary> {
        self.0.iter()
    }

    /// Are there others, whatever there is now?
    pub(super) fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// Can no key have moved from one to another since?
    pub(super) fn hold_still_since(&self, before: &Self) -> bool {
        let held_still = |(now, before): (&Primary, &Primary)| match (&now.0, &before.0) {
            (Some((node, claim)), Some((same, claimed))) => Arc::ptr_eq(node, same) && claim == claimed && !claim.is_moving,
            _ => true,
        };
        self.0.len() == before.0.len() && self.0.iter().zip(&before.0).all(held_still)
    }
}

/// Asks the only server there is. If it does not know the script, it is told.
async fn alone(link: &Link, lane: Lane, until: Instant, bytes: usize, ask: Ask<'_>) -> Result<Vec<Value>, Fault> {
    let replies = link.call(lane, until, bytes, ask).await?;
    match ask {
        Ask::Script(script, _) if replies.iter().any(is_forgotten) => {
            load(link, lane, until, script).await?;
            link.call(lane, until, bytes, ask).await
        }
        _ => Ok(replies),
    }
}

async fn spread_alone(
    link: &Link,
    lane: Lane,
    until: Instant,
    script: Option<&Script>,
    commands: Vec<(String, Cmd)>,
) -> Result<Vec<Value>, Fault> {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for (_, command) in commands {
        pipeline.add_command(command);
    }
    let mut replies = link.call(lane, until, 0, Ask::All(&pipeline)).await?;
    let Some(script) = script else { return Ok(replies) };
    let forgotten: Vec<usize> = (0..replies.len()).filter(|place| is_forgotten(&replies[*place])).collect();
    if !forgotten.is_empty() {
        let mut again = Pipeline::with_capacity(1 + forgotten.len());
        again.add_command(script.load());
        for command in forgotten.iter().filter_map(|place| pipeline.cmd_iter().nth(*place)) {
            again.add_command(command.clone());
        }
        let answers = link.call(lane, until, 0, Ask::All(&again)).await?;
        for (place, answer) in forgotten.into_iter().zip(answers.into_iter().skip(1)) {
            replies[place] = answer;
        }
    }
    Ok(replies)
}

fn is_forgotten(reply: &Value) -> bool {
    Fault::of_value(reply) == Some(Fault::NoScript)
}

async fn load(link: &Link, lane: Lane, until: Instant, script: &Script) -> Result<(), Fault> {
    let replies = link.call(lane, until, 0, Ask::One(&script.load())).await?;
    replies.iter().find_map(Fault::of_value).map_or(Ok(()), Err)
}
