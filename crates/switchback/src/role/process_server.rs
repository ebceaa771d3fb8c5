//! The process server under a configuration server: routes decide whose data is taken, and where it goes.
//!
//! # Its directory
//! ```text
//! writer              who it is towards master targets: the same at every start
//! desired             the routes it was told last
//! spools/<replica>/   see the crate `switchback-spool`
//! ```
//! What is spooled for a route that has gone is forwarded yet; its directory is removed when all of it has arrived, when the target says
//! that it is superseded, or after [`RETIRED_MAX`].

mod limits;
mod prober;
mod spools;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use switchback_model::component::{Desired, ProcessServerDesired, ProcessServerState, State};
use switchback_spool::SpoolKey;

use super::{DataPort, RoleConfig, now, remember, remembered, report, runtime};
use crate::component::Channel;
use crate::engine::Stop;
use prober::Prober;
pub(crate) use spools::writer_id;
use spools::{Forwarding, Spools};

/// How long the spool of a route that has gone is kept for a target that does not take it.
pub const RETIRED_MAX: Duration = Duration::from_secs(3600);
/// How often it looks around by itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How a process server is to run.
#[derive(Debug)]
pub struct ProcessServerConfig {
    /// What all roles need.
    pub role: RoleConfig,
    /// Where it takes data.
    pub port: DataPort,
    /// Most bytes to spool for each replica.
    pub spool_bytes_max: u64,
    /// Encrypts what is spooled.
    pub key: Option<SpoolKey>,
}

/// Runs until `stop`.
///
/// # Errors
/// When it cannot begin. What happens later is reported, and tried again.
pub fn run(config: ProcessServerConfig, stop: &Stop) -> anyhow::Result<()> {
    let ProcessServerConfig { role, port, spool_bytes_max, key } = config;
    let volume = role.volume()?;
    let runtime = runtime()?;
    let forwarding = Forwarding { credentials: role.credentials.clone(), runtime: runtime.handle().clone() };
    let spools = Arc::new(Spools::new(&role.data, spool_bytes_max, key, forwarding)?);
    let mut known: ProcessServerDesired = remembered(&volume);
    spools.apply(&known);
    spools.pace(&known.bandwidth, now());
    let served = port.serve(&role, spools.clone(), &runtime, stop)?;
    tracing::info!(address = served.address, "the process server listens");
    let state = Arc::new(Mutex::new(spools.state()));
    let (shown, address, site, started) = (state.clone(), served.address.clone(), role.site.clone(), now());
    let compose = move || {
        let state = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        report(&address, &site, started, State::ProcessServer(state))
    };
    let channel = role.start_channel(runtime.handle(), Arc::new(compose))?;
    let prober = Prober::start()?;
    let (mut seen, mut confirmed) = (0, false);
    while !stop.is_stopped() {
        let (count, answer) = channel.next(seen, LOOK_EVERY);
        if count > seen {
            seen = count;
            match answer.map(|answer| answer.desired) {
                Some(Desired::ProcessServer(desired)) => {
                    let desired = desired.holding(&known);
                    if desired != known {
                        remember(&volume, &desired);
                        known = desired;
                    }
                    spools.apply(&known);
                    prober.want(&known.probes);
                    if known.hold.is_empty() && !std::mem::replace(&mut confirmed, true) {
                        spools.remove_orphans();
                    }
                }
                other => tracing::error!(
                    ?other,
                    "told to be something else than a process server; is it enrolled as what it is?"
                ),
            }
        }
        spools.pace(&known.bandwidth, now());
        spools.look_after_retired();
        publish(&state, ProcessServerState { probes: prober.found(), ..spools.state() }, &channel);
    }
    served.join(&runtime);
    Ok(())
}

/// Shows a new state; what changed in more than figures is reported at once.
fn publish(state: &Mutex<ProcessServerState>, new: ProcessServerState, channel: &Channel) {
    let key = |state: &ProcessServerState| {
        state.spools.iter().map(|spool| (spool.replica.clone(), spool.waiting.clone())).collect::<Vec<_>>()
    };
    let mut shown = state.lock().unwrap_or_else(PoisonError::into_inner);
    let differs = key(&shown) != key(&new);
    *shown = new;
    drop(shown);
    if differs {
        channel.report_now();
    }
}
